"""Device kernels of the nearest-neighbour search: products and differences.

(1)  |a - b|^2 = |a|^2 - v,  v = 2 a.b - |b|^2

References come in blocks, a block in `group`s of rows j, j + G, j + 2 G, ... of
G groups, so that the largest v of every group is one vector operation.
"""

from collections.abc import Callable
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products

# Queries whose chosen groups are gathered together.
GATHERED_QUERIES = 8

# Queries of a product at most, and features up to which: v of a block of
# references stays in a CPU's cache.
_CACHED_QUERIES, _CACHED_WIDTH = 256, 1024

# Unit roundoff of float32; of sums of bfloat16 products, which matrix units
# may truncate; of a float as the sum of two bfloat16.
_U32, _U_UNIT, _U_SPLIT = 2.0**-24, 2.0**-22, 2.0**-16


def sum_error(terms: int, product: str) -> float:
  """Error of a sum of products over |a||b|, in any order (Higham 2002, 3.1)."""
  return terms * (_U32 if product == 'float32' else _U_UNIT)


def pixel_features(
  images: jax.Array, centre: jax.Array, *, product: str, side: str
) -> tuple[jax.Array, jax.Array]:
  """Centred pixels for a product, and their squared norms.

  Args:
    images: [n, D] uint8 or float32.
    centre: float32 [D], whole numbers for uint8.
    product: float32; bfloat16: exact for uint8, otherwise the sum of two
      bfloat16 numbers, as D more columns twice; int8, for uint8 and
      `products.WHOLE_CENTRE`.
    side: 'query' or 'reference': the columns are paired.

  Returns:
    [n, D or 3 D] and float64 [n]; call it with 64-bit types enabled.
  """
  centred = images.astype(jnp.float32) - centre[None, :]
  norms = jnp.square(centred.astype(jnp.float64)).sum(axis=1)
  if product == 'float32':
    return centred, norms
  if product == 'int8':
    return centred.astype(jnp.int8), norms
  high = centred.astype(jnp.bfloat16)
  if images.dtype == jnp.uint8:
    return high, norms
  low = (centred - high.astype(jnp.float32)).astype(jnp.bfloat16)
  columns = [high, high, low] if side == 'query' else [high, low, high]
  return jnp.concatenate(columns, axis=1), norms


pixel_features = jax.jit(pixel_features, static_argnames=('product', 'side'))


def pixel_errors(
  width: int, dtype: np.dtype, product: str, whole: bool
) -> dict:
  """The error attributes of a View of `pixel_features`.

  Args:
    width: columns of the features, and 2 for the norms.
    dtype: of the images.
    product: one of `products.PRODUCTS`.
    whole: v is summed in integers.
  """
  error = sum_error(width, product)
  if dtype == np.uint8:
    return {
      'feature_error': 0.0,
      'product_error': 0.0 if whole else error,
      'whole': True,
    }
  return {
    'feature_error': _U32,
    'product_error': error + (0.0 if product == 'float32' else _U_SPLIT),
    'whole': False,
  }


def values(queries: jax.Array, features: jax.Array, norms: jax.Array):
  """v of equation (1): [B, F], [M, F], [M] -> [B, M]."""
  return 2 * products.product(queries, features, norms.dtype) - norms[None, :]


def member_rows(groups, block: int, group: int):
  """Rows of the members of groups: int [...] -> [..., group]."""
  stride = block // group
  first = groups // stride * block + groups % stride
  steps = np.arange(group).reshape((1,) * first.ndim + (-1,)) * stride
  return first[..., None] + steps


def of_groups(v: jax.Array, group: int) -> jax.Array:
  """The largest of every group of a block: [B, block] -> [B, block / group].

  By halves: XLA makes of a reduction over the middle axis a loop of single
  numbers, at a third of the cost of the product.
  """
  for _ in range(group.bit_length() - 1):
    v = jnp.maximum(*jnp.split(v, 2, axis=1))
  return v


def _propose_rows(queries, features, norms, count: int, block: int, group: int):
  """`propose` for some queries."""
  rows, width = queries.shape
  if block == len(features):
    return _propose_of_all(queries, features, norms, count, group)
  blocks = features.reshape(-1, block, width), norms.reshape(-1, block)
  # To keep v is to write a number for every reference; to compute it again is
  # to read the features of `count` groups. Memory bounds both.
  again = count * group * width * features.dtype.itemsize <= norms.nbytes

  def of_block(part):
    v = values(queries, *part)
    maxima = of_groups(v, group)
    return maxima if again else (maxima, v)

  found = jax.lax.map(of_block, blocks)
  maxima, v = (found, found) if again else found
  maxima = maxima.transpose(1, 0, 2).reshape(rows, -1)

  def kept(member: jax.Array) -> jax.Array:
    return v[member // block, jnp.arange(rows)[:, None], member % block]

  return best_of_groups(
    queries,
    features,
    norms,
    maxima,
    count,
    block,
    group,
    None if again else kept,
  )


def _propose_of_all(queries, features, norms, count: int, group: int):
  """`propose` where no cache bounds the product.

  The g-th members of all groups are a product of their own, so that the
  maximum so far is taken where it is made. By TPU v5e's compiler, 1,024 queries
  and 50,176 references of 3,072 pixels take both at 86 % of the bfloat16 peak,
  and at 76 % of int8's; one product and maxima by halves took 68 % and 52 %.
  """
  rows, block = len(queries), len(features)
  members = (x.reshape(group, -1, *x.shape[1:]) for x in (features, norms))
  v = [values(queries, *each) for each in zip(*members, strict=True)]

  def kept(member: jax.Array) -> jax.Array:
    chosen = member.reshape(rows, -1, group)[:, :, 0]
    found = [jnp.take_along_axis(each, chosen, axis=1) for each in v]
    return jnp.stack(found, axis=2).reshape(rows, -1)

  maxima = functools.reduce(jnp.maximum, v)
  return best_of_groups(
    queries, features, norms, maxima, count, block, group, kept
  )


def _ranks(v: jax.Array) -> jax.Array:
  """v in float32, rounded upwards at least: XLA sorts all integers of a top_k.

  That takes a CPU longer than the product of 3,072 pixels did.
  """
  if v.dtype == jnp.float32:
    return v
  return jnp.nextafter(v.astype(jnp.float32), jnp.float32(jnp.inf))


def _top(values: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
  """`jax.lax.top_k` of rows [B, n]: the parts of largest maximum, then in them.

  Its cost goes with the numbers it looks at; parts make them few.
  """
  rows, number = values.shape
  size = math.gcd(number, 2 ** round(math.log2(max(number / count, 1)) / 2))
  if number // size <= count:
    return jax.lax.top_k(values, count)
  parts = values.reshape(rows, -1, size)
  largest, chosen = jax.lax.top_k(parts.max(axis=2), count)
  inside = jnp.take_along_axis(parts, chosen[:, :, None], axis=1)
  best, place = jax.lax.top_k(inside.reshape(rows, -1), count)
  part = jnp.take_along_axis(chosen, place // size, axis=1)
  # The maximum changes nothing: XLA sorts everything for a top_k of which the
  # indices or a slice alone are used, at 60 times the cost
  # (github.com/openxla/xla/issues/25487).
  best = jnp.maximum(best, largest.min(axis=1, keepdims=True))
  return best, part * size + place % size


def _values_of(
  queries: jax.Array, features: jax.Array, norms: jax.Array, member: jax.Array
) -> jax.Array:
  """v of some references of each query: members [B, n] -> [B, n]."""
  rows, number = member.shape
  some = math.gcd(rows, GATHERED_QUERIES)

  def of_some(pair):
    queries, member = pair
    if not jnp.issubdtype(features.dtype, jnp.integer):
      of_one = lambda q, m: values(q[None], features[m], norms[m])[0]
      return jax.vmap(of_one)(queries, member)
    # A CPU's units multiply integers matrix by matrix alone. For a vector XLA
    # converts them all, which takes longer than products with every query here.
    own = member.ravel()
    v = values(queries, features[own], norms[own]).reshape(some, some, number)
    return v[jnp.arange(some), jnp.arange(some)]

  parts = (x.reshape(-1, some, x.shape[1]) for x in (queries, member))
  return jax.lax.map(of_some, tuple(parts)).reshape(rows, number)


def best_of_groups(
  queries: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  maxima: jax.Array,
  count: int,
  block: int,
  group: int,
  kept: Callable[[jax.Array], jax.Array] | None = None,
  first: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """What `propose` returns, from the maxima of all groups [B, M / group].

  Where v was kept, kept(rows of members [B, n group]) is v of them; otherwise
  it is computed again. If the maxima are of a part of the groups only, `first`
  [B] is where it starts.
  """
  rows = len(queries)
  # The largest `count` values lie in the `count` groups of largest maximum.
  best, chosen = _top(_ranks(maxima), min(count, maxima.shape[1]))
  if first is not None:
    chosen += first[:, None]
  member = member_rows(chosen, block, group).reshape(rows, -1)
  if kept is None:
    v = _values_of(queries, features, norms, member)
  else:
    v = kept(member)
  top, place = jax.lax.top_k(_ranks(v), count)
  index, found = (jnp.take_along_axis(x, place, axis=1) for x in (member, v))
  # What was not taken is no larger.
  return jnp.maximum(top.min(axis=1), best.min(axis=1)), index, found, maxima


@functools.partial(jax.jit, static_argnames=('mesh', 'count', 'block', 'group'))
def propose(
  queries: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  count: int,
  block: int,
  group: int,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """The largest v of every query, and the largest of every group.

  Args:
    queries: [B, F], sharded over 'data'.
    features: [M, F], on every device.
    norms: [M], on every device.
    mesh: with the axis 'data'.
    count: proposals, M at most.
    block: references a block, as in `certificate.View`.
    group: references a group, as in `certificate.View`.

  Returns:
    What no other v exceeds [B], index int32 [B, count], v of these, maxima
    [B, M / group].
  """

  def local(queries, features, norms):
    rows, width = queries.shape
    step = math.gcd(rows, _CACHED_QUERIES if width <= _CACHED_WIDTH else rows)
    found = jax.lax.map(
      lambda some: _propose_rows(some, features, norms, count, block, group),
      queries.reshape(-1, step, width),
    )
    return jax.tree.map(lambda x: x.reshape(rows, *x.shape[2:]), found)

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(mesh_lib.PER_EXAMPLE, mesh_lib.REPLICATED, mesh_lib.REPLICATED),
    out_specs=mesh_lib.PER_EXAMPLE,
  )(queries, features, norms)


@functools.partial(
  jax.jit, static_argnames=('mesh', 'count', 'block', 'group', 'single')
)
def propose_visited(
  queries: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  of: jax.Array,
  rows: jax.Array,
  number: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  count: int,
  block: int,
  group: int,
  single: bool = False,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
  """`propose` among the blocks that queries visit.

  Args:
    queries: [B, F], sharded over 'data'.
    features: [M, F], on every device.
    norms: [M], on every device.
    of: the block of each tile, sharded over 'data' (`certificate.tiles`).
    rows: the queries of each tile, sharded over 'data'.
    number: tiles of each shard, sharded over 'data'.
    mesh: with the axis 'data'.
    count: proposals, M at most.
    block: references a block, as in `certificate.View`.
    group: references a group, as in `certificate.View`.
    single: every query visits one block.

  Returns:
    As there, of the blocks visited; the maxima of the others are -inf, or, if
    `single`, left out.
  """

  def local(queries, features, norms, of, rows, number):
    stride = block // group
    shape = (-1, block, features.shape[1])
    blocks, squares = features.reshape(shape), norms.reshape(-1, block)

    def tile(i, found):
      maxima, first = found
      here, some = of[i], rows[i]
      v = values(queries[some], blocks[here], squares[here])
      largest = of_groups(v, group)
      maxima = maxima.at[some, 0 if single else here].set(largest)
      return maxima, first.at[some].set(here * stride)

    kept = 1 if single else len(blocks)
    found = (
      jnp.full((len(queries), kept, stride), -jnp.inf),
      jnp.zeros(len(queries), jnp.int32),
    )
    found = jax.lax.pcast(found, mesh_lib.DATA, to='varying')
    maxima, first = jax.lax.fori_loop(0, number[0], tile, found)
    return best_of_groups(
      queries,
      features,
      norms,
      maxima.reshape(len(queries), -1),
      count,
      block,
      group,
      first=first if single else None,
    )

  shared = mesh_lib.PER_EXAMPLE
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(shared, mesh_lib.REPLICATED, mesh_lib.REPLICATED) + 3 * (shared,),
    out_specs=shared,
  )(queries, features, norms, of, rows, number)
