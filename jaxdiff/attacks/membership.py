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

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

VARIANCES = ('pooled', 'per_example')
# Models that must remain on each side: a variance needs two.
MIN_SIDE = 2


def threshold(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
  """Loss threshold, equation (1), in the form of `lira`; no shadow models."""
  del keep, left_out
  return -signals


def enough_shadows(keep: np.ndarray, left_out: np.ndarray) -> np.ndarray:
  """Examples with two shadow models on each side, whoever is the target.

  Args:
    keep: bool [K, N].
    left_out: int [K].

  Returns:
    bool [N].
  """
  enough = np.ones(keep.shape[1], dtype=bool)
  for group in np.unique(left_out):
    inside = keep[left_out != group].sum(axis=0)
    outside = (left_out != group).sum() - inside
    enough &= np.minimum(inside, outside) >= MIN_SIDE
  return enough


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
  short = ~enough_shadows(keep, left_out)
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
