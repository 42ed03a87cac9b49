"""What membership depends on, from stored signals alone.

* draws: AUC against the noise draws averaged (paper, 5.2.2);
* shadow models: LiRA's AUC against how many models the run has;
* outliers: the images farthest from all others against the nearest (paper,
  section 7), by RMSE to the nearest neighbour;
* easiest and hardest images: mean score as a member less mean score as a
  non-member, over models.
"""

from typing import Protocol

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import registry
from jaxdiff.data import examples as examples_lib
from jaxdiff.metrics import bootstrap
from jaxdiff.nearest import index

COLUMNS = ('study', 'setting', 'attack', 'metric', 'value', 'low', 'high',
           'num_models', 'num_examples')  # fmt: skip
# The share of outliers, and of inliers; at least so many of each.
_TAIL, _FEWEST = 0.1, 20
# Images in each gallery.
_EXTREMES = 12


class Plan(Protocol):
  """What the studies read of a `evaluate.MembershipPlan`."""

  @property
  def examples(self) -> examples_lib.Examples: ...

  @property
  def timestep(self) -> int: ...

  @property
  def num_resamples(self) -> int: ...

  @property
  def seed(self) -> int: ...


def _studied(queries: pd.DataFrame) -> tuple[str, str]:
  """A threshold and a likelihood ratio, those that need the least said."""
  measured = set(queries['name'])
  if 'loss' in measured:
    return 'strong_threshold', 'strong_lira'
  # Of a discriminator's, that which is the same scale for all models.
  name = 'relativistic' if 'relativistic' in measured else 'discriminator'
  return name, f'{name}_lira'


def _attack(plan: Plan, queries: pd.DataFrame, name: str):
  """Of the registry, with the pooled variance."""
  return next(
    attack
    for attack in registry.attacks(
      queries, plan.examples.images, plan.examples.group
    )
    if attack.name == name and attack.variance in ('-', 'pooled')
  )


def _scores(plan: Plan, signals, queries, attack, models=None):
  """At the fixed timestep: scores, keep and usable [k, N]; None without any."""
  models = np.arange(len(plan.examples.keep)) if models is None else models
  keep, left_out = plan.examples.keep[models], plan.examples.left_out[models]
  usable = attack.usable(keep, left_out)
  if len(np.unique(keep[usable])) < 2:
    return None
  read, timesteps = attack.read(signals[models], queries, plan.timestep)
  place = np.flatnonzero(timesteps == plan.timestep)
  scores = attack.grid(read[:, :, place], keep, left_out)
  return scores[..., 0], keep, usable


def _rows(plan: Plan, study: str, setting, attack, found, chosen=None):
  """Statistics of scores, or of some examples, as rows of the table."""
  scores, keep, usable = found
  if chosen is not None:
    usable = usable & np.isin(np.arange(keep.shape[1]), chosen)
  model, number = np.nonzero(usable)
  if len(np.unique(keep[usable])) < 2:
    return []
  metrics = bootstrap.cluster_bootstrap_roc(
    scores[usable], keep[usable], plan.examples.group[number],
    num_resamples=plan.num_resamples, seed=plan.seed,
  )  # fmt: skip
  return [
    (study, str(setting), attack.name, metric, *numbers,
     len(np.unique(model)), len(np.unique(number)))
    for metric, numbers in metrics.items()
  ]  # fmt: skip


def table(
  plan: Plan, signals: np.ndarray, queries: pd.DataFrame
) -> pd.DataFrame:
  """All studies that the run has models and draws for."""
  rows = []
  names = _studied(queries)
  for name in names if 'loss' in set(queries['name']) else ():
    attack = _attack(plan, queries, name)
    for draws in _doubling(1, int(queries['draw'].max()) + 1):
      some = queries[(queries['name'] != 'loss') | (queries['draw'] < draws)]
      found = _scores(
        plan, signals[:, :, some.index], some.reset_index(drop=True), attack
      )
      if found:
        rows += _rows(plan, 'draws', draws, attack, found)
  attack = _attack(plan, queries, names[1])
  step = 2 if plan.examples.paired else 1
  # Of a pair, both or neither.
  for number in sorted(
    {n - n % step for n in _doubling(6, len(plan.examples.keep))}
  ):
    found = _scores(plan, signals, queries, attack, np.arange(number))
    if found:
      rows += _rows(plan, 'models', number, attack, found)
  tails = outliers(plan.examples.images)
  for name in names:
    attack = _attack(plan, queries, name)
    found = _scores(plan, signals, queries, attack)
    for setting, chosen in tails.items() if found else ():
      rows += _rows(plan, 'outliers', setting, attack, found, chosen)
  return pd.DataFrame(rows, columns=COLUMNS)


def _doubling(first: int, last: int) -> list[int]:
  """first, twice that, ..., and last; nothing if last is less."""
  numbers = []
  while first < last:
    numbers.append(first)
    first *= 2
  return [*numbers, last] if numbers or first == last else []


def outliers(images: np.ndarray) -> dict[str, np.ndarray]:
  """The images farthest from their nearest neighbour, and the nearest."""
  near, _ = index.nearest(images, images, 2)
  order = np.argsort(near[:, 1], kind='stable')
  count = min(max(int(_TAIL * len(images)), _FEWEST), len(images) // 2)
  return {'outliers': order[-count:], 'inliers': order[:count]}


def extremes(queries: pd.DataFrame, scores: pd.DataFrame) -> pd.DataFrame:
  """The images that membership is easiest and hardest to tell of.

  Args:
    queries: table of the signals' columns.
    scores: table of all attacks' scores.

  Returns:
    Columns kind, rank, index, margin, attack.
  """
  for name in reversed(_studied(queries)):
    of_attack = scores[
      (scores['attack'] == name) & (scores['timestep_rule'] == 'fixed')
    ]
    if len(of_attack):
      break
  means = of_attack.pivot_table(index='index', columns='member', values='score')
  margin = (means[1] - means[0]).dropna().sort_values(kind='stable')
  count = min(_EXTREMES, len(margin) // 2)
  parts = []
  for kind, part in (
    ('easiest', margin[::-1][:count]), ('hardest', margin[:count]),
  ):  # fmt: skip
    parts.append(
      pd.DataFrame(
        {
          'kind': kind, 'rank': np.arange(len(part)), 'index': part.index,
          'margin': part.to_numpy(), 'attack': name,
        }
      )
    )  # fmt: skip
  return pd.concat(parts, ignore_index=True)
