"""Moments of the other models, and what a target's signal is worth by them."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

# Degrees of freedom of a prior that leaves nothing to the examples.
_MOST_FREEDOM = 1e4


class Moments(NamedTuple):
  """Number, mean and scatter (sum of squared deviations) of some models."""

  number: jax.Array
  mean: jax.Array
  scatter: jax.Array


def _merge(a: Moments, b: Moments) -> Moments:
  """Chan et al. (1979): moments of a union, without cancellation."""
  count = a.number + b.number
  share = b.number / jnp.maximum(count, 1.0)
  delta = b.mean - a.mean
  return Moments(
    count,
    a.mean + delta * share,
    a.scatter + b.scatter + jnp.square(delta) * a.number * share,
  )


def floor_of(x: jax.Array) -> jax.Array:
  """Squared resolution of float32 signals [K, c, Q]: no variance is below."""
  resolution = jnp.finfo(jnp.float32).eps * jnp.abs(x).max(
    axis=0, keepdims=True
  )
  return jnp.maximum(jnp.square(resolution), jnp.finfo(jnp.float32).tiny)


def likelihood(
  error: jax.Array,
  others: Moments,
  floor: jax.Array,
  prior: tuple[jax.Array, ...] | None,
  variance: str,
) -> tuple[jax.Array, jax.Array]:
  """Log-likelihood of each target's signal, and its signed z-score.

  Args:
    error: [G, S, c, Q] signals less the mean of the other models; a group's
      statistics [G, c, Q] serve all its models.
    others: moments of the other models.
    floor: [1, c, Q].
    prior: of `prior_of`.
    variance: one of `lira.VARIANCES`.
  """
  # Where there are fewer than two, the caller takes the score away.
  freedom = jnp.maximum(others.number - 1.0, 1.0)
  if variance == 'per_example' or prior is None:
    var = jnp.maximum(others.scatter / freedom, floor)
  elif variance == 'pooled':
    var = jnp.maximum(prior[0], floor)
  else:
    var = jnp.maximum(others.scatter / freedom, floor)
    total = prior[1] + freedom
    var = (prior[1] * prior[0] + freedom * var) / total
    freedom = total
    # The mean is uncertain too: that of a new draw, given so many others.
    var = var * (1.0 + 1.0 / jnp.maximum(others.number, 1.0))
  z = error * jax.lax.rsqrt(var)[:, None]
  if variance != 'shrunken':
    return -0.5 * (z * z + jnp.log(var)[:, None]), z
  constant = _log_gamma_step(0.5 * freedom) - 0.5 * jnp.log(freedom * var)
  freedom = freedom[:, None]
  tail = 0.5 * (freedom + 1.0) * jnp.log1p(z * z / freedom)
  return constant[:, None] - tail, z


def summarise(
  others: Moments, floor: jax.Array, new: jax.Array, variance: str
) -> tuple[jax.Array, ...]:
  """What `prior_of` needs of a chunk; `new` [c] says which examples count."""
  weight = new.astype(jnp.float32)[None, :, None]
  freedom = jnp.maximum(others.number - 1.0, 0.0)
  if variance == 'pooled':
    return (weight * others.scatter).sum(1), (weight * freedom).sum(1)
  # A single model says nothing of a variance.
  weight = weight * (freedom > 0.0)
  freedom = jnp.maximum(freedom, 1.0)
  half = 0.5 * freedom
  var = jnp.maximum(others.scatter / freedom, floor)
  log_var = jnp.log(var) - jax.scipy.special.digamma(half) + jnp.log(half)
  number = weight.sum(1)
  mean = (weight * log_var).sum(1) / jnp.maximum(number, 1.0)
  scatter = (weight * jnp.square(log_var - mean[:, None])).sum(1)
  sampling = (weight * jax.scipy.special.polygamma(1, half)).sum(1)
  return number, mean, scatter, sampling


def prior_of(
  parts: tuple[jax.Array, ...], variance: str
) -> tuple[jax.Array, ...]:
  """Common variance, and for `shrunken` its degrees of freedom: [G, 1, Q].

  Shrunken: the prior whose log variances scatter as the examples' do, beyond
  what their own few degrees of freedom explain (Smyth 2004, section 6).

  Args:
    parts: of `summarise`, with a leading axis of chunks.
    variance: pooled or shrunken.
  """
  if variance == 'pooled':
    scatter, freedom = (part.sum(axis=0)[:, None] for part in parts)
    return (scatter / freedom,)
  number, mean, scatter, sampling = parts
  total = number.sum(axis=0)
  centre = (number * mean).sum(axis=0) / total
  between = (number * jnp.square(mean - centre[None])).sum(axis=0)
  spread = (scatter.sum(axis=0) + between) / (total - 1.0)
  excess = jnp.maximum(spread - sampling.sum(axis=0) / total, 1e-6)
  prior = jnp.minimum(2.0 * _inverse_trigamma(excess), _MOST_FREEDOM)
  log_half = jnp.log(0.5 * prior)
  var = jnp.exp(centre + jax.scipy.special.digamma(0.5 * prior) - log_half)
  return var[:, None], prior[:, None]


def moments_of_others(
  grouped: jax.Array, mask: jax.Array
) -> tuple[jax.Array, Moments]:
  """Moments of the masked models outside each group, in O(K N Q).

  Moments of the groups before and after each are merged. Subtracting a group
  from the total would be as cheap and lose the variance of the few models that
  remain in the rounding of the many.

  Args:
    grouped: signals [G, S, N, Q].
    mask: bool [G, S, N].

  Returns:
    centre [1, 1, N, Q], subtracted from the signals beforehand: raw float32
    sums lose the variance when sd / mean is small. Moments, [G, N, Q] each.
  """
  weight = mask.astype(jnp.float32)[..., None]
  centre = (grouped * weight).sum((0, 1), keepdims=True) / jnp.maximum(
    weight.sum((0, 1), keepdims=True), 1.0
  )
  x = grouped - centre
  count = weight.sum(axis=1)
  mean = (x * weight).sum(axis=1) / jnp.maximum(count, 1.0)
  scatter = (weight * jnp.square(x - mean[:, None])).sum(axis=1)
  of_group = Moments(jnp.broadcast_to(count, mean.shape), mean, scatter)
  nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), of_group)

  def before(carry: Moments, group: Moments) -> tuple[Moments, Moments]:
    return _merge(carry, group), carry

  earlier = jax.lax.scan(before, nothing, of_group)[1]
  later = jax.lax.scan(before, nothing, of_group, reverse=True)[1]
  return centre, _merge(earlier, later)


def _log_gamma_step(x: jax.Array) -> jax.Array:
  """Log of Gamma(x + 1/2) / Gamma(x); their difference cancels at large x."""
  series = 0.5 * jnp.log(x) - 1.0 / (8.0 * x) + 1.0 / (192.0 * x**3)
  small = jnp.minimum(x, 8.0)
  exact = jax.lax.lgamma(small + 0.5) - jax.lax.lgamma(small)
  return jnp.where(x > 8.0, series, exact)


def _inverse_trigamma(y: jax.Array) -> jax.Array:
  """x > 0 with polygamma(1, x) = y, by Newton's method (Smyth 2004)."""
  polygamma = jax.scipy.special.polygamma

  def newton(x: jax.Array, _: None) -> tuple[jax.Array, None]:
    value = polygamma(1, x)
    return x + value * (1.0 - value / y) / polygamma(2, x), None

  return jax.lax.scan(newton, 0.5 + 1.0 / y, None, length=12)[0]
