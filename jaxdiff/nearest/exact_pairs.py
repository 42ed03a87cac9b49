"""Kernels that compute exact distances of pairs, and the members of groups."""

import functools

import jax
import jax.numpy as jnp

from jaxdiff.nearest import kernels
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products

# Pairs of one step of the pair kernels at most, and the numbers they gather.
PAIRS, _STEP_NUMBERS = 512, 2**23

# Bytes of a row from which a copy of it costs more than a step of a loop.
_LONG_ROW = 2**13

# Sums of 8-bit squares this long fit int32.
_INT_SUM = 2**15


def _by_pairs(kernel, mesh, width: int, arrays, rows, columns, long=False):
  """kernel(*arrays, rows, columns) by steps, shared by devices.

  A loop: one big gather would be written to memory before it is used. A pair
  gathers `width` numbers; steps are powers of two, which divide PAIRS. On a CPU
  long rows go one by one: they are read where they are.
  """
  step = min(PAIRS, 2 ** (max(1, _STEP_NUMBERS // width).bit_length() - 1))
  if long and mesh_lib.on_cpu(mesh):
    step = 1

  def local(arrays, rows, columns):
    out = jax.lax.map(
      lambda pair: kernel(*arrays, *pair),
      (rows.reshape(-1, step), columns.reshape(-1, step)),
    )
    return out.reshape(-1, *out.shape[2:])

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(mesh_lib.REPLICATED, mesh_lib.PER_EXAMPLE, mesh_lib.PER_EXAMPLE),
    out_specs=mesh_lib.PER_EXAMPLE,
  )(arrays, rows, columns)


@functools.partial(jax.jit, static_argnames='mesh')
def exact(
  queries: jax.Array,
  references: jax.Array,
  rows: jax.Array,
  columns: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
) -> jax.Array:
  """Squared distances of pairs by differences.

  Args:
    queries: [B, D] uint8 or float32.
    references: [M, D], likewise.
    rows: int32 [P] into queries.
    columns: int32 [P] into references.
    mesh: with the axis 'data', which shares the pairs.

  Returns:
    [P, parts], whose sums are the distances: exact int32 for uint8, each of
    2^15 pixels at most; otherwise one float64, to be called with 64-bit types
    enabled. (A TPU has no 64-bit units.)
  """

  def some(queries, references, rows, columns):
    a, b = queries[rows], references[columns]
    if a.dtype != jnp.uint8:
      wide = a.astype(jnp.float64) - b.astype(jnp.float64)
      return jnp.square(wide).sum(axis=1, keepdims=True)
    sums = []
    for start in range(0, a.shape[1], _INT_SUM):
      part = slice(start, start + _INT_SUM)
      difference = a[:, part].astype(jnp.int32) - b[:, part].astype(jnp.int32)
      sums.append(jnp.square(difference).sum(axis=1, dtype=jnp.int32))
    return jnp.stack(sums, axis=1)

  arrays = (queries, references)
  width = queries.shape[1]
  long = width * queries.dtype.itemsize > _LONG_ROW
  return _by_pairs(some, mesh, width, arrays, rows, columns, long)


@functools.partial(jax.jit, static_argnames=('mesh', 'block', 'group'))
def members(
  queries: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  rows: jax.Array,
  groups: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  block: int,
  group: int,
) -> jax.Array:
  """v of every member of some groups: rows, groups int32 [P] -> [P, group]."""

  def some(queries, features, norms, rows, groups):
    index = kernels.member_rows(groups, block, group)
    found = products.product(
      features[index], queries[rows], norms.dtype, num_batch_axes=1
    )
    return 2 * found - norms[index]

  arrays = (queries, features, norms)
  width = group * features.shape[1]
  return _by_pairs(some, mesh, width, arrays, rows, groups)
