"""Membership inference by likelihood ratios to a population: RMIA.

(1)  score = share of z with LR(x) >= gamma LR(z),
     LR(x) = P(x | target) / P(x),  P(. | model) = exp(-signal),
     P(x) = half the sum of the means over "in" and over "out" models

(Zarifzadeh et al. 2024.) O(K N log N Q) in time; targets and what is left out
with them as in `membership`.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.attacks import membership


def rmia(
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  *,
  gamma: float = 1.0,
  online: bool = True,
  offline_a: float = 0.3,
) -> np.ndarray:
  """RMIA, equation (1), for all models as targets at once.

  The population z is every other example of the run; whether it was trained
  on plays no part.

  Args:
    signals: float32 [K, N, Q], losses.
    keep: bool [K, N]: model k trained on example n.
    left_out: int [K]: models with the number of the target are no references.
    gamma: how many times likelier x must be made than z.
    online: use "in" models too; offline P(x) = ((1 + a) P_out + 1 - a) / 2.
    offline_a: a of the offline P(x).

  Returns:
    float32 [K, N, Q] in [0, 1].

  Raises:
    ValueError: as `membership.lira`.
  """
  membership.check_shadows(keep, left_out, online)
  return np.asarray(
    _rmia(
      jnp.asarray(signals, jnp.float32),
      jnp.asarray(keep),
      *membership.grouped(left_out),
      gamma=gamma,
      online=online,
      offline_a=offline_a,
    )
  )


@functools.partial(jax.jit, static_argnames=('gamma', 'online', 'offline_a'))
def _rmia(
  signals: jax.Array,
  keep: jax.Array,
  model: jax.Array,
  present: jax.Array,
  place: jax.Array,
  *,
  gamma: float,
  online: bool,
  offline_a: float,
) -> jax.Array:
  # Offline P(x) mixes in a 1 that knows no other scale than the loss's own.
  lowest = signals.min(axis=0, keepdims=True) if online else 0.0
  log_p = (lowest - signals)[model]
  probability = jnp.exp(log_p)

  def mean_of_others(side: jax.Array) -> jax.Array:
    weight = (side[model] & present[:, :, None]).astype(jnp.float32)[..., None]
    return _sum_of_others((probability * weight).sum(axis=1)) / _sum_of_others(
      weight.sum(axis=1)
    )

  out = mean_of_others(~keep)
  if online:
    marginal = 0.5 * (mean_of_others(keep) + out)
  else:
    marginal = 0.5 * ((1.0 + offline_a) * out + 1.0 - offline_a)
  ratio = log_p - jnp.log(marginal)[:, None]

  def share(one: jax.Array) -> jax.Array:
    """Share of the others below each: [N] -> [N]."""
    at_least = one - jnp.log(gamma)
    beaten = jnp.searchsorted(
      jnp.sort(one), at_least, side='right', method='sort'
    )
    itself = (at_least >= one).astype(beaten.dtype)
    return (beaten - itself).astype(jnp.float32) / (one.shape[0] - 1)

  each_column = jax.vmap(share, in_axes=1, out_axes=1)
  ratio = ratio.reshape(-1, *signals.shape[1:])[place]
  return jax.lax.map(each_column, ratio)


def _sum_of_others(own: jax.Array) -> jax.Array:
  """Sums over the groups but one, without subtracting: [G, N, Q]."""
  nothing = jnp.zeros_like(own[:1])
  earlier = jnp.cumsum(jnp.concatenate([nothing, own[:-1]]), axis=0)
  later = jnp.cumsum(jnp.concatenate([nothing, own[:0:-1]]), axis=0)[::-1]
  return earlier + later
