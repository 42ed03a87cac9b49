"""What stands for a block of references, and what it proves of distances.

(1)  |a - b|^2 = |a|^2 - v,  v = 2 a.b - |b|^2
(2)  |a - b|^2 >= sum_j max(low_j - a_j, 0, a_j - high_j)^2,  low <= b <= high

(1), with its rounding, says which references a value of v proves to be farther
than asked (`View.cut`). On the pruned path references come in cells of the k-d
tree of `pca_bound.coherent`; (2), for a box around each cell, tells most of
them from a query's neighbours (`Boxes`): of Fashion-MNIST in cells of 1,024,
three of four.
"""

import dataclasses

import jax
import numpy as np

# Coordinates of a box, beside the residual; queries multiplied together.
_COORDINATES, _TILE = 8, 64
# Unit roundoff of float32.
_U32 = 2.0**-24


@dataclasses.dataclass(frozen=True)
class View:
  """What stands for the references in equation (1).

  Attributes:
    features: [M, F].
    norms: [M] |b|^2; largest for the rows that fill up.
    order: [M] the reference of every row.
    count: references without those.
    block: references a product, a divisor of M.
    group: references a group, a divisor of the block.
    largest: the largest |b|.
    feature_error: |features - what they stand for| / |b|, at most.
    product_error: error of a.b / (|a||b|), at most; 0: of all of v.
    whole: features are integers: nothing is rounded below 2^24.
    boxes: around the blocks, where they are cells.
  """

  features: jax.Array
  norms: jax.Array
  order: np.ndarray
  count: int
  block: int
  group: int
  largest: float
  feature_error: float
  product_error: float
  whole: bool
  boxes: 'Boxes | None' = None

  @property
  def exact(self) -> bool:
    """Whether v is a sum of integers: distances follow from it alone."""
    return self.whole and not self.product_error

  def cut(self, norms: np.ndarray, squared: np.ndarray) -> np.ndarray:
    """References with v below this are farther than asked: [B].

    float64 where v is a sum of integers, which a float32 would round.

    Args:
      norms: [B] |a|.
      squared: [B] squared distances asked.
    """
    largest, reach = self.reach(norms, squared)
    # The factors are for the rounding of this very line.
    cut = (1.0 - 1e-12) * np.square(norms) - (1.0 + 1e-12) * np.square(reach)
    if self.exact:
      return cut
    product = norms * largest
    error = 2.0 * self.product_error * product
    if self.whole:
      error = np.where(product < 2.0**24, 0.0, error)
    error += 4.0 * _U32 * (2.0 * product + np.square(largest))
    cut = (cut - error).astype(np.float32)
    return np.nextafter(cut, np.float32(-np.inf))

  def visited(
    self, features: np.ndarray, norms: np.ndarray, squared: np.ndarray
  ) -> np.ndarray:
    """Blocks whose boxes are not farther than asked: bool [B, blocks]."""
    _, reach = self.reach(norms, squared)
    assert self.boxes is not None  # they are asked of whole blocks alone
    return self.boxes.bound(features) <= (1.0 + 1e-12) * reach[:, None]

  def reach(
    self, norms: np.ndarray, squared: np.ndarray
  ) -> tuple[np.ndarray, np.ndarray]:
    """Norms of references within `squared`, and |h(a) - h(b)|: at most."""
    # Images of larger norm are farther anyway; again with room for rounding.
    room = 1.0 + 3.0 * self.feature_error + 1e-9
    largest = np.minimum(self.largest, room * (norms + np.sqrt(squared)))
    return largest, np.sqrt(squared) + self.feature_error * (norms + largest)


@dataclasses.dataclass(frozen=True)
class Boxes:
  """Bounding boxes and means of the blocks of a `View`.

  Attributes:
    low: [blocks, c] of the first coordinates and the last.
    high: [blocks, c].
    means: [blocks, F] of all features.
  """

  low: np.ndarray
  high: np.ndarray
  means: np.ndarray

  def home(self, features: np.ndarray) -> np.ndarray:
    """The block of the nearest mean alone: [B, F] -> bool [B, blocks]."""
    squares = np.square(self.means).sum(axis=1)
    squares = np.where(np.isfinite(self.low[:, 0]), squares, np.inf)
    far = squares[None, :] - 2.0 * features @ self.means.T
    return np.arange(len(self.means))[None, :] == far.argmin(axis=1)[:, None]

  def bound(self, features: np.ndarray) -> np.ndarray:
    """Root of (2), a lower bound of |h(a) - h(b)|: float64 [B, blocks]."""
    h = _ends(features).astype(np.float64)
    total = np.zeros((len(features), len(self.low)))
    for low, high, here in zip(self.low.T, self.high.T, h.T, strict=True):
      here = here[:, None]
      total += np.square(np.maximum(np.maximum(low - here, here - high), 0.0))
    return np.sqrt(total)


def make(features: np.ndarray, real: np.ndarray, block: int) -> Boxes:
  """Boxes of every `block` rows of features [M, F]; `real` bool [M]."""
  blocks = features.reshape(-1, block, features.shape[1])
  real = real.reshape(-1, block, 1)
  ends = _ends(blocks)
  return Boxes(
    # A block of no row is nowhere: infinitely far from everything.
    low=np.where(real, ends, np.inf).min(axis=1),
    high=np.where(real, ends, -np.inf).max(axis=1),
    means=(blocks * real).sum(axis=1) / np.maximum(real.sum(axis=1), 1),
  )


def _ends(features: np.ndarray) -> np.ndarray:
  count = min(_COORDINATES, features.shape[-1] - 1)
  return np.concatenate([features[..., :count], features[..., -1:]], axis=-1)


def tiles(
  visit: np.ndarray, shards: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Lists a block and the queries that visit it, tile by tile.

  Args:
    visit: bool [B, blocks].
    shards: devices that share the queries.

  Returns:
    block int32 [shards T], rows int32 [shards T, _TILE], within the shard, and
    the number of tiles int32 [shards]; T depends on the shape of `visit` alone.
    A tile that is not full repeats its first query.
  """
  parts = [_tiles(part) for part in np.split(visit, shards)]
  block, rows, number = (np.concatenate(x) for x in zip(*parts, strict=True))
  return block, rows, number


def _tiles(visit: np.ndarray):
  queries, blocks = visit.shape
  block, row = np.nonzero(visit.T)
  counts = np.count_nonzero(visit, axis=0)
  pieces = -(-counts // _TILE)
  first = np.cumsum(pieces) - pieces
  rank = np.arange(len(row)) - (np.cumsum(counts) - counts)[block]
  tile, slot = first[block] + rank // _TILE, rank % _TILE
  most = blocks + queries * blocks // _TILE
  rows = np.zeros((most, _TILE), np.int32)
  rows[tile[slot == 0]] = row[slot == 0][:, None]
  rows[tile, slot] = row
  of = np.zeros(most, np.int32)
  of[: pieces.sum()] = np.repeat(np.arange(blocks), pieces)
  return of, rows, np.array([pieces.sum()], np.int32)
