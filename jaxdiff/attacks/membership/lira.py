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

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from jaxdiff.attacks.membership import moments
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import programs

VARIANCES = ('pooled', 'per_example', 'shrunken')

# Models that must remain on each side: a variance needs two.
MIN_SIDE = 2

# Signals that are scored at a time, so that they stay in a core's cache.
_CHUNK = 2**16

# Signals that lie on the devices together.
_NUMBERS = 2**28

# [K, N, ...] by examples.
_EXAMPLES = PartitionSpec(None, mesh_lib.DATA)


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
  if fill:
    keep = np.pad(keep, ((0, 0), (0, fill)), mode='edge')
  sides = mesh_lib.put(mesh, keep, _EXAMPLES)
  parts = []
  for columns in column_pieces(signals.shape):
    some = np.asarray(signals[..., columns], np.float32)
    if fill:
      some = np.pad(some, ((0, 0), (0, fill), (0, 0)), mode='edge')
    scores = _lira(
      mesh_lib.put(mesh, some, _EXAMPLES),
      sides,
      *grouped(left_out),
      mesh=mesh,
      count=count,
      variance=variance,
      online=online,
    )
    parts.append(np.asarray(scores)[:, :count])
  return np.where(usable[..., None], np.concatenate(parts, axis=2), np.nan)


def column_pieces(shape: tuple[int, ...]) -> list[slice]:
  """Columns that are scored together, one at least: they do not meet.

  Args:
    shape: of the signals, [K, N, Q].
  """
  models, examples, columns = shape
  together = max(1, _NUMBERS // max(1, models * examples))
  return [
    slice(start, min(start + together, columns))
    for start in range(0, columns, together)
  ]


def program(
  name: str,
  left_out: np.ndarray,
  num_examples: int,
  num_columns: int,
  devices: Sequence[jax.Device],
  calls: float,
  *,
  variance: str = 'pooled',
  online: bool = True,
) -> programs.Program:
  """What `lira` compiles for signals of a shape.

  Args:
    name: for people.
    left_out: int [K].
    num_examples: N.
    num_columns: Q.
    devices: of one process.
    calls: of such signals.
    variance: as `lira`.
    online: likewise.
  """
  mesh = mesh_lib.make(1, list(devices))
  filled = num_examples + -num_examples % mesh.shape[mesh_lib.DATA]
  args = abstract_args(mesh, _EXAMPLES, left_out, filled, num_columns)
  options = {
    'mesh': mesh,
    'count': num_examples,
    'variance': variance,
    'online': online,
  }
  return programs.Program(name, _lira, args, calls, options)


def abstract_args(
  mesh: jax.sharding.Mesh,
  spec: PartitionSpec,
  left_out: np.ndarray,
  num_examples: int,
  num_columns: int,
) -> tuple[jax.ShapeDtypeStruct, ...]:
  """Signals, keep and `grouped`, as kernels of K models take them."""
  shape = (len(left_out), num_examples)
  return (
    programs.array(mesh, spec, (*shape, num_columns), np.float32),
    programs.array(mesh, spec, shape, bool),
    *programs.like(mesh, mesh_lib.REPLICATED, grouped(left_out)),
  )


def grouped(left_out: np.ndarray) -> tuple[np.ndarray, ...]:
  """Models in a table of groups that are left out together.

  Returns:
    model int [G, S], padded with 0; present bool [G, S]; place int [K], of
    each model in the flattened table.
  """
  groups, number = np.unique(left_out, return_inverse=True)
  size = np.bincount(number).max()
  model = np.zeros((len(groups), size), np.int32)
  present = np.zeros((len(groups), size), bool)
  place = np.zeros(len(left_out), np.int32)
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
      return moments.moments_of_others(x[model], mask)

    sides = (False, True) if online else (False,)

    def summary(i: jax.Array) -> list:
      _, x, inside, new = take(i)
      return [
        moments.summarise(
          others_than(x, inside, side)[1], moments.floor_of(x), new, variance
        )
        for side in sides
      ]

    if variance == 'per_example':
      priors = [None] * len(sides)
    else:
      parts = jax.lax.map(summary, jnp.arange(chunks))
      parts = jax.tree.map(
        lambda part: jax.lax.all_gather(part, mesh_lib.DATA, tiled=True), parts
      )
      priors = [moments.prior_of(part, variance) for part in parts]

    def fill_in(i: jax.Array, scores: jax.Array) -> jax.Array:
      start, x, inside, _ = take(i)
      terms = []
      for side, prior in zip(sides, priors, strict=True):
        centre, others = others_than(x, inside, side)
        # In this order: the mean is small beside the centre.
        error = (x[model] - centre) - others.mean[:, None]
        terms.append(
          moments.likelihood(
            error, others, moments.floor_of(x), prior, variance
          )
        )
      (out, z_out), inside_term = terms[0], terms[-1][0]
      score = inside_term - out if online else -z_out
      score = score.reshape(-1, *score.shape[2:])[place]
      return jax.lax.dynamic_update_slice_in_dim(scores, score, start, axis=1)

    return jax.lax.fori_loop(0, chunks, fill_in, jnp.zeros_like(signals))

  return jax.shard_map(
    local, mesh=mesh, in_specs=(_EXAMPLES, _EXAMPLES), out_specs=_EXAMPLES
  )(signals, keep)
