"""Nearest neighbours by the largest distance of any tile (paper, section 4.2).

(1)  d(a, b) = max over the grid x grid aligned tiles of l2(tile of a, of b)

with l2 the RMSE on pixels in [0, 1]: a common background makes two pictures
near by plain l2, and cannot make the farthest of their tiles near.

(2)  |a - b|^2 = |a|^2 + |b|^2 - 2 a.b

for a tile is a matrix product, in exact integers: pixels less 128 are whole
numbers up to 128, so products of 1,024 of them sum without rounding
(`runtime/products.py`). Every pair is compared, so answers need no
proof; `metrics/tiled_distance.py` has the same distance within one set.

Bounds, for S queries, N references, D pixels and T tiles: 2 S N D operations as
for `index`, and S N T maxima and the k smallest of S N besides, which take most
of the time where D / T is small.
"""

from collections.abc import Sequence
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products, programs

# Values of a tile whose squared differences sum to less than 2^31.
_MOST_VALUES = 2**15
# Queries and references a product, on each device, and pixels of either.
_QUERIES, _REFERENCES, _PIXELS = 256, 2048, 2**25
# Pixels of references that a device holds.
_HELD_PIXELS = 2**28
_FAR = np.iinfo(np.int32).max


class TiledIndex:
  """References, prepared for many calls; stands in for `index.Index`."""

  def __init__(
    self,
    references: np.ndarray,
    grid: int = 4,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Checks the references; work begins with the first call.

    Args:
      references: uint8 [N, H, W, C]; H and W are multiples of grid.
      grid: tiles along each side; the paper's is 4.
      mesh: its axis 'data' shares the queries; all local devices if None.

    Raises:
      ValueError: for images that are not uint8, that do not divide into tiles,
        or whose tiles have more than 2^15 values.
    """
    self._images, self._grid = references, grid
    self._shape = references.shape[1:]
    self._mesh = mesh or mesh_lib.make(1, jax.local_devices())
    if references.dtype != np.uint8 or references.ndim != 4:
      raise ValueError(
        f'tiles are for uint8 [n, H, W, C], not {references.dtype} '
        f'{references.shape}'
      )
    self._size = check_shape(self._shape, grid)
    self._on_device: dict[int, jax.Array] = {}

  def __len__(self) -> int:
    """How many references there are."""
    return len(self._images)

  def nearest(
    self, queries: np.ndarray, k: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest references of every query by equation (1).

    Args:
      queries: uint8 [S, H, W, C].
      k: neighbours, at most N.

    Returns:
      distance float32 [S, k], rising, and index int32 [S, k]; ties go to the
      lower index.

    Raises:
      ValueError: for images of another shape or type, or too few references.
    """
    if queries.dtype != np.uint8 or queries.shape[1:] != self._shape:
      raise ValueError(
        f'queries are {queries.dtype} {queries.shape[1:]}, references uint8 '
        f'{self._shape}'
      )
    count, pixels = len(self._images), math.prod(self._shape)
    if not 1 <= k <= count:
      raise ValueError(f'k is {k}; there are {count} references')
    shards = self._mesh.shape[mesh_lib.DATA]
    share = -(-len(queries) // shards)
    step = shards * min(_at_once(_QUERIES, pixels), _power(share))
    squares = np.full((len(queries), k), _FAR, np.int32)
    index = np.full((len(queries), k), count, np.int32)
    held = max(1, _HELD_PIXELS // pixels)
    for first in range(0, count, held):
      references = self._load(first, held)
      for start in range(0, len(queries), step):
        rows = slice(start, min(start + step, len(queries)))
        fill = step - (rows.stop - start)
        arrays = (self._tiles(queries[rows]), squares[rows], index[rows])
        padded = (
          np.pad(x, ((0, fill), *((0, 0),) * (x.ndim - 1)), mode='edge')
          for x in arrays
        )
        found = _nearer(
          *(mesh_lib.put(self._mesh, x, mesh_lib.PER_EXAMPLE) for x in padded),
          references,
          np.int32(first),
          np.int32(min(first + held, count)),
          mesh=self._mesh,
          kind=products.of_whole(self._mesh, self._images.size),
        )
        squares[rows], index[rows] = (
          np.asarray(x)[: step - fill] for x in found
        )
    distance = np.sqrt(squares / self._size) / 255.0
    return distance.astype(np.float32), index

  def _load(self, first: int, held: int) -> jax.Array:
    """Some references by blocks, on every device; the last stay there."""
    if first not in self._on_device:
      images = self._images[first : first + held]
      block = _at_once(_REFERENCES, math.prod(self._shape))
      block = min(block, _power(len(images)))
      tiles = self._tiles(images)
      fill = -len(tiles) % block
      tiles = np.pad(tiles, ((0, fill), *((0, 0),) * 3), mode='edge')
      tiles = tiles.reshape(-1, block, *tiles.shape[1:])
      self._on_device.clear()  # one at a time
      self._on_device[first] = mesh_lib.put(
        self._mesh, tiles, mesh_lib.REPLICATED
      )
    return self._on_device[first]

  def _tiles(self, images: np.ndarray) -> np.ndarray:
    """[n, H, W, C] -> [n, tiles, pieces, values], filled up with 128."""
    height, width, channels = self._shape
    grid = self._grid
    tiles = (
      images.reshape(
        -1, grid, height // grid, grid, width // grid, channels
      ).swapaxes(2, 3).reshape(len(images), grid * grid, self._size)
    )  # fmt: skip
    pieces = -(-self._size // products.WHOLE_TERMS)
    values = -(-self._size // pieces)
    fill = pieces * values - self._size
    tiles = np.pad(tiles, ((0, 0), (0, 0), (0, fill)), constant_values=128)
    return tiles.reshape(len(images), grid * grid, pieces, values)


def programs_of(
  name: str,
  num_queries: int,
  num_references: int,
  shape: tuple[int, int, int],
  grid: int,
  k: int,
  devices: Sequence[jax.Device],
  calls: float,
) -> list[programs.Program]:
  """What `TiledIndex.nearest` compiles.

  Args:
    name: for people.
    num_queries: S of a call.
    num_references: N.
    shape: of an image.
    grid: tiles along each side.
    k: neighbours.
    devices: of one process.
    calls: of `TiledIndex.nearest`.
  """
  mesh = mesh_lib.make(1, list(devices))
  pixels, shards = math.prod(shape), mesh.shape[mesh_lib.DATA]
  step = shards * min(
    _at_once(_QUERIES, pixels), _power(-(-num_queries // shards))
  )
  held = min(max(1, _HELD_PIXELS // pixels), num_references)
  block = min(_at_once(_REFERENCES, pixels), _power(held))
  pieces = -(-check_shape(shape, grid) // products.WHOLE_TERMS)
  tile = (grid * grid, pieces, -(-check_shape(shape, grid) // pieces))
  each, all_of = mesh_lib.PER_EXAMPLE, mesh_lib.REPLICATED
  number = programs.array(mesh, all_of, (), np.int32)
  args = (
    programs.array(mesh, each, (step, *tile), np.uint8),
    programs.array(mesh, each, (step, k), np.int32),
    programs.array(mesh, each, (step, k), np.int32),
    programs.array(mesh, all_of, (-(-held // block), block, *tile), np.uint8),
    number,
    number,
  )
  passes = -(-num_queries // step) * -(-num_references // held)
  return [
    programs.Program(
      f'{name}: by tiles',
      _nearer,
      args,
      calls * passes,
      {
        'mesh': mesh,
        'kind': products.of_whole(mesh, num_references * pixels),
      },
    )
  ]


def check_shape(shape: tuple[int, ...], grid: int) -> int:
  """Values of a tile; ValueError for images that cannot be compared by tiles.

  Args:
    shape: of an image, [H, W, C].
    grid: tiles along each side.
  """
  height, width, channels = shape
  if grid < 1 or height % grid or width % grid:
    raise ValueError(
      f'images of {height} x {width} do not divide into {grid} x {grid} tiles'
    )
  size = (height // grid) * (width // grid) * channels
  if size > _MOST_VALUES:
    raise ValueError(
      f'tiles of {size} values are too large; {_MOST_VALUES} are the most: '
      'take a finer grid'
    )
  return size


def _power(number: int) -> int:
  """The next power of two, 8 at least: few compiled shapes."""
  return 2 ** math.ceil(math.log2(max(number, 8)))


def _at_once(most: int, pixels: int) -> int:
  """Images of so many pixels that are worked on together: a power of two."""
  return min(most, 2 ** (max(1, _PIXELS // pixels).bit_length() - 1))


@functools.partial(jax.jit, static_argnames=('mesh', 'kind'))
def _nearer(
  queries: jax.Array,
  squares: jax.Array,
  index: jax.Array,
  references: jax.Array,
  first: jax.Array,
  end: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
  kind: str,
) -> tuple[jax.Array, jax.Array]:
  """Takes up some references among the k nearest so far.

  Args:
    queries: uint8 [S, T, P, d], shared by the devices.
    squares: int32 [S, k], squared distances so far, rising.
    index: int32 [S, k], whose they are.
    references: uint8 [blocks, n, T, P, d].
    first: number of the first of them.
    end: number of the first that only fills up the last block.
    mesh: with the axis 'data'.
    kind: one of `products.PRODUCTS`.

  Returns:
    squares and index.
  """
  k = squares.shape[1]

  def centred(images: jax.Array) -> tuple[jax.Array, jax.Array]:
    """By tiles: values [T, P, n, d] and squared norms int32 [T, n]."""
    x = images.transpose(1, 2, 0, 3)
    wide = products.centred(x, 'int8').astype(jnp.int32)
    return products.centred(x, kind), jnp.square(wide).sum(axis=(1, 3))

  def local(queries, squares, index, references, first, end):
    tiles, norms = centred(queries)

    def one_tile(largest: jax.Array, both):
      a, squares_a, b, squares_b = both
      inner = products.product(a, b, jnp.int32, num_batch_axes=1).sum(axis=0)
      square = squares_a[:, None] + squares_b[None, :] - 2 * inner
      return jnp.maximum(largest, square), None

    def one_block(best, block):
      images, start = block
      zero = jnp.zeros((queries.shape[0], images.shape[0]), jnp.int32)
      zero = jax.lax.pcast(zero, mesh_lib.DATA, to='varying')
      largest = jax.lax.scan(one_tile, zero, (tiles, norms, *centred(images)))[
        0
      ]
      number = start + jnp.arange(images.shape[0], dtype=jnp.int32)
      largest = jnp.where(number[None, :] < end, largest, _FAR)
      number = jnp.broadcast_to(number[None, :], largest.shape)
      # Those before come first, and of equal ones the first is taken.
      both = jnp.concatenate([best[0], largest], axis=1)
      whose = jnp.concatenate([best[1], number], axis=1)
      smallest, place = jax.lax.top_k(-both, k)
      return (-smallest, jnp.take_along_axis(whose, place, axis=1)), None

    starts = jnp.arange(references.shape[0], dtype=jnp.int32)
    starts = first + starts * references.shape[1]
    return jax.lax.scan(one_block, (squares, index), (references, starts))[0]

  each, all_of = mesh_lib.PER_EXAMPLE, mesh_lib.REPLICATED
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(each, each, each, all_of, all_of, all_of),
    out_specs=each,
  )(queries, squares, index, references, first, end)
