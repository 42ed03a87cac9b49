"""Membership inference from stored signals: loss threshold, LiRA.

(1)  threshold (Yeom et al. 2018):  score = -signal
(2)  LiRA (Carlini et al. 2022):    score = log N(s; mu_in, var_in)
                                          - log N(s; mu_out, var_out)
     offline, without "in" models:  score = (mu_out - s) / sd_out

mu and var are over shadow models trained with ("in") and without ("out") the
example. Every model is the target in turn; it and the models left out with it
(its mate on the complementary half) are no shadows of its own. With few
shadows a variance per example is hopeless (LiRA, section VI-B):

* pooled: a mean per example, one variance for all examples;
* per_example: a variance per example;
* shrunken: a normal-inverse-gamma prior on the variance, fitted to all
  examples by the moments of their log variances (Smyth 2004), in place of
  either extreme. The likelihood is then Student's t.

Larger scores mean "more likely a member" everywhere.

All kernels are O(K N Q) in time and memory. LiRA reads the signals twice (once
for a variance per example) and writes as many scores, in chunks that stay in
cache, at about 60 operations a signal, half of them in two logarithms a side
that a group of models shares. Measured on 2 cores, K = 16, N = 50,000, Q = 40
(128 MB): 0.4 s, bound by arithmetic. On paper only: an H100 (3.3 TB/s) needs
0.12 ms for the traffic, a TPU v5e (0.8 TB/s) 0.5 ms, and is bound by it.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from jaxdiff.runtime import mesh as mesh_lib

VARIANCES = ('pooled', 'per_example', 'shrunken')
# Models that must remain on each side: a variance needs two.
MIN_SIDE = 2
# Degrees of freedom of a prior that leaves nothing to the examples.
_MOST_FREEDOM = 1e4
# Signals that are scored at a time, so that they stay in a core's cache.
_CHUNK = 2**16
# [K, N, ...] by examples.
_EXAMPLES = PartitionSpec(None, mesh_lib.DATA)


class _Moments(NamedTuple):
  """Number, mean and scatter (sum of squared deviations) of some models."""

  number: jax.Array
  mean: jax.Array
  scatter: jax.Array


def _merge(a: _Moments, b: _Moments) -> _Moments:
  """Chan et al. (1979): moments of a union, without cancellation."""
  count = a.number + b.number
  share = b.number / jnp.maximum(count, 1.0)
  delta = b.mean - a.mean
  return _Moments(
    count,
    a.mean + delta * share,
    a.scatter + b.scatter + jnp.square(delta) * a.number * share,
  )


def threshold(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
  """Loss threshold, equation (1), in the form of `lira`; no shadow models."""
  del keep, left_out
  return -signals


def enough_shadows(
  keep: np.ndarray, left_out: np.ndarray, online: bool = True
) -> np.ndarray:
  """Targets and examples with two shadow models on each side that is used.

  A matter of the *other* models alone: were an example dropped for its count
  over all models, the target's own membership would have a say in whether it
  is scored, and pure noise would score an AUC below 1/2.

  Args:
    keep: bool [K, N].
    left_out: int [K].
    online: count "in" models too; otherwise "out" models alone.

  Returns:
    bool [K, N].
  """
  enough = np.empty(keep.shape, dtype=bool)
  for group in np.unique(left_out):
    inside = keep[left_out != group].sum(axis=0)
    outside = (left_out != group).sum() - inside
    fewer = np.minimum(inside, outside) if online else outside
    enough[left_out == group] = fewer >= MIN_SIDE
  return enough


def lira(
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  *,
  variance: str = 'pooled',
  online: bool = True,
  mesh: jax.sharding.Mesh | None = None,
) -> np.ndarray:
  """LiRA, equation (2), for all models as targets at once.

  Args:
    signals: float32 [K, N, Q], any scale.
    keep: bool [K, N]: model k trained on example n.
    left_out: int [K]: models with the number of the target are no shadows.
    variance: one of VARIANCES.
    online: use "in" models too; offline needs "out" models alone.
    mesh: its axis 'data' shares the examples; all local devices if None.

  Returns:
    float32 [K, N, Q]; NaN where a target and example have fewer than two shadow
    models on a side that is used (`enough_shadows`).

  Raises:
    ValueError: if that is everywhere, or for an unknown variance.
  """
  if variance not in VARIANCES:
    raise ValueError(
      f'variance: no {variance!r}; there is {", ".join(VARIANCES)}'
    )
  usable = check_shadows(keep, left_out, online)
  mesh = mesh or mesh_lib.make(1, jax.local_devices())
  count = signals.shape[1]
  fill = -count % mesh.shape[mesh_lib.DATA]
  signals = np.asarray(signals, np.float32)
  if fill:
    signals = np.pad(signals, ((0, 0), (0, fill), (0, 0)), mode='edge')
    keep = np.pad(keep, ((0, 0), (0, fill)), mode='edge')
  scores = _lira(
    mesh_lib.put(mesh, signals, _EXAMPLES),
    mesh_lib.put(mesh, keep, _EXAMPLES),
    *grouped(left_out),
    mesh=mesh,
    count=count,
    variance=variance,
    online=online,
  )
  return np.where(usable[..., None], np.asarray(scores)[:, :count], np.nan)


def grouped(left_out: np.ndarray) -> tuple[np.ndarray, ...]:
  """Models in a table of groups that are left out together.

  Returns:
    model int [G, S], padded with 0; present bool [G, S]; place int [K], of
    each model in the flattened table.
  """
  groups, number = np.unique(left_out, return_inverse=True)
  size = np.bincount(number).max()
  model = np.zeros((len(groups), size), int)
  present = np.zeros((len(groups), size), bool)
  place = np.zeros(len(left_out), int)
  for group in range(len(groups)):
    members = np.flatnonzero(number == group)
    model[group, : len(members)] = members
    present[group, : len(members)] = True
    place[members] = group * size + np.arange(len(members))
  return model, present, place


def check_shadows(
  keep: np.ndarray, left_out: np.ndarray, online: bool
) -> np.ndarray:
  """`enough_shadows`; raises ValueError where no target has enough."""
  enough = enough_shadows(keep, left_out, online)
  if not enough.any():
    sides = f'{MIN_SIDE} models in and {MIN_SIDE} out' if online else (
      f'{MIN_SIDE} models out'
    )  # fmt: skip
    raise ValueError(
      f'{sides} are needed beside each target, and no example has them: train '
      'more models'
    )
  return enough


@functools.partial(
  jax.jit, static_argnames=('mesh', 'count', 'variance', 'online')
)
def _lira(
  signals: jax.Array,
  keep: jax.Array,
  model: jax.Array,
  present: jax.Array,
  place: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  count: int,
  variance: str,
  online: bool,
) -> jax.Array:
  """A device's examples go by in chunks that its cache holds."""

  def local(signals: jax.Array, keep: jax.Array) -> jax.Array:
    number = signals.shape[1]
    chunk = max(1, _CHUNK // (signals.shape[0] * signals.shape[2]))
    chunk = min(chunk, number)
    chunks = -(-number // chunk)
    first = jax.lax.axis_index(mesh_lib.DATA) * number

    def take(i: jax.Array) -> tuple[jax.Array, ...]:
      """Chunk i: start, signals [K, c, Q], keep [G, S, c], which are new."""
      start = jnp.minimum(i * chunk, number - chunk)
      x = jax.lax.dynamic_slice_in_dim(signals, start, chunk, axis=1)
      side = jax.lax.dynamic_slice_in_dim(keep, start, chunk, axis=1)
      position = start + jnp.arange(chunk)
      new = (position >= i * chunk) & (first + position < count)
      return start, x, side[model], new

    def others_than(x: jax.Array, inside: jax.Array, side: bool):
      mask = (inside == side) & present[:, :, None]
      return _moments_of_others(x[model], mask)

    sides = (False, True) if online else (False,)

    def summary(i: jax.Array) -> list:
      _, x, inside, new = take(i)
      return [
        _summarise(others_than(x, inside, side)[1], _floor(x), new, variance)
        for side in sides
      ]

    if variance == 'per_example':
      priors = [None] * len(sides)
    else:
      parts = jax.lax.map(summary, jnp.arange(chunks))
      parts = jax.tree.map(
        lambda part: jax.lax.all_gather(part, mesh_lib.DATA, tiled=True), parts
      )
      priors = [_prior(part, variance) for part in parts]

    def fill_in(i: jax.Array, scores: jax.Array) -> jax.Array:
      start, x, inside, _ = take(i)
      terms = []
      for side, prior in zip(sides, priors, strict=True):
        centre, others = others_than(x, inside, side)
        # In this order: the mean is small beside the centre.
        error = (x[model] - centre) - others.mean[:, None]
        terms.append(_likelihood(error, others, _floor(x), prior, variance))
      (out, z_out), inside_term = terms[0], terms[-1][0]
      score = inside_term - out if online else -z_out
      score = score.reshape(-1, *score.shape[2:])[place]
      return jax.lax.dynamic_update_slice_in_dim(scores, score, start, axis=1)

    return jax.lax.fori_loop(0, chunks, fill_in, jnp.zeros_like(signals))

  return jax.shard_map(
    local, mesh=mesh, in_specs=(_EXAMPLES, _EXAMPLES), out_specs=_EXAMPLES
  )(signals, keep)


def _floor(x: jax.Array) -> jax.Array:
  """Squared resolution of float32 signals [K, c, Q]: no variance is below."""
  resolution = jnp.finfo(jnp.float32).eps * jnp.abs(x).max(
    axis=0, keepdims=True
  )
  return jnp.maximum(jnp.square(resolution), jnp.finfo(jnp.float32).tiny)


def _likelihood(
  error: jax.Array,
  others: _Moments,
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
    prior: of `_prior`.
    variance: one of VARIANCES.
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
    # The mean is uncertain too: that of a new draw, given count others.
    var = var * (1.0 + 1.0 / jnp.maximum(others.number, 1.0))
  z = error * jax.lax.rsqrt(var)[:, None]
  if variance != 'shrunken':
    return -0.5 * (z * z + jnp.log(var)[:, None]), z
  constant = _log_gamma_step(0.5 * freedom) - 0.5 * jnp.log(freedom * var)
  freedom = freedom[:, None]
  tail = 0.5 * (freedom + 1.0) * jnp.log1p(z * z / freedom)
  return constant[:, None] - tail, z


def _summarise(
  others: _Moments, floor: jax.Array, new: jax.Array, variance: str
) -> tuple[jax.Array, ...]:
  """What `_prior` needs of a chunk; `new` [c] says which examples count."""
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
  own = (weight * jax.scipy.special.polygamma(1, half)).sum(1)
  return number, mean, scatter, own


def _prior(
  parts: tuple[jax.Array, ...], variance: str
) -> tuple[jax.Array, ...]:
  """Common variance, and for `shrunken` its degrees of freedom: [G, 1, Q].

  Shrunken: the prior whose log variances scatter as the examples' do, beyond
  what their own few degrees of freedom explain (Smyth 2004, section 6).

  Args:
    parts: of `_summarise`, with a leading axis of chunks.
    variance: pooled or shrunken.
  """
  if variance == 'pooled':
    scatter, freedom = (part.sum(axis=0)[:, None] for part in parts)
    return (scatter / freedom,)
  number, mean, scatter, own = parts
  total = number.sum(axis=0)
  centre = (number * mean).sum(axis=0) / total
  between = (number * jnp.square(mean - centre[None])).sum(axis=0)
  spread = (scatter.sum(axis=0) + between) / (total - 1.0)
  excess = jnp.maximum(spread - own.sum(axis=0) / total, 1e-6)
  prior = jnp.minimum(2.0 * _inverse_trigamma(excess), _MOST_FREEDOM)
  log_half = jnp.log(0.5 * prior)
  var = jnp.exp(centre + jax.scipy.special.digamma(0.5 * prior) - log_half)
  return var[:, None], prior[:, None]


def _moments_of_others(
  grouped: jax.Array, mask: jax.Array
) -> tuple[jax.Array, _Moments]:
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
  own = _Moments(jnp.broadcast_to(count, mean.shape), mean, scatter)
  nothing = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), own)

  def before(carry: _Moments, one: _Moments) -> tuple[_Moments, _Moments]:
    return _merge(carry, one), carry

  earlier = jax.lax.scan(before, nothing, own)[1]
  later = jax.lax.scan(before, nothing, own, reverse=True)[1]
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
