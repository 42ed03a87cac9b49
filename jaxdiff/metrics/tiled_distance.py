"""Tiled distance between all generations of one prompt (paper, section 4.2).

(1)  d(a, b) = max over the grid x grid aligned tiles of l2(tile of a, of b)

with l2 the RMSE on pixels in [0, 1]. A common background makes one plain l2
small; it cannot make the largest of 16 small.

(2)  |a - b|^2 = |a|^2 + |b|^2 - 2 a.b

for a tile is a Gram matrix, in exact integers: pixels less 128 are whole
numbers up to 128, so products of 1,024 of them sum without rounding, and those
partial sums add up in 64 bits (`runtime/products.py`). No edge depends on
rounding, nor on the type that is multiplied, which is the fastest.

(3)  sum (a - b)^2 >= sum over p x p cells of (sum of a - sum of b)^2 / p^2

(Jensen) lets `tile_graph` drop most pairs at a p^2-th of the cost. What is
left falls into components, each of which gets its own Gram matrices.

Bounds, for n images of D values: 3/4 of 2 n^2 D operations in blocks; for n =
500 the matrix unit bounds it. Measured on 2 cores, D = 786,432: 1.1 s, or 270
GFLOP/s of the 390 of a bare product, the rest is conversion. On paper only: an
H100 at 990 TFLOP/s in bfloat16 takes 0.3 ms and as much memory traffic (0.4 GB,
converted on the way); a TPU v5e 1.5 ms and 0.5 ms.
"""

from collections.abc import Sequence
from concurrent import futures
import functools
import math

from etils import epy
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
import numpy as np

from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products, programs

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import sparse

_POOLS = (16, 8, 4, 2)
# Cells along a tile that are left at least.
_LEAST_CELLS = 4
# Small components are measured together, up to this many images, and fewer
# than _PADDED filled up to a power of two.
_BIN, _PADDED = 32, 128
# Bins that are measured at a time.
_THREADS = 4
# Values of all images that are multiplied together, about, and of one, at most.
_CACHED, _MOST_TERMS = 2**21, 2**16
# Bytes of images that are pooled at a time.
_POOLED_BYTES = 2**26
_TILES = PartitionSpec(None, mesh_lib.DATA)


def tile_distances(
  images: np.ndarray, grid: int = 4, mesh: jax.sharding.Mesh | None = None
) -> np.ndarray:
  """Equation (1) between all pairs, right to float32.

  Args:
    images: uint8 [n, H, W, C]; H and W are multiples of grid.
    grid: tiles along each side; the paper's is 4.
    mesh: its axis 'data' shares the rows of tiles; all local devices if None.

  Returns:
    float32 [n, n].

  Raises:
    ValueError: for images that are not uint8 or do not divide into tiles.
  """
  size = _tile_size(images, grid)
  kind = _kind(images, mesh)
  return _rmse(_squares(images, grid, mesh, kind), size)


def tile_graph(
  images: np.ndarray,
  tau: float,
  grid: int = 4,
  mesh: jax.sharding.Mesh | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs at most tau apart by equation (1), without computing all of them.

  Args:
    images: as `tile_distances`.
    tau: largest distance of an edge, RMSE.
    grid: tiles along each side.
    mesh: as `tile_distances`.

  Returns:
    edges int32 [E, 2], first < second, in order; distances float32 [E].

  Raises:
    ValueError: as `tile_distances`.
  """
  size = _tile_size(images, grid)
  limit = tau * tau * 255.0**2 * size
  near = _pooled_squares(images, grid) <= limit
  edges, squares = [np.zeros((0, 2), np.int32)], [np.zeros(0)]
  bins = _bins(near)
  kind = _kind(images, mesh)
  # Products of a few dozen images keep one core busy each.
  with futures.ThreadPoolExecutor(_THREADS) as pool:
    exacts = pool.map(
      lambda members: _squares(images[members], grid, mesh, kind), bins
    )
  for members, exact in zip(bins, exacts, strict=True):
    first, second = np.nonzero(np.triu(exact <= limit, 1))
    edges.append(np.stack([members[first], members[second]], 1))
    squares.append(exact[first, second])
  edges, squares = np.concatenate(edges), np.concatenate(squares)
  order = np.lexsort((edges[:, 1], edges[:, 0]))
  return edges[order].astype(np.int32), _rmse(squares[order], size)


def _tile_size(images: np.ndarray, grid: int) -> int:
  """Values of a tile, or ValueError."""
  if images.dtype != np.uint8 or images.ndim != 4:
    raise ValueError(
      f'tiles are for uint8 [n, H, W, C], not {images.dtype} {images.shape}'
    )
  _, height, width, channels = images.shape
  if height % grid or width % grid:
    raise ValueError(
      f'images of {height} x {width} do not divide into {grid} x {grid} tiles'
    )
  return (height // grid) * (width // grid) * channels


def _rmse(squares: np.ndarray, size: int) -> np.ndarray:
  return (np.sqrt(squares / size) / 255.0).astype(np.float32)


def _bins(near: np.ndarray) -> list[np.ndarray]:
  """Components of two and more images, small ones together: images, rising."""
  np.fill_diagonal(near, False)
  label = sparse.csgraph.connected_components(
    sparse.csr_array(near), directed=False
  )[1]
  members = np.split(
    np.argsort(label, kind='stable'), np.cumsum(np.bincount(label))[:-1]
  )
  bins: list[np.ndarray] = []
  for component in members:
    if len(component) < 2:
      continue
    if bins and len(bins[-1]) + len(component) <= _BIN:
      bins[-1] = np.concatenate([bins[-1], component])
    else:
      bins.append(component)
  return [np.sort(members) for members in bins]


def _kind(images: np.ndarray, mesh: jax.sharding.Mesh | None) -> str:
  """One of `products.PRODUCTS`; what is not known yet is measured alone."""
  mesh = mesh or mesh_lib.make(1, jax.local_devices())
  return products.of_whole(mesh, images.size)


def _squares(
  images: np.ndarray, grid: int, mesh: jax.sharding.Mesh | None, kind: str
) -> np.ndarray:
  """Largest sum of squared differences over tiles: int64 [n, n]."""
  count, height, width, channels = images.shape
  devices = jax.local_devices() if mesh is None else list(mesh.devices.flat)
  number = math.gcd(grid, len(devices))
  mesh = mesh_lib.make(1, devices[:number])
  # Pixels and channels on one axis: a last axis of 3 is slow to cut.
  parts = images.reshape(
    count, number, grid // number, height // grid, grid, -1
  )
  fill = _filled(count) - count
  with jax.enable_x64(True):
    largest = mesh_lib.put(
      mesh,
      np.zeros((number, count + fill, count + fill), np.int64),
      mesh_lib.PER_EXAMPLE,
    )
    for row, column in np.ndindex(grid // number, grid):
      part = np.pad(
        parts[:, :, row, :, column], ((0, fill), (0, 0), (0, 0), (0, 0))
      )
      part = mesh_lib.put(mesh, part, _TILES)
      largest = _add_tile(largest, part, mesh=mesh, kind=kind)
    return np.asarray(largest).max(axis=0)[:count, :count]


def _filled(count: int) -> int:
  """Images of a component, filled up: few shapes are compiled."""
  if count >= _PADDED:
    return count
  return 2 ** math.ceil(math.log2(max(count, 8)))


def programs_of(
  name: str,
  count: int,
  shape: tuple[int, int, int],
  grid: int,
  devices: Sequence[jax.Device],
  calls: float,
) -> list[programs.Program]:
  """What exact distances among `count` images compile.

  Args:
    name: for people.
    count: images of a component, such as those of a prompt.
    shape: of an image.
    grid: tiles along each side.
    devices: of one process.
    calls: of such components.
  """
  height, width, channels = shape
  number = math.gcd(grid, len(devices))
  mesh = mesh_lib.make(1, list(devices)[:number])
  filled = _filled(count)
  tile = (filled, number, height // grid, width // grid * channels)
  args = (
    programs.array(
      mesh, mesh_lib.PER_EXAMPLE, (number, filled, filled), np.int64
    ),
    programs.array(mesh, _TILES, tile, np.uint8),
  )
  return [
    programs.Program(
      name,
      _add_tile,
      args,
      calls * grid * grid / number,
      {'mesh': mesh, 'kind': products.of_whole(mesh, count * math.prod(shape))},
      x64=True,
    )
  ]


@functools.partial(
  jax.jit, static_argnames=('mesh', 'kind'), donate_argnames='largest'
)
def _add_tile(
  largest: jax.Array, part: jax.Array, *, mesh: jax.sharding.Mesh, kind: str
) -> jax.Array:
  """Takes up one tile a device; call it with 64-bit types enabled.

  Args:
    largest: int64 [devices, n, n].
    part: uint8 [n, devices, rows, columns], a tile each.
    mesh: with the axis 'data'.
    kind: one of `products.PRODUCTS`.
  """
  count, _, height, width = part.shape
  rows, columns = _piece(height, width, _at_once(count, kind))
  # Halves save a quarter of the work where it is large.
  half = -(-count // 2) if count >= _PADDED else count
  # Sums over a tile fit 32 bits up to 2^17 values.
  kept = jnp.int32 if height * width < 2**17 else jnp.int64

  def local(largest: jax.Array, part: jax.Array) -> jax.Array:
    def add(sums, piece: jax.Array):
      """Inner products of a piece: the upper half, by blocks."""
      row = piece // (width // columns) * rows
      column = piece % (width // columns) * columns
      x = jax.lax.dynamic_slice(
        part, (0, 0, row, column), (count, 1, rows, columns)
      )
      x = products.centred(x.reshape(count, -1), kind)
      blocks = (
        products.product(a, b, jnp.int32)
        for a, b in ((x[:half], x), (x[half:], x[half:]))
      )
      return jax.tree.map(
        lambda a, b: a + b.astype(kept), sums, tuple(blocks)
      ), None

    zero = (
      jnp.zeros((half, count), kept),
      jnp.zeros((count - half, count - half), kept),
    )
    zero = jax.lax.pcast(zero, mesh_lib.DATA, to='varying')
    pieces = jnp.arange(height // rows * (width // columns))
    sums = jax.lax.scan(add, zero, pieces)[0]
    upper, lower = (x.astype(jnp.int64) for x in sums)
    below = jnp.concatenate([upper[:, half:].T, lower], axis=1)
    gram = jnp.concatenate([upper, below])
    norms = jnp.diagonal(gram)
    squares = norms[:, None] + norms[None, :] - 2 * gram
    return jnp.maximum(largest, squares[None])

  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(mesh_lib.PER_EXAMPLE, _TILES),
    out_specs=mesh_lib.PER_EXAMPLE,
  )(largest, part)


def _at_once(count: int, kind: str) -> int:
  """Values of an image that are multiplied together, at most.

  Integers may be as many as fit 32 bits: more are fewer steps, as long as those
  of all images stay in a CPU's cache.
  """
  if kind != 'int8':
    return products.WHOLE_TERMS
  return min(max(products.WHOLE_TERMS, _CACHED // count), _MOST_TERMS)


def _piece(rows: int, columns: int, most: int) -> tuple[int, int]:
  """The largest piece of a tile of `most` values, then the widest."""
  return max(
    (
      (r, c)
      for c in range(1, min(columns, most) + 1)
      if columns % c == 0
      for r in range(1, most // c + 1)
      if rows % r == 0
    ),
    key=lambda piece: (piece[0] * piece[1], piece[1]),
  )


def _pooled_squares(images: np.ndarray, grid: int) -> np.ndarray:
  """Right side of equation (3), largest over tiles: float64 [n, n]."""
  count, height, width, channels = images.shape
  rows, columns = height // grid, width // grid
  fits = [
    p
    for p in _POOLS
    if not (rows % p or columns % p) and min(rows, columns) // p >= _LEAST_CELLS
  ]
  if not fits:
    return np.zeros((count, count))
  pool = fits[0]
  step = max(1, _POOLED_BYTES // images[0].size)
  parts = []
  for start in range(0, count, step):
    part = images[start : start + step]
    fill = ((0, step - len(part)), (0, 0), (0, 0), (0, 0))
    part = np.pad(part, fill) if fill[0][1] else part
    parts.append(np.asarray(_pool(part, pool=pool, grid=grid)))
  with jax.enable_x64(True):
    return np.asarray(_largest(np.concatenate(parts)[:count])) / pool**2


@functools.partial(jax.jit, static_argnames=('pool', 'grid'))
def _pool(images: jax.Array, *, pool: int, grid: int) -> jax.Array:
  """Sums over cells: [n, H, W, C] -> int32 [n, grid^2, cells of a tile]."""
  count, height, width, channels = images.shape
  sums = (
    images.reshape(count, height // pool, pool, width // pool, pool, channels)
    .astype(jnp.int32)
    .sum(axis=(2, 4))
  )
  sums = sums.reshape(
    count, grid, height // pool // grid, grid, width // pool // grid, channels
  )
  return sums.transpose(0, 1, 3, 2, 4, 5).reshape(count, grid * grid, -1)


@jax.jit
def _largest(cells: jax.Array) -> jax.Array:
  """Largest squared distance over tiles, exact: [n, T, d] -> float64 [n, n]."""
  cells = cells.astype(jnp.float64).swapaxes(0, 1)

  def one_tile(largest: jax.Array, x: jax.Array):
    gram = jnp.matmul(x, x.T, precision=jax.lax.Precision.HIGHEST)
    norms = jnp.diagonal(gram)
    squares = norms[:, None] + norms[None, :] - 2.0 * gram
    return jnp.maximum(largest, squares), None

  zero = jnp.zeros((cells.shape[1],) * 2, jnp.float64)
  return jax.lax.scan(one_tile, zero, cells)[0]
