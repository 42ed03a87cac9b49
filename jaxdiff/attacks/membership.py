"""Membership inference from stored signals: loss threshold and LiRA.

(1)  threshold (Yeom et al. 2018):  score = -signal
(2)  LiRA (Carlini et al. 2022):    score = log N(s; mu_in, var_in)
                                          - log N(s; mu_out, var_out)

mu and var are over shadow models trained with ("in") and without ("out") the
example. Every model is the target in turn; it and the models left out with it
(its mate on the complementary half) are no shadows of its own. With few
shadows a variance per example is hopeless: 'pooled' keeps a mean per example
and pools the variance over examples (LiRA, section VI-B).

Larger scores mean "more likely a member" everywhere.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import NamedTuple

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff import runs
from jaxdiff.metrics import intervals, roc

VARIANCES = ('pooled', 'per_example')
# In tables, of attacks that have none.
NO_VARIANCE = '-'
# Models that must remain on each side: a variance needs two.
MIN_SIDE = 2

# attack(signals [K, N, Q], keep [K, N], left_out [K]) -> scores [K, N, Q].
Attack = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def threshold(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
  """Loss threshold, equation (1); needs no shadow models."""
  del keep, left_out
  return -signals


def side_counts(
  keep: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Shadow models with and without each example, int [G, N] each.

  G numbers the sets of models that are left out together.
  """
  groups = np.unique(left_out)
  inside = np.stack([keep[left_out != g].sum(axis=0) for g in groups])
  total = np.array([(left_out != g).sum() for g in groups])
  return inside, total[:, None] - inside


def enough_shadows(keep: np.ndarray, left_out: np.ndarray) -> bool:
  """True when every target keeps two models on each side of each example."""
  return min(side.min() for side in side_counts(keep, left_out)) >= MIN_SIDE


def lira(
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  *,
  variance: str = 'pooled',
) -> np.ndarray:
  """Online LiRA, equation (2), for all models as targets at once.

  Args:
    signals: float32 [K, N, Q], any scale.
    keep: bool [K, N]: model k trained on example n.
    left_out: int [K]: models with the number of the target are no shadows.
    variance: one of VARIANCES.

  Returns:
    float32 [K, N, Q].

  Raises:
    ValueError: if an example has fewer than two shadow models on a side, or
      for an unknown variance.
  """
  if variance not in VARIANCES:
    raise ValueError(
      f'membership.variance: no {variance!r}; there is {", ".join(VARIANCES)}'
    )
  short = np.zeros(keep.shape[1], dtype=bool)
  for side in side_counts(keep, left_out):
    short |= (side < MIN_SIDE).any(axis=0)
  if short.any():
    first = np.flatnonzero(short)[:5].tolist()
    raise ValueError(
      f'LiRA needs {MIN_SIDE} models in and {MIN_SIDE} out beside each target; '
      f'{short.sum()} of {len(short)} examples have fewer (first: {first}): '
      'train more models (num_models)'
    )
  groups, number = np.unique(left_out, return_inverse=True)
  return np.asarray(
    _lira(
      jnp.asarray(signals, jnp.float32),
      jnp.asarray(keep),
      jnp.asarray(number),
      num_groups=len(groups),
      pooled=variance == 'pooled',
    )
  )


class _Moments(NamedTuple):
  """Count, mean and scatter (sum of squared deviations) of some models."""

  count: jax.Array
  mean: jax.Array
  scatter: jax.Array


def _merge(a: _Moments, b: _Moments) -> _Moments:
  """Chan et al. (1979): moments of a union, without cancellation."""
  count = a.count + b.count
  share = b.count / jnp.maximum(count, 1.0)
  delta = b.mean - a.mean
  return _Moments(
    count,
    a.mean + delta * share,
    a.scatter + b.scatter + jnp.square(delta) * a.count * share,
  )


@functools.partial(jax.jit, static_argnames=('num_groups', 'pooled'))
def _lira(
  signals: jax.Array,
  keep: jax.Array,
  group: jax.Array,
  *,
  num_groups: int,
  pooled: bool,
) -> jax.Array:
  """Moments of the models before and after each group, merged: O(K N Q).

  Subtracting a group from the total would be as cheap and lose the variance
  of the few models that remain in the rounding of the many.
  """
  # What float32 signals can tell apart at all: the floor of a deviation.
  resolution = jnp.finfo(jnp.float32).eps * jnp.abs(signals).max(
    axis=0, keepdims=True
  )
  floor = jnp.maximum(jnp.square(resolution), jnp.finfo(jnp.float32).tiny)

  def log_likelihood(mask: jax.Array) -> jax.Array:
    weight = mask.astype(jnp.float32)[:, :, None]
    centre = (signals * weight).sum(0, keepdims=True) / weight.sum(
      0, keepdims=True
    )
    x = signals - centre
    count = jax.ops.segment_sum(weight, group, num_groups)
    mean = jax.ops.segment_sum(x * weight, group, num_groups)
    mean = mean / jnp.maximum(count, 1.0)
    scatter = jax.ops.segment_sum(
      weight * jnp.square(x - mean[group]), group, num_groups
    )
    count = jnp.broadcast_to(count, mean.shape)
    own = _Moments(count, mean, scatter)
    nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), own)

    def before(carry: _Moments, one: _Moments) -> tuple[_Moments, _Moments]:
      return _merge(carry, one), carry

    earlier = jax.lax.scan(before, nothing, own)[1]
    later = jax.lax.scan(before, nothing, own, reverse=True)[1]
    others = _merge(earlier, later)
    scatter, free = others.scatter, others.count - 1.0
    if pooled:
      scatter = scatter.sum(axis=1, keepdims=True)
      free = free.sum(axis=1, keepdims=True)
    var = jnp.maximum((scatter / free)[group], floor)
    error = jnp.square(x - others.mean[group])
    return -0.5 * (error / var + jnp.log(var))

  return log_likelihood(keep) - log_likelihood(~keep)


def choose_on_others(
  attack: Attack,
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
) -> np.ndarray | None:
  """For each target, the column with the best AUC on the *other* models.

  A column picked on the target's own scores would be no attack. Here the
  target's models take no part, neither as targets nor as shadows.

  Args:
    attack: of any kind.
    signals: [K, N, T], a column for each timestep.
    keep: bool [K, N].
    left_out: int [K].

  Returns:
    int [K] columns, or None if the attack needs more models than remain.
  """
  column = np.zeros(len(keep), dtype=int)
  for group in np.unique(left_out):
    rest = left_out != group
    if len(np.unique(left_out[rest])) < 1:
      return None
    if attack is not threshold and not enough_shadows(
      keep[rest], left_out[rest]
    ):
      return None
    scores = attack(signals[rest], keep[rest], left_out[rest])
    aucs = [
      roc.statistics(roc.rank(scores[..., q], keep[rest]), fprs=())['auc'][0]
      for q in range(scores.shape[-1])
    ]
    column[left_out == group] = int(np.argmax(aucs))
  return column


@dataclasses.dataclass(frozen=True)
class MembershipPlan:
  """All that membership scoring needs; made by `build`.

  Attributes:
    keep: bool [K, N].
    left_out: int [K]; see `data.splits.left_out_together`.
    timestep: the fixed one, reported beside the one chosen on other models.
    transform: 'none', or 'log' to score log-losses.
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
    strong: average all draws and mirror images (Strong LiRA, section 5.2.2).

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


TRANSFORMS = {'none': lambda signals: signals, 'log': np.log}


def attacks_of(plan: MembershipPlan) -> list[tuple[str, str, bool, Attack]]:
  """(attack, variance, strong, function) of every row of the tables."""
  rows = [
    ('threshold', NO_VARIANCE, False, threshold),
    ('strong_threshold', NO_VARIANCE, True, threshold),
  ]
  for variance in VARIANCES:
    attack = functools.partial(lira, variance=variance)
    rows.append(('lira', variance, False, attack))
    rows.append(('strong_lira', variance, True, attack))
  return rows


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
  keep = plan.keep
  examples = np.broadcast_to(np.arange(keep.shape[1]), keep.shape)
  summary, roc_tables, score_tables, timestep_rows = [], [], [], []
  for name, variance, strong, attack in attacks_of(plan):
    if attack is not threshold and not enough_shadows(keep, plan.left_out):
      logging.warning(
        '%s needs more models (num_models): skipped with %d', name, len(keep)
      )
      continue
    columns, timesteps = by_timestep(signals, queries, strong)
    columns = TRANSFORMS[plan.transform](columns)
    scores = attack(columns, keep, plan.left_out)
    common = {'attack': name, 'variance': variance}
    for q, t in enumerate(timesteps):
      figures = roc.statistics(roc.rank(scores[..., q], keep))
      timestep_rows += [
        {**common, 't': t, 'metric': metric, 'value': value[0]}
        for metric, value in figures.items()
      ]
    rules = {
      'fixed': np.full(len(keep), np.flatnonzero(timesteps == plan.timestep)[0])
    }
    chosen = choose_on_others(attack, columns, keep, plan.left_out)
    if chosen is not None:
      rules['other models'] = chosen
    for rule, column in rules.items():
      picked = np.take_along_axis(scores, column[:, None, None], axis=2)[..., 0]
      used = '/'.join(str(t) for t in np.unique(timesteps[column]))
      figures = intervals.cluster_bootstrap_roc(
        picked, keep, examples,
        num_resamples=plan.num_resamples, seed=plan.seed,
      )  # fmt: skip
      summary += [
        {
          **common, 'timestep_rule': rule, 't': used, 'metric': metric,
          'value': value, 'low': low, 'high': high,
          'num_models': keep.shape[0], 'num_examples': keep.shape[1],
        }
        for metric, (value, low, high) in figures.items()
      ]  # fmt: skip
    # Curves and scores of one rule: the chosen timestep where there is one.
    fpr, tpr, cut = roc.curve(roc.rank(picked, keep))
    roc_tables.append(
      pd.DataFrame({**common, 'fpr': fpr, 'tpr': tpr, 'threshold': cut})
    )
    if variance in (NO_VARIANCE, plan.variance):
      score_tables.append(
        pd.DataFrame(
          {
            'attack': name,
            'model': np.repeat(np.arange(keep.shape[0]), keep.shape[1]),
            'index': examples.ravel(),
            'member': keep.ravel().astype(int),
            'score': picked.ravel(),
          }
        )
      )
  runs.write_csv(run.membership_summary, pd.DataFrame(summary))
  runs.write_csv(run.membership_timesteps, pd.DataFrame(timestep_rows))
  runs.write_csv(run.membership_roc, pd.concat(roc_tables, ignore_index=True))
  runs.write_csv(
    run.membership_scores, pd.concat(score_tables, ignore_index=True)
  )
