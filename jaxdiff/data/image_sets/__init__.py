"""Images that a user names: listed first, decoded piece by piece.

A set is

* a folder of image files; sub-folders are classes, `metadata.csv` as in
  `readers/image_files.py`;
* an .npz, or a folder with images.npy (`readers/archives.py`);
* a .zip of image files, with dataset.json as StyleGAN has it, or without;
* a .tar of image files, as WebDataset has them, or a folder of such shards;
* a .parquet with a column of encoded images, as Hugging Face's datasets have
  it, or a folder of such shards.

Of encoded images only names are held in memory, so that a set may be larger
than it; they are decoded on all cores, to one size.
"""

from collections.abc import Sequence
import os

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.image_sets import packed
from jaxdiff.data.image_sets.base import ImageSet, of_contents
from jaxdiff.data.readers import archives, decoding, image_files

# Images of an array, which may be larger than the memory, that are held.
_PIECE = 256

__all__ = ['ImageSet', 'of_contents', 'open_set', 'several']


def open_set(path: str, key: str) -> ImageSet:
  """The set that a path names.

  Args:
    path: a folder or file, of a kind that this module's docstring lists.
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
  if suffix in packed.SUFFIXES and not place.is_dir():
    return packed.open_files([place], key)
  if not place.is_dir():
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} is neither a folder of images nor an '
      f'.npz, {", ".join(packed.SUFFIXES)} of them'
    )
  shards = packed.shards(place)
  return packed.open_files(shards, key) if shards else _of_files(path, key)


def _of_files(path: str, key: str) -> ImageSet:
  root, table, unread = image_files.listing(path, key)
  files = list(table['file_name'])
  return of_contents(
    key,
    files,
    list(table['label']) if 'label' in table else [''] * len(table),
    list(unread.items()),
    lambda row: image_files.file_bytes(root, files[row]),
  )


def _of_arrays(key: str, dataset: datasets.Dataset) -> ImageSet:
  names = dataset.class_names

  def read(rows: Sequence[int], size: int, channels: int):
    for start in range(0, len(rows), _PIECE):
      chosen = dataset.images[np.asarray(rows[start : start + _PIECE], int)]
      yield from decoding.fit(chosen, size, channels)

  height, width, depth = dataset.images.shape[1:]
  return ImageSet(
    key=key,
    names=tuple(dataset.source),
    labels=tuple(names[label] for label in dataset.labels),
    skipped=dataset.skipped,
    read=read,
    first_shape=lambda: (min(height, width), depth),
    content=lambda row: np.ascontiguousarray(dataset.images[row]).tobytes(),
    named=False,
  )


def several(paths: str, key: str) -> list[ImageSet]:
  """The sets that paths separated by commas name.

  Raises:
    InputError: as `open_set`, or if one is named twice.
  """
  names = [path.strip() for path in paths.split(',') if path.strip()]
  real = [os.path.realpath(inputs.local(path, key)) for path in names]
  for place, path in enumerate(real):
    if path in real[:place]:
      raise inputs.InputError(f'{key}: {names[place]!r} is named twice')
  return [open_set(path, key) for path in names]
