"""Images that a user names: listed first, decoded piece by piece.

A set is a folder of image files (sub-folders are classes; `metadata.csv` as in
`readers/image_files.py`), an .npz, or a folder of .npy. Only the names are held
in memory, so that a set may be larger than it; files are decoded on all cores,
to one size.
"""

from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import dataclasses
import hashlib
import pathlib

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.readers import archives, decoding, image_files
from jaxdiff.runtime import progress

# Images decoded at a time.
_AT_ONCE = 256


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set whose images are not yet decoded.

  Attributes:
    key: of the config that named it, for errors.
    names: [N] of the images, for people.
    labels: [N] names of classes.
    skipped: (file, why) of what is not read.
    read: rows -> their images, or errors that stand for broken ones.
    first_shape: () -> the shorter side of the first image, and its channels.
    content: row -> the bytes that identify an image.
  """

  key: str
  names: tuple[str, ...]
  labels: tuple[str, ...]
  skipped: tuple[tuple[str, str], ...]
  read: Callable[[Sequence[int], int, int], list[np.ndarray | ValueError]]
  first_shape: Callable[[], tuple[int, int]]
  content: Callable[[int], bytes]

  def __len__(self) -> int:
    return len(self.names)

  def digest(self) -> str:
    """SHA-256 over names and content of all images."""
    whole = hashlib.sha256()

    def one(row: int) -> bytes:
      try:
        return hashlib.sha256(self.content(row)).digest()
      except (ValueError, OSError) as error:
        raise inputs.InputError(
          f'{self.key}: {self.names[row]}: {inputs.one_line(error)}'
        ) from error

    with concurrent.futures.ThreadPoolExecutor() as pool:
      for row, found in enumerate(pool.map(one, range(len(self)))):
        whole.update(self.names[row].encode('utf-8', 'backslashreplace'))
        whole.update(found)
    return whole.hexdigest()

  def images(self, rows: Sequence[int], size: int, channels: int) -> np.ndarray:
    """Some images: uint8 [n, size, size, channels].

    Raises:
      InputError: naming the first that is broken.
    """
    return np.stack(list(self.decoded(rows, size, channels)))

  def decoded(
    self, rows: Sequence[int], size: int, channels: int
  ) -> Iterator[np.ndarray]:
    """Some images, one by one; InputError names the first that is broken."""
    for start in range(0, len(rows), _AT_ONCE):
      piece = rows[start : start + _AT_ONCE]
      for row, image in zip(
        piece, self.read(piece, size, channels), strict=True
      ):
        if isinstance(image, ValueError):
          raise inputs.InputError(
            f'{self.key}: {self.names[row]}: {image} (--config.skip_broken '
            'leaves out what cannot be read, and lists it)'
          )
        yield image

  def whole(self) -> 'ImageSet':
    """The set without what cannot be read, which is listed: decodes it all.

    Raises:
      InputError: if nothing is left.
    """
    broken: dict[int, str] = {}
    with progress.track(f'check {self.key}', len(self), 'images', 0) as advance:
      for start in range(0, len(self), _AT_ONCE):
        piece = range(start, min(start + _AT_ONCE, len(self)))
        for row, image in zip(piece, self.read(piece, 8, 3), strict=True):
          if isinstance(image, ValueError):
            broken[row] = str(image)
        advance(len(piece))
    kept = [row for row in range(len(self)) if row not in broken]
    if not kept:
      raise inputs.InputError(f'{self.key}: every image of it is broken')
    return dataclasses.replace(
      self,
      names=tuple(self.names[row] for row in kept),
      labels=tuple(self.labels[row] for row in kept),
      skipped=self.skipped
      + tuple((self.names[row], why) for row, why in broken.items()),
      read=lambda rows, *how: self.read([kept[row] for row in rows], *how),
      content=lambda row: self.content(kept[row]),
    )


def open_set(path: str, key: str) -> ImageSet:
  """The set that a path names.

  Args:
    path: a folder of image files, one with images.npy, or an .npz file.
    key: of the config, named in errors.

  Raises:
    InputError: if it is none of these; of .pt, .pth and .pkl, how to convert.
  """
  place = inputs.local(path, key)
  suffix = place.suffix.lower()
  if suffix in ('.pt', '.pth', '.pkl', '.pickle', '.ckpt'):
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} is a pickle, which can run any program '
      'and is never opened; save its images as uint8 [N, H, W, C]: '
      "numpy.savez('images.npz', images=...)"
    )
  if suffix == '.npz':
    return _of_arrays(key, archives.npz(path, key))
  if (place / 'images.npy').exists():
    return _of_arrays(key, archives.npy(path, key))
  if not place.exists():
    raise inputs.InputError(f'{key}: no file or folder {inputs.name_of(path)}')
  if not place.is_dir():
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} is neither a folder of images nor an '
      '.npz of them'
    )
  return _of_files(path, key)


def _of_files(path: str, key: str) -> ImageSet:
  root, table, unread = image_files.listing(path, key)
  files = list(table['file_name'])

  def read(rows: Sequence[int], size: int, channels: int):
    with concurrent.futures.ThreadPoolExecutor() as pool:
      return list(
        pool.map(
          lambda row: image_files.decode_file(root, files[row], size, channels),
          rows,
        )
      )

  def first_shape() -> tuple[int, int]:
    problem = 'no image'
    for name in files:
      try:
        return decoding.shape_of(image_files.file_bytes(root, name))
      except (ValueError, OSError) as error:
        problem = f'{inputs.name_of(name)}: {inputs.one_line(error)}'
    raise inputs.InputError(f'{key}: {problem}')

  labels = table['label'] if 'label' in table else [''] * len(table)
  return ImageSet(
    key=key,
    names=tuple(inputs.name_of(name) for name in files),
    labels=tuple(labels),
    skipped=tuple((inputs.name_of(name), why) for name, why in unread.items()),
    read=read,
    first_shape=first_shape,
    content=lambda row: image_files.file_bytes(root, files[row]),
  )


def _of_arrays(key: str, dataset: datasets.Dataset) -> ImageSet:
  names = dataset.class_names

  def read(rows: Sequence[int], size: int, channels: int):
    chosen = dataset.images[np.asarray(rows, int)]
    return list(decoding.fit(chosen, size, channels))

  height, width, depth = dataset.images.shape[1:]
  return ImageSet(
    key=key,
    names=tuple(dataset.source),
    labels=tuple(names[label] for label in dataset.labels),
    skipped=dataset.skipped,
    read=read,
    first_shape=lambda: (min(height, width), depth),
    content=lambda row: np.ascontiguousarray(dataset.images[row]).tobytes(),
  )


def several(paths: str, key: str) -> list[ImageSet]:
  """The sets that paths separated by commas name.

  Raises:
    InputError: as `open_set`, or if one is named twice.
  """
  names = [path.strip() for path in paths.split(',') if path.strip()]
  real = [pathlib.Path(inputs.local(path, key)).resolve() for path in names]
  for place, path in enumerate(real):
    if path in real[:place]:
      raise inputs.InputError(f'{key}: {names[place]!r} is named twice')
  return [open_set(path, key) for path in names]
