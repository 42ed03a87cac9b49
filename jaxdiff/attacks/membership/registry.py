"""Every membership attack, by name: what it asks, what it needs, how it scores.

`strong_` averages all draws and mirror images of the loss (paper, 5.2.2), and
`summed_lira` adds up their log-likelihood ratios instead; without a prefix the
first draw alone is used. An attack named after a signal (`signals`) is its
threshold, as published; with `_lira`, LiRA on that signal.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import gsa, lira, quantile, rmia
from jaxdiff.attacks.membership import signals as signals_lib
from jaxdiff.attacks.membership.signals import base as signal_base
from jaxdiff.data import examples as examples_lib
from jaxdiff.metrics import roc
from jaxdiff.runtime import programs

# score(signals [K, N, C], keep [K, N], left_out [K]) -> [K, N, C'].
ScoreFn = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Attack:
  """A row of the tables.

  Attributes:
    name: of the attack.
    variance: LiRA's; '-' for others.
    shadows: 'none', 'out' (offline) or 'both' (online): shadow models it needs
      beside each target, without and with the example.
    score: C columns into as many, or into one.
    signal: that it reads.
    draws: 'first', 'mean' of all, or 'each': scored one by one and added.
    at: 'all' timesteps, or the 'fixed' one alone, where scoring is dear.
    learned: from other models, which learn from this one in their turn.
  """

  name: str
  variance: str
  shadows: str
  score: ScoreFn
  signal: str = 'loss'
  draws: str = 'first'
  at: str = 'all'
  learned: bool = False

  def usable(self, keep: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Targets and examples that have the shadow models: bool [K, N]."""
    if self.shadows == 'none':
      return np.ones(keep.shape, dtype=bool)
    return lira.enough_shadows(keep, left_out, self.shadows == 'both')

  def columns(self, queries: pd.DataFrame, t: int) -> np.ndarray:
    """Which columns of the signals it reads at a timestep."""
    mine = (queries['name'] == self.signal) & (queries['t'] == t)
    if self.draws == 'first':
      mine &= (queries['draw'] == 0) & (queries['flip'] == 0)
    return np.flatnonzero(mine)

  def read(
    self, signals: np.ndarray, queries: pd.DataFrame, fixed: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """What it scores, and where.

    Args:
      signals: [K, N, Q].
      queries: table of the Q columns.
      fixed: the timestep of attacks that are scored at one.

    Returns:
      [K, N, T, C], C columns at each of T timesteps; timesteps int [T], rising.
    """
    timesteps = np.unique(queries['t'][queries['name'] == self.signal])
    if self.at == 'fixed':
      timesteps = np.array([fixed])
    parts = [signals[:, :, self.columns(queries, t)] for t in timesteps]
    read = np.stack(parts, axis=2)
    if self.draws == 'mean':
      read = read.mean(axis=3, keepdims=True)
    return read, timesteps

  def grid(
    self, read: np.ndarray, keep: np.ndarray, left_out: np.ndarray
  ) -> np.ndarray:
    """Scores at every timestep: [K, N, T, C] -> [K, N, T]."""
    shape = read.shape[:3]
    scores = self.score(read.reshape(*shape[:2], -1), keep, left_out)
    return scores.reshape(*shape, -1).sum(axis=3)

  def shadow_models(self, left_out: np.ndarray) -> int:
    """How many it trains beside a target, in this run."""
    if self.shadows == 'none':
      return 0
    _, sizes = np.unique(left_out, return_counts=True)
    return len(left_out) - int(sizes.max())


def _lira(variance: str = 'pooled', online: bool = True) -> ScoreFn:
  return functools.partial(lira.lira, variance=variance, online=online)


_OFFLINE_RMIA = functools.partial(rmia.rmia, online=False)

# As (name, variance, shadows, score), each plain and strong.
_ON_LOSSES: tuple[tuple[str, str, str, ScoreFn], ...] = (
  ('threshold', '-', 'none', lira.threshold),
  *(('lira', name, 'both', _lira(name)) for name in lira.VARIANCES),
  ('offline_lira', 'pooled', 'out', _lira(online=False)),
  ('rmia', '-', 'both', rmia.rmia),
)


def fields(
  chosen: Sequence[Attack], examples: examples_lib.Examples
) -> tuple[str, ...]:
  """Names of the numbers that reports give of some attacks.

  Of those alone that there are the models for.
  """
  chosen = [attack for attack in chosen if scored(attack, examples)]
  rates = [f'tpr@fpr={x:g}' for x in roc.FPRS]
  names = [a.name for a in chosen if a.variance in ('-', 'pooled')]
  return tuple(f'{name}.{x}' for name in names for x in ('auc', *rates))


def on_signal(
  signal: str, variances: Sequence[str] = ('pooled',)
) -> tuple[Attack, ...]:
  """Threshold, LiRA and RMIA on one signal, which is smaller for members.

  Without "in" models, offline LiRA and RMIA alone are left of the calibrated.

  Args:
    signal: its name in the table of queries.
    variances: of LiRA.
  """
  return (
    Attack('threshold', '-', 'none', lira.threshold, signal),
    *(Attack('lira', v, 'both', _lira(v), signal) for v in variances),
    Attack('offline_lira', 'pooled', 'out', _lira(online=False), signal),
    Attack('rmia', '-', 'both', rmia.rmia, signal),
    Attack('offline_rmia', '-', 'out', _OFFLINE_RMIA, signal),
  )


def programs_of(
  chosen: Sequence[Attack],
  queries: pd.DataFrame,
  examples: examples_lib.Examples,
  fixed: int,
  devices: Sequence[jax.Device],
) -> list[programs.Program]:
  """What the first process compiles to score signals.

  Args:
    chosen: the attacks.
    queries: table of the signals' columns.
    examples: which models trained on which.
    fixed: the timestep of attacks that are scored at one.
    devices: of that process.
  """
  makers: dict[Any, Callable[..., programs.Program]] = {
    lira.lira: lira.program,
    rmia.rmia: rmia.program,
  }
  blank = np.zeros((1, 1, len(queries)), np.float32)
  asked: dict[tuple, list[Attack]] = {}
  for attack in chosen:
    function = getattr(attack.score, 'func', attack.score)
    options = getattr(attack.score, 'keywords', {})
    if function in makers and scored(attack, examples):
      width = attack.read(blank, queries, fixed)[0].size
      same = (function, tuple(sorted(options.items())), width)
      asked.setdefault(same, []).append(attack)
  left_out, out = examples.left_out, []
  groups = np.unique(left_out)
  for (function, options, width), attacks_of in asked.items():
    name = f'{attacks_of[0].name} ({attacks_of[0].variance}), {width} columns'
    several = sum(len(np.unique(attack.read(blank, queries, fixed)[1])) > 1
                  for attack in attacks_of)  # fmt: skip
    rest = left_out[left_out != groups[0]]
    shapes = [(name, left_out, len(attacks_of))]
    if several and examples.attacked.all() and len(rest):
      # A timestep for each target is chosen on the other models.
      shapes.append((f'{name}, of others', rest, several * len(groups)))
    for called, models, calls in shapes:
      pieces = lira.column_pieces((len(models), len(examples), width))
      out.append(
        makers[function](
          called, models, len(examples), pieces[0].stop, devices,
          calls * len(pieces), **dict(options),
        )
      )  # fmt: skip
  return out


def scored(attack: Attack, examples: examples_lib.Examples) -> bool:
  """Whether there are the models that an attack needs, and both sides."""
  usable = examples.attacked[:, None] & attack.usable(
    examples.keep, examples.left_out
  )
  return len(np.unique(examples.keep[usable])) == 2


def attacks(
  queries: pd.DataFrame,
  images: np.ndarray,
  group: np.ndarray,
  references: bool = False,
) -> tuple[Attack, ...]:
  """The attacks that signals allow.

  With the loss alone, threshold, LiRA and RMIA; where other signals were
  measured (`signals.kinds`), these and quantile regression too; of GANs, which
  have no loss of an image, threshold, LiRA and RMIA on their discriminator's.

  Args:
    queries: table of the signals' columns.
    images: uint8 [N, H, W, C], for quantile regression.
    group: int [N], likewise.
    references: models are told from references that saw none of the examples:
      offline RMIA too.
  """
  plain_and_strong = (('', 'first'), ('strong_', 'mean'))
  measured = set(queries['name'])
  out: list[Attack] = []
  if 'loss' in measured:
    out += [
      Attack(prefix + name, variance, shadows, score, draws=draws)
      for name, variance, shadows, score in _ON_LOSSES
      for prefix, draws in plain_and_strong
    ]
  if references:
    out += [
      Attack(f'{prefix}offline_rmia', '-', 'out', _OFFLINE_RMIA, draws=draws)
      for prefix, draws in plain_and_strong
    ]
  if measured == {'loss'}:
    return tuple(out)
  if 'loss' in measured:
    out.append(Attack('summed_lira', 'pooled', 'both', _lira(), draws='each'))
    regress = functools.partial(quantile.quantile, images=images, group=group)
    out += [
      Attack(prefix + 'quantile', '-', 'none', regress, draws=draws, at='fixed')
      for prefix, draws in plain_and_strong
    ]
  for name, signal in signals_lib.SIGNALS.items():
    if name not in measured or name == 'loss':
      continue
    if signal.learned:
      score = gsa.gradient_classifier
      out.append(Attack(name, '-', 'both', score, signal=name, learned=True))
    else:
      alone = signal.score or lira.threshold
      out.append(Attack(name, '-', 'none', alone, signal=name))
      out.append(Attack(f'{name}_lira', 'pooled', 'both', _lira(), signal=name))
      if signal.of == signal_base.DISCRIMINATOR:
        out.append(Attack(f'{name}_rmia', '-', 'both', rmia.rmia, signal=name))
  return tuple(out)
