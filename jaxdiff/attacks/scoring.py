"""Membership tables: every attack on stored signals, with intervals.

Each attack scores at a timestep of its own, by one of two rules: `fixed`, the
paper's t = 100, or `other_models`, the timestep with the best AUC on models
other than the target's. A timestep picked on the target's own scores is no
attack; `timesteps.csv` lists them all for study.
"""

from collections.abc import Callable
import dataclasses
import functools

from absl import logging
import numpy as np
import pandas as pd

from jaxdiff import runs
from jaxdiff.attacks import membership, rmia
from jaxdiff.metrics import intervals, roc

# Every signal enters as it is, or as its logarithm.
TRANSFORMS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
  'none': lambda signals: signals,
  'log': np.log,
}


@dataclasses.dataclass(frozen=True)
class Attack:
  """A row of the tables.

  Attributes:
    name: of the attack; a strong one averages all draws and mirror images
      (paper, section 5.2.2), any other takes the first draw alone.
    variance: LiRA's; '-' for others.
    shadows: 'none', 'out' (offline) or 'both' (online): shadow models it needs
      beside each target, without and with the example.
    score: (signals [K, N, T], keep [K, N], left_out [K]) -> [K, N, T].
  """

  name: str
  variance: str
  shadows: str
  score: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]

  @property
  def strong(self) -> bool:
    return self.name.startswith('strong_')

  def usable(self, keep: np.ndarray, left_out: np.ndarray) -> np.ndarray:
    """Examples that have the shadow models: bool [N]."""
    if self.shadows == 'none':
      return np.ones(keep.shape[1], dtype=bool)
    return membership.enough_shadows(keep, left_out, self.shadows == 'both')


_KINDS = (
  ('threshold', '-', 'none', membership.threshold),
  *(
    ('lira', variance, 'both',
     functools.partial(membership.lira, variance=variance))
    for variance in membership.VARIANCES
  ),
  ('offline_lira', 'pooled', 'out',
   functools.partial(membership.lira, online=False)),
  ('rmia', '-', 'both', rmia.rmia),
)  # fmt: skip

ATTACKS = tuple(
  Attack(prefix + name, *rest)
  for name, *rest in _KINDS
  for prefix in ('', 'strong_')
)


@dataclasses.dataclass(frozen=True)
class MembershipPlan:
  """All that membership scoring needs; made by `build`.

  Attributes:
    keep: bool [K, N].
    left_out: int [K]; see `data.splits.left_out_together`.
    timestep: of rule `fixed`.
    transform: one of TRANSFORMS.
    variance: LiRA's variance whose scores are written out.
    num_resamples: of the intervals.
    seed: of the intervals.
  """

  keep: np.ndarray
  left_out: np.ndarray
  timestep: int
  transform: str
  variance: str
  num_resamples: int
  seed: int


def by_timestep(
  signals: np.ndarray, queries: pd.DataFrame, strong: bool
) -> tuple[np.ndarray, np.ndarray]:
  """One column a timestep: the first draw, or the mean over draws and flips.

  Args:
    signals: [K, N, Q].
    queries: table of the Q columns.
    strong: average all draws and mirror images.

  Returns:
    float32 [K, N, T] and timesteps int [T], rising.
  """
  timesteps = np.unique(queries['t'])
  columns = []
  for t in timesteps:
    at_t = queries['t'] == t
    if not strong:
      at_t &= (queries['draw'] == 0) & (queries['flip'] == 0)
    columns.append(signals[:, :, np.flatnonzero(at_t)].mean(axis=2))
  return np.stack(columns, axis=2), timesteps


def choose_on_others(
  attack: Attack,
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
) -> np.ndarray | None:
  """For each target, the column with the best AUC on the other models.

  The target's models take no part, neither as targets nor as shadows.

  Args:
    attack: of any kind.
    signals: [K, N, T], a column for each timestep.
    keep: bool [K, N].
    left_out: int [K].

  Returns:
    int [K] columns, or None if too few models remain for the attack.
  """
  column = np.zeros(len(keep), dtype=int)
  for group in np.unique(left_out):
    rest = left_out != group
    if not rest.any():
      return None
    enough = attack.usable(keep[rest], left_out[rest])
    if not enough.any():
      return None
    members = keep[rest][:, enough]
    scores = attack.score(signals[rest][:, enough], members, left_out[rest])
    aucs = [
      roc.statistics(roc.rank(scores[..., q], members), fprs=())['auc']
      for q in range(scores.shape[-1])
    ]
    column[~rest] = int(np.argmax(aucs))
  return column


def scores_at(
  attack: Attack,
  scores: np.ndarray,
  column: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
) -> np.ndarray:
  """Scores [K, N] at each target's column, on one scale for all targets.

  A likelihood ratio has its scale already. A threshold score is a loss, whose
  size depends on the timestep: where targets differ in it, scores are
  standardised by those of the *other* models' non-members at that timestep.

  Args:
    attack: that made the scores.
    scores: [K, N, T].
    column: int [K].
    keep: bool [K, N].
    left_out: int [K].
  """
  picked = np.take_along_axis(scores, column[:, None, None], axis=2)[..., 0]
  if attack.shadows != 'none' or (column == column[0]).all():
    return picked
  out = np.empty(picked.shape, np.float64)
  for model, q in enumerate(column):
    rest = left_out != left_out[model]
    others = scores[rest, :, q][~keep[rest]]
    out[model] = (picked[model] - others.mean()) / others.std()
  return out


def analyse(
  plan: MembershipPlan,
  signals: np.ndarray,
  queries: pd.DataFrame,
  run: runs.Run,
) -> None:
  """Scores stored signals; writes scores, summary, roc and timesteps.

  Args:
    plan: what to score and how.
    signals: float32 [K, N, Q].
    queries: table of the Q columns.
    run: where to write.
  """
  tables = {'scores': [], 'summary': [], 'roc': [], 'timesteps': []}
  for attack in ATTACKS:
    used = attack.usable(plan.keep, plan.left_out)
    if not used.all():
      logging.warning(
        '%s (%s): %d of %d examples have too few shadow models and are left '
        'out; train more models (num_models)',
        attack.name, attack.variance, (~used).sum(), len(used),
      )  # fmt: skip
    if not used.any():
      continue
    columns, timesteps = by_timestep(signals[:, used], queries, attack.strong)
    for name, table in _tables_of(
      plan,
      attack,
      TRANSFORMS[plan.transform](columns),
      timesteps,
      np.flatnonzero(used),
    ).items():
      tables[name].append(table)
  for name, path in (
    ('scores', run.membership_scores),
    ('summary', run.membership_summary),
    ('roc', run.membership_roc),
    ('timesteps', run.membership_timesteps),
  ):
    runs.write_csv(path, pd.concat(tables[name], ignore_index=True))


def _tables_of(
  plan: MembershipPlan,
  attack: Attack,
  signals: np.ndarray,
  timesteps: np.ndarray,
  examples: np.ndarray,
) -> dict[str, pd.DataFrame]:
  """The rows of one attack: signals [K, n, T] of n examples."""
  keep, left_out = plan.keep[:, examples], plan.left_out
  number = np.broadcast_to(examples, keep.shape)
  scores = attack.score(signals, keep, left_out)
  name = {'attack': attack.name, 'variance': attack.variance}

  timestep_rows = []
  for q, t in enumerate(timesteps):
    metrics = roc.statistics(roc.rank(scores[..., q], keep))
    timestep_rows += [
      {**name, 't': t, 'metric': metric, 'value': value}
      for metric, value in metrics.items()
    ]

  fixed = np.flatnonzero(timesteps == plan.timestep)[0]
  rules = {'fixed': np.full(len(keep), fixed)}
  chosen = choose_on_others(attack, signals, keep, left_out)
  if chosen is not None:
    rules['other_models'] = chosen
  summary_rows, roc_tables, score_tables = [], [], []
  for rule, column in rules.items():
    picked = scores_at(attack, scores, column, keep, left_out)
    common = {**name, 'timestep_rule': rule}
    metrics = intervals.cluster_bootstrap_roc(
      picked, keep, number, num_resamples=plan.num_resamples, seed=plan.seed
    )
    used = '/'.join(str(t) for t in np.unique(timesteps[column]))
    summary_rows += [
      {
        **common, 't': used, 'metric': metric, 'value': value, 'low': low,
        'high': high, 'num_models': len(keep), 'num_examples': len(examples),
      }
      for metric, (value, low, high) in metrics.items()
    ]  # fmt: skip
    fpr, tpr, cut = roc.curve(roc.rank(picked, keep))
    roc_tables.append(
      pd.DataFrame({**common, 'fpr': fpr, 'tpr': tpr, 'threshold': cut})
    )
    if attack.variance in ('-', plan.variance):
      table = {
        **common,
        'model': np.repeat(np.arange(len(keep)), len(examples)),
        't': np.repeat(timesteps[column], len(examples)),
        'index': number.ravel(),
        'member': keep.ravel().astype(int),
        'score': picked.ravel(),
      }
      score_tables.append(pd.DataFrame(table))
  out = {
    'summary': pd.DataFrame(summary_rows),
    'timesteps': pd.DataFrame(timestep_rows),
    'roc': pd.concat(roc_tables, ignore_index=True),
  }
  if score_tables:
    out['scores'] = pd.concat(score_tables, ignore_index=True)
  return out
