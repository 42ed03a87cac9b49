"""Near-duplicates: which images are one image, by a join within a distance.

Two images of which one was trained on and the other not say nothing of
memorisation: a generator of fresh images is as near to one as to the other, and
a perfect memoriser knows both. So images at most `threshold` apart (RMSE), and
what they are near to in their turn, form one group *before* training sets are
drawn: a group lies on one side of every split, and counts as one image
wherever images are counted.

The join is complete: exact copies are joined by their bytes, however many, and
of the rest every pair within the distance is looked at, not only the nearest
few.
"""

from collections.abc import Sequence
import hashlib
import math

from etils import epy
import jax
import numpy as np

from jaxdiff.nearest import index as index_lib
from jaxdiff.nearest import sizes, tiled
from jaxdiff.runtime import programs

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import sparse

# Neighbours looked at first; twice as many while all of them lie within reach.
_START = 16


AnyIndex = index_lib.Index | tiled.TiledIndex


def index_of(images: np.ndarray, tiles: int = 0) -> AnyIndex:
  """Images prepared for the search of neighbours.

  Args:
    images: uint8 [N, H, W, C].
    tiles: along each side, the farthest of which is the distance of two images
      (`nearest/tiled.py`); 0 compares whole images.
  """
  return tiled.TiledIndex(images, tiles) if tiles else index_lib.Index(images)


def programs_of(
  name: str,
  num_queries: int,
  num_references: int,
  shape: tuple[int, int, int],
  k: int,
  devices: Sequence[jax.Device],
  calls: float,
  tiles: int = 0,
  indexes: float = 1.0,
) -> list[programs.Program]:
  """What a search by `index_of` compiles.

  Args:
    name: for people.
    num_queries: of a call.
    num_references: that are searched.
    shape: of an image.
    k: neighbours.
    devices: of one process.
    calls: of `nearest`.
    tiles: as of `index_of`.
    indexes: how many are made.
  """
  counts = (name, num_queries, num_references)
  if tiles:
    return tiled.programs_of(*counts, shape, tiles, k, devices, calls)
  pixels = math.prod(shape)
  return sizes.programs_of(*counts, pixels, k, devices, calls, indexes)


def within(
  queries: np.ndarray, references: np.ndarray, threshold: float, tiles: int = 0
) -> list[np.ndarray]:
  """Rows of the references at most `threshold` from each query.

  Args:
    queries: uint8 [S, H, W, C].
    references: uint8 [N, H, W, C].
    threshold: largest RMSE of pixels in [0, 1].
    tiles: as of `index_of`.
  """
  return within_index(queries, index_of(references, tiles), threshold)


def within_index(
  queries: np.ndarray, index: AnyIndex, threshold: float
) -> list[np.ndarray]:
  """`within` what `index_of` prepared once for many calls."""
  count = len(index)
  out: list[np.ndarray] = [np.empty(0, int)] * len(queries)
  left, k = np.arange(len(queries)), min(_START, count)
  while len(left):
    found, rows = index.nearest(queries[left], k)
    full = found[:, -1] <= threshold
    if k == count:
      full[:] = False
    for place in np.flatnonzero(~full):
      out[left[place]] = rows[place, found[place] <= threshold]
    left, k = left[full], min(2 * k, count)
  return out


def groups(
  images: np.ndarray, threshold: float, flip: bool, tiles: int = 0
) -> np.ndarray:
  """Joins near-duplicate images: int [N], equal within a group.

  Groups are numbered by their first image.

  Args:
    images: uint8 [N, H, W, C].
    threshold: largest RMSE of near-duplicates.
    flip: mirror images are duplicates too.
    tiles: as of `index_of`.
  """
  first, copy_of = copies(images, flip)
  some = np.ascontiguousarray(images[first])
  pairs = []
  for version in (some, some[:, :, ::-1])[: 2 if flip else 1]:
    near = within(np.ascontiguousarray(version), some, threshold, tiles)
    rows = np.repeat(np.arange(len(near)), [len(found) for found in near])
    pairs.append((rows, np.concatenate([*near, np.empty(0, int)])))
  rows, columns = (np.concatenate(part) for part in zip(*pairs, strict=True))
  edges = sparse.coo_array(
    (np.ones(len(rows), bool), (rows, columns.astype(int))),
    shape=(len(some), len(some)),
  )
  return renumber(
    sparse.csgraph.connected_components(edges, directed=False)[1][copy_of]
  )


def join(first_grouping: np.ndarray, second_grouping: np.ndarray) -> np.ndarray:
  """Groups that hold together whatever either grouping does: int [N]."""
  count = len(first_grouping)
  # Images and the groups of both kinds are the nodes of a graph.
  first, second = (
    np.unique(x, return_inverse=True)[1]
    for x in (first_grouping, second_grouping)
  )
  offsets = count + first, count + first.max(initial=0) + 1 + second
  edges = sparse.coo_array(
    (
      np.ones(2 * count, bool),
      (np.tile(np.arange(count), 2), np.concatenate(offsets)),
    ),
    shape=(3 * count + 2,) * 2,
  )
  return renumber(
    sparse.csgraph.connected_components(edges, directed=False)[1][:count]
  )


def renumber(group: np.ndarray) -> np.ndarray:
  """Groups numbered in the order in which they first appear: int [N]."""
  _, first, inverse = np.unique(group, return_index=True, return_inverse=True)
  place = np.empty(len(first), int)
  place[np.argsort(first, kind='stable')] = np.arange(len(first))
  return place[inverse]


def copies(images: np.ndarray, flip: bool) -> tuple[np.ndarray, np.ndarray]:
  """Which images are equal, byte by byte.

  Args:
    images: uint8 [N, H, W, C].
    flip: to their mirror images, too.

  Returns:
    The first row of each set of equal images, int [U], rising, and which of
    these each image equals, int [N].
  """
  digests = []
  for image in images:
    content = np.ascontiguousarray(image).tobytes()
    if flip:
      content = min(content, np.ascontiguousarray(image[:, ::-1]).tobytes())
    digests.append(hashlib.blake2b(content, digest_size=16).digest())
  _, first, inverse = np.unique(
    np.array(digests, dtype='S16').view('V16'),
    return_index=True,
    return_inverse=True,
  )
  # By their digests as yet.
  order = np.argsort(first)
  place = np.empty(len(first), int)
  place[order] = np.arange(len(first))
  return first[order], place[inverse.reshape(-1)]
