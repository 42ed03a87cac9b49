"""Sets of images with captions, some of them there several times."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import captions, datasets, image_sets
from jaxdiff.data.readers import openmoji
from jaxdiff.runtime import prng, progress

NAMES = ('openmoji', 'image_folder')


def load(
  name: str, path: str, size: int, skip_broken: bool
) -> datasets.Dataset:
  """All images of a set, RGB, with their captions.

  Args:
    name: one of NAMES.
    path: of the folder.
    size: sides.
    skip_broken: leave out what cannot be decoded.

  Raises:
    InputError: naming the file that is missing or broken, or has no caption.
  """
  if name == 'openmoji':
    return openmoji.openmoji(size)
  listed = image_sets.open_set(path, 'data.path')
  listed = listed.whole() if skip_broken else listed
  texts = captions.of(path, listed)
  inputs.check_size('data.path', 3 * size * size * len(listed))
  images = np.empty((len(listed), size, size, 3), np.uint8)
  with progress.track('decode', len(listed), 'images') as advance:
    for row, image in enumerate(listed.decoded(range(len(listed)), size, 3)):
      images[row] = image
      advance(1)
  return datasets.make(
    images,
    np.zeros(len(listed), np.int32),
    listed.names,
    num_classes=1,
    skipped=listed.skipped,
    captions=texts,
  )


def apart(dataset: datasets.Dataset, distance: float) -> datasets.Dataset:
  """The set without images that are near to an earlier one that stays.

  Args:
    dataset: the set.
    distance: smallest RMSE between two that stay; 0 keeps all.
  """
  if distance == 0.0:
    return dataset
  count = len(dataset)
  inputs.check_size('data.apart', 8 * count * (dataset.images[0].size + count))
  # Whole numbers, which float64 holds: the products are exact.
  pixels = dataset.images.reshape(count, -1).astype(np.float64)
  norms = np.square(pixels).sum(axis=1)
  squares = norms[:, None] + norms[None] - 2.0 * (pixels @ pixels.T)
  near = squares < pixels.shape[1] * (255.0 * distance) ** 2
  kept: list[int] = []
  for row in range(count):
    if not near[row, kept].any():
      kept.append(row)
  gone = np.setdiff1d(np.arange(len(dataset)), kept)
  why = 'nearer than data.apart to another'
  return dataclasses.replace(
    dataset.subset(np.array(kept)),
    skipped=dataset.skipped
    + tuple((str(dataset.source[row]), why) for row in gone),
  )


def with_copies(
  dataset: datasets.Dataset, copies: Sequence[int], each: int, seed: int
) -> datasets.Dataset:
  """The set with some of its images several times, one row a copy.

  Args:
    dataset: distinct images.
    copies: numbers of copies.
    each: images for each of these numbers.
    seed: of which these are.

  Raises:
    ValueError: if there are not so many images.
  """
  if each * len(copies) > len(dataset):
    raise ValueError(
      f'data.per_copies: {each} for each of {len(copies)} numbers are '
      f'more than the {len(dataset)} images'
    )
  order = prng.rng(seed, 'subset', 1).permutation(len(dataset))
  times = np.ones(len(dataset), int)
  for place, count in enumerate(copies):
    times[order[place * each : (place + 1) * each]] = count
  return dataset.subset(np.repeat(np.arange(len(dataset)), times))
