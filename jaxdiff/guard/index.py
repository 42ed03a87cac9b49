"""The guard's index: made once, and asked."""

import dataclasses
import math
import os
import pathlib
from typing import Any

import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import image_sets
from jaxdiff.data.readers import decoding
from jaxdiff.guard import index_file
from jaxdiff.nearest import pca_bound
from jaxdiff.runtime import progress

# Sides of images, as where folders are audited.
_MOST_SIZE = 64
# Coordinates that bound a distance: few for all images, many for those that are
# left. Of many, four bytes each take a third of the images at most, and their
# basis a quarter.
_FEW, _MANY, _PIXELS_A_COORDINATE, _IMAGES_A_COORDINATE = 31, 255, 12, 32
# Bytes of an image that is asked about.
MOST_BYTES = 2**26
# Images read, or compared pixel by pixel, at a time.
_ROWS, _PIECE = 1024, 256
# Pixels whose squared differences of 8 bits add up within 32.
_INT32_PIXELS = (2**31 - 1) // 255**2
# The best of so many pieces by few coordinates are compared first; then at most
# so many pixels at a time.
_FIRST, _MOST_PIXELS = 16, 2**26


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What is said of one image.

  Attributes:
    too_close: equation (1).
    distance: d_1.
    ratio: d_1 / mean(d_1 .. d_n).
    name: of the nearest training image.
    index: its row.
    mirrored: whether it is nearest to the image's mirror image.
  """

  too_close: bool
  distance: float
  ratio: float
  name: str
  index: int
  mirrored: bool


class Index:
  """Training images in a file, to be asked.

  Attributes:
    size: sides of the images that are compared.
    channels: 1 or 3.
    flip: whether mirror images count.
    near: of equation (1).
    alpha: likewise.
    neighbours: n of equation (1).
  """

  def __init__(self, path: pathlib.Path, header: dict[str, Any], start: int):
    """Maps the arrays of a checked file."""
    self.size, self.channels = header['size'], header['channels']
    self.flip, self.near = header['flip'], header['near']
    self.alpha, self.neighbours = header['alpha'], header['neighbours']
    self._names: list[str] = header['names']
    arrays = {
      name: np.memmap(
        path, np.dtype(kind), 'r', start + offset, tuple(shape)
      )
      for name, (kind, shape, offset) in header['arrays'].items()
    }  # fmt: skip
    self._images, self._features = arrays['images'], arrays['features']
    self._squares, self._group = arrays['squares'], arrays['group']
    self._basis, self._centre = arrays['basis'], arrays['centre']
    self._coarse = _coarse_of(self._features)
    self._norms = np.sqrt(self._squares)
    self._slack = _slack(self._images.shape[1], self._features.shape[1])

  def __len__(self) -> int:
    return len(self._images)

  def check(self, image: bytes | np.ndarray) -> Verdict:
    """What is said of one image.

    Args:
      image: an image file's bytes, or uint8 [H, W, 1 or 3]; cropped to a square
        and resized as the training images were.

    Raises:
      ValueError: if it is no image.
    """
    pixels = self._pixels(image)
    versions = [pixels, pixels[:, ::-1]] if self.flip else [pixels]
    found = [self._nearest(version) for version in versions]
    distance = np.concatenate([d for d, _ in found])
    row = np.concatenate([r for _, r in found])
    version = np.repeat(np.arange(len(found)), [len(d) for d, _ in found])
    order = np.lexsort((row, distance))
    distance, row, version = distance[order], row[order], version[order]
    _, first = np.unique(self._group[row], return_index=True)
    nearest = np.sort(distance[np.sort(first)])[: self.neighbours]
    mean = nearest.mean()
    ratio = float(nearest[0] / mean) if mean > 0 else 0.0
    return Verdict(
      too_close=bool(nearest[0] <= self.near or ratio < self.alpha),
      distance=float(nearest[0]),
      ratio=ratio,
      name=self._names[row[0]],
      index=int(row[0]),
      mirrored=bool(version[0]),
    )

  def _pixels(self, image: bytes | np.ndarray) -> np.ndarray:
    if isinstance(image, bytes):
      if len(image) > MOST_BYTES:
        raise ValueError(f'more than {MOST_BYTES} bytes')
      return decoding.decode(image, self.size, self.channels)
    if (
      image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (1, 3)
      or 0 in image.shape
    ):  # fmt: skip
      raise ValueError(
        f'image: {image.dtype} {image.shape} must be uint8 [H, W, 1 or 3]'
      )
    return decoding.fit(image[None], self.size, self.channels)[0]

  def _nearest(self, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distances to the nearest n distinct images and more, and their rows."""
    query = pixels.reshape(-1)
    centred = query.astype(np.float64) - self._centre
    feature, square = _features_of(centred[None], self._basis)
    # By few coordinates, all; by many, those that few leave.
    bound = self._bound(_coarse_of(feature)[0], square[0], self._coarse)
    first = np.arange(len(bound))
    if len(bound) > _FIRST * _PIECE:
      first = np.argpartition(bound, _FIRST * _PIECE)[: _FIRST * _PIECE]
    finer = self._bound(feature[0], square[0], self._features, first)
    first = first[np.argsort(finer, kind='stable')[:_PIECE]]
    squared, rows = [self._squared(query, first)], [first]
    farthest = self._nth(squared[0], first)
    may_be_nearer = bound <= farthest
    may_be_nearer[first] = False
    left = np.flatnonzero(may_be_nearer)
    finer = self._bound(feature[0], square[0], self._features, left)
    order = np.argsort(finer, kind='stable')
    left, finer = left[order], finer[order]
    place, size = 0, _PIECE
    most = max(_PIECE, _MOST_PIXELS // len(query))
    while place < len(left) and finer[place] <= farthest:
      piece = left[place : place + size]
      piece = np.sort(piece[finer[place : place + size] <= farthest])
      squared.append(self._squared(query, piece))
      rows.append(piece)
      # Twice as many each time: what is found is looked through seldom.
      place, size = place + size, min(2 * size, most)
      farthest = self._nth(np.concatenate(squared), np.concatenate(rows))
    distance = np.sqrt(np.concatenate(squared) / len(query)) / 255.0
    return distance, np.concatenate(rows)

  def _bound(
    self,
    feature: np.ndarray,
    square: np.floating,
    features: np.ndarray,
    rows: np.ndarray | None = None,
  ) -> np.ndarray:
    """No squared distance to a row, or to any, is below: float32 [n]."""
    if rows is None or 4 * len(rows) > len(features):
      product = features @ feature
      product = product if rows is None else product[rows]
    else:
      product = features[rows] @ feature
    which = slice(None) if rows is None else rows
    bound = self._squares[which] - 2.0 * product + square
    norms = self._norms[which] + np.sqrt(square)
    return bound - self._slack * np.square(norms)

  def _squared(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Squared distances to some rows, exact."""
    difference = np.subtract(self._images[rows], query, dtype=np.int16)
    # Sums of larger images do not fit 32 bits.
    sums = np.int32 if len(query) <= _INT32_PIXELS else np.int64
    return np.einsum('nd,nd->n', difference, difference, dtype=sums)

  def _nth(self, squared: np.ndarray, rows: np.ndarray) -> float:
    """The n-th smallest squared distance among distinct images."""
    order = np.argsort(squared, kind='stable')
    _, first = np.unique(self._group[rows[order]], return_index=True)
    if len(first) < self.neighbours:
      return math.inf
    return float(squared[order[np.sort(first)[self.neighbours - 1]]])


def _features_of(
  centred: np.ndarray, basis: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`pca_bound` equation (1): h float32 [n, m + 1], and |h|^2 float32 [n]."""
  coordinates = centred @ basis
  rest = np.square(centred).sum(axis=1) - np.square(coordinates).sum(axis=1)
  rest = np.sqrt(np.maximum(rest, 0.0))[:, None]
  features = np.concatenate([coordinates, rest], axis=1).astype(np.float32)
  return features, np.square(features).sum(axis=1, dtype=np.float32)


def _coarse_of(features: np.ndarray) -> np.ndarray:
  """h with few coordinates, from h with many: float32 [n, _FEW + 1]."""
  if features.shape[1] <= _FEW + 1:
    return features
  rest = np.sqrt(np.square(features[:, _FEW:]).sum(axis=1, keepdims=True))
  return np.concatenate([features[:, :_FEW], rest], axis=1)


def _slack(pixels: int, columns: int) -> float:
  """What a bound may be off by, of (|a| + |b|)^2.

  With u = 2^-24 and e of `pca_bound.error`: features that are rounded move a
  squared distance by 2 e + e^2; products and squares, sums of float32 (Higham
  2002, 3.1), by u a column, the coarse ones' remainders included, and 3 u for
  the additions. Twice as much is allowed for.
  """
  return 2.0 * columns * 2.0**-24 + 2.0 * pca_bound.error(pixels, columns)


def build(
  training: str,
  path: str,
  *,
  image_size: int = 0,
  channels: int = 0,
  flip: bool = False,
  near: float = 0.02,
  alpha: float = 0.5,
  neighbours: int = 50,
) -> Index:
  """Writes an index of a training set, all of it or nothing.

  Args:
    training: a folder of image files, one with images.npy, or an .npz.
    path: a new file.
    image_size: sides that images are compared at; 0 is the shorter side of the
      first one, 64 at most.
    channels: 1 or 3; 0 is what the first image has.
    flip: mirror images count.
    near: of equation (1); nearer training images are one.
    alpha: likewise.
    neighbours: n of equation (1), or as many distinct images as there are.

  Raises:
    InputError: naming what cannot be read or written.
  """
  place = inputs.local(path, 'index')
  if os.path.lexists(place):
    raise inputs.InputError(
      f'index: {inputs.name_of(place)} exists: name a new file'
    )
  files_of = image_sets.open_set(training, 'training')
  side, depth = files_of.first_shape()
  size, channels = image_size or min(side, _MOST_SIZE), channels or depth
  shape, count = (size, size, channels), len(files_of)
  pixels = math.prod(shape)
  worth = min(pixels // _PIXELS_A_COORDINATE, count // _IMAGES_A_COORDINATE)
  coordinates = min(max(_FEW, worth), _MANY, pixels, count)
  # The basis is float64, and several are made on the way to it.
  inputs.check_size('training', count * pixels + 32 * pixels * coordinates)
  images = np.empty((count, *shape), np.uint8)
  with progress.track('index', count, 'images', 0) as advance:
    for row, image in enumerate(files_of.decoded(range(count), size, channels)):
      images[row] = image
      advance(1)
  group = duplicates.groups(images, near, flip).astype(np.int32)
  flat = images.reshape(count, -1)
  centre = pca_bound.mean_image(flat)
  basis = pca_bound.make_basis(flat, centre, coordinates)
  parts = [
    _features_of(flat[start : start + _ROWS].astype(np.float64) - centre, basis)
    for start in range(0, count, _ROWS)
  ]
  features, squares = (np.concatenate(x) for x in zip(*parts, strict=True))
  header = {
    'size': size, 'channels': channels, 'flip': flip, 'near': near,
    'alpha': alpha,
    'neighbours': min(neighbours, int(group.max()) + 1),
    'names': list(files_of.names),
  }  # fmt: skip
  with index_file.new_file(place) as file:
    index_file.write(
      file, header,
      {'images': flat, 'features': features, 'squares': squares,
       'group': group, 'basis': basis, 'centre': centre},
    )  # fmt: skip
  return load(path)


def load(path: str) -> Index:
  """An index of `build`, checked from the first byte to the last.

  Raises:
    InputError: if it is none, damaged, or of another version.
  """
  place = inputs.local(path, 'index')
  return Index(place, *index_file.read(place))
