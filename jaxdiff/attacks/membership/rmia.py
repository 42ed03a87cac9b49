"""Membership inference by likelihood ratios to a population: RMIA.

(1)  score = share of z with LR(x) >= gamma LR(z),
     LR(x) = P(x | target) / P(x),  P(. | model) = exp(-signal),
     P(x) = half the sum of the means over "in" and over "out" models

(Zarifzadeh et al. 2024.) O(K N log N Q) in time; targets and what is left out
with them as in `membership`.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.attacks.membership import lira
from jaxdiff.metrics import roc
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import programs


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
    float64 [K, N, Q] in [0, 1]; NaN where there are too few references, which
    are no part of the population either. A ratio that falls short of another
    by less than `roc.widths` beats it in part.

  Raises:
    ValueError: as `lira.lira`.
  """
  usable = lira.check_shadows(keep, left_out, online)
  scores = np.full(signals.shape, np.nan)
  for columns in lira.column_pieces(signals.shape):
    ratio = _log_ratios(
      jnp.asarray(signals[..., columns], jnp.float32),
      jnp.asarray(keep),
      *lira.grouped(left_out),
      online=online,
      offline_a=offline_a,
    )
    ratio = np.asarray(ratio, np.float64)
    for model, column in np.ndindex(ratio.shape[0], ratio.shape[2]):
      scored, place = usable[model], columns.start + column
      if scored.sum() == 1:
        scores[model, scored, place] = 0.5  # nobody to be compared with
      elif scored.any():
        scores[model, scored, place] = _share_beaten(
          ratio[model, scored, column], np.log(gamma)
        )
  return scores


def program(
  name: str,
  left_out: np.ndarray,
  num_examples: int,
  num_columns: int,
  devices: Sequence[jax.Device],
  calls: float,
  *,
  online: bool = True,
  offline_a: float = 0.3,
) -> programs.Program:
  """What `rmia` compiles, as `lira.program`; on one device."""
  mesh = mesh_lib.make(1, list(devices)[:1])
  args = lira.abstract_args(
    mesh, mesh_lib.REPLICATED, left_out, num_examples, num_columns
  )
  options = {'online': online, 'offline_a': offline_a}
  return programs.Program(name, _log_ratios, args, calls, options)


def _share_beaten(ratio: np.ndarray, log_gamma: float) -> np.ndarray:
  """Share of the others that each is at least gamma times as likely as: [N].

  A step from 0 to 1 would let the last bit of a loss decide; it is a ramp that
  ends where they are equal.
  """
  order = np.sort(ratio)
  cuts = ratio - log_gamma
  width = roc.widths(order, cuts)
  # Where there is no ramp, a step that equal ones are beaten by.
  foot = np.where(width > 0.0, cuts + width, np.nextafter(cuts, np.inf))
  beaten = roc.ramp_sums(order, foot, width)
  with np.errstate(divide='ignore', invalid='ignore'):
    itself = np.where(
      width > 0.0,
      np.clip(1.0 - log_gamma / width, 0.0, 1.0),
      float(log_gamma <= 0.0),
    )
  return (beaten - itself) / (len(ratio) - 1)


@functools.partial(jax.jit, static_argnames=('online', 'offline_a'))
def _log_ratios(
  signals: jax.Array,
  keep: jax.Array,
  model: jax.Array,
  present: jax.Array,
  place: jax.Array,
  *,
  online: bool,
  offline_a: float,
) -> jax.Array:
  """log LR of equation (1): [K, N, Q]."""
  # Relative to the likeliest model of each example, so that nothing overflows.
  lowest = signals.min(axis=0, keepdims=True)
  log_p = (lowest - signals)[model]
  probability = jnp.exp(log_p)

  def mean_of_others(side: jax.Array) -> jax.Array:
    weight = (side[model] & present[:, :, None]).astype(jnp.float32)[..., None]
    return _sum_of_others((probability * weight).sum(axis=1)) / _sum_of_others(
      weight.sum(axis=1)
    )

  out = mean_of_others(~keep)
  if online:
    marginal = jnp.log(0.5 * (mean_of_others(keep) + out))
  else:
    # Offline P(x) mixes in a 1, which is as far from there as the lowest.
    mixed = jnp.log((1.0 - offline_a) / (1.0 + offline_a)) + lowest
    marginal = jnp.log(0.5 * (1.0 + offline_a)) + jnp.logaddexp(
      jnp.log(out), mixed
    )
  ratio = log_p - marginal[:, None]

  return ratio.reshape(-1, *signals.shape[1:])[place]


def _sum_of_others(values: jax.Array) -> jax.Array:
  """Sums over the groups but one, without subtracting: [G, N, Q]."""
  nothing = jnp.zeros_like(values[:1])
  earlier = jnp.cumsum(jnp.concatenate([nothing, values[:-1]]), axis=0)
  later = jnp.cumsum(jnp.concatenate([nothing, values[:0:-1]]), axis=0)[::-1]
  return earlier + later
