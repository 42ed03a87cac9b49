"""A set of images in memory: uint8 [N, H, W, C], labels, ids, groups."""

from collections.abc import Sequence
import dataclasses
import hashlib
import re

import jax
import numpy as np

from jaxdiff.runtime import prng

# Bytes hashed at a time.
_PIECE = 2**24


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Images with what is known of each.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N], below `num_classes`.
    source: [N] where each image came from, for the reader of a table.
    group: int32 [N]; images of one group fall into one half of a split.
    image: int32 [N], equal for near-duplicates, which count as one image; they
      are of one group.
    num_classes: number of labels.
    skipped: (file, why) of images that could not be read.
    duplicates_of: what `image` was made of, in words; '' before it is made.
    duplicates: `image` of all that it was made of, where some of it is gone.
    names: of the classes; () where they have none but their numbers.
    captions: [N], what is said of each image; () where nothing is.
  """

  images: np.ndarray
  labels: np.ndarray
  source: np.ndarray
  group: np.ndarray
  image: np.ndarray
  num_classes: int
  skipped: tuple[tuple[str, str], ...] = ()
  duplicates_of: str = ''
  duplicates: np.ndarray | None = None
  names: tuple[str, ...] = ()
  captions: tuple[str, ...] = ()

  @property
  def class_names(self) -> tuple[str, ...]:
    """By label; numbers in words where the source has no names."""
    return self.names or tuple(str(i) for i in range(self.num_classes))

  def __len__(self) -> int:
    return len(self.images)

  def fingerprint(self) -> str:
    """SHA-256 over images and labels, for provenance."""
    return fingerprint(self.images, self.labels)

  def subset(self, index: np.ndarray) -> 'Dataset':
    return dataclasses.replace(
      self,
      images=self.images[index],
      labels=self.labels[index],
      source=self.source[index],
      group=self.group[index],
      image=self.image[index],
      captions=tuple(self.captions[row] for row in index)
      if self.captions
      else (),
    )


def downscaled(dataset: Dataset, factor: int) -> Dataset:
  """Images of sides divided by a factor: means of squares of pixels.

  Raises:
    ValueError: if it does not divide them.
  """
  if factor == 1:
    return dataset
  count, height, width, channels = dataset.images.shape
  if height % factor or width % factor:
    raise ValueError(
      f'data.downscale: {factor} does not divide images of {height} x {width}'
    )
  shape = count, height // factor, factor, width // factor, factor, channels
  images = np.empty((count, shape[1], shape[3], channels), np.uint8)
  step = max(1, _PIECE // (height * width * channels))
  for start in range(0, count, step):
    squares = dataset.images[start : start + step].reshape(-1, *shape[1:])
    images[start : start + step] = np.rint(squares.mean(axis=(2, 4)))
  return dataclasses.replace(dataset, images=images)


def fingerprint(images: np.ndarray, labels: np.ndarray) -> str:
  """SHA-256 over images uint8 [N, H, W, C] and labels int32 [N]."""
  digest = hashlib.sha256()
  for array in (images, labels):
    digest.update(str((array.shape, array.dtype)).encode())
    # In pieces: a set that is mapped into memory may be larger than it.
    step = max(1, _PIECE * len(array) // max(array.nbytes, 1))
    for start in range(0, len(array), step):
      digest.update(np.ascontiguousarray(array[start : start + step]).data)
  return digest.hexdigest()


def make(
  images: np.ndarray,
  labels: np.ndarray,
  source: Sequence[str],
  *,
  group: np.ndarray | None = None,
  num_classes: int | None = None,
  skipped: tuple[tuple[str, str], ...] = (),
  names: tuple[str, ...] = (),
  captions: tuple[str, ...] = (),
) -> Dataset:
  """A set; every image is a group of its own, and all labels occur, if None."""
  count = len(images)
  if num_classes is None:
    num_classes = int(labels.max(initial=0)) + 1
  return Dataset(
    images=np.ascontiguousarray(images),
    labels=labels,
    source=np.asarray(source, dtype=object),
    group=(np.arange(count) if group is None else group).astype(np.int32),
    image=np.arange(count, dtype=np.int32),
    num_classes=num_classes,
    skipped=skipped,
    names=names,
    captions=captions,
  )


def codes(values: Sequence) -> tuple[np.ndarray, tuple[str, ...]]:
  """Numbers for the values of a column, and the values in that order.

  Whole numbers are sorted as numbers, so that 10 comes after 2; anything else
  as text.

  Args:
    values: [N], words or numbers.

  Returns:
    int32 [N]; the distinct values as text.
  """
  words = [str(value) for value in values]
  names = sorted(set(words))
  if all(re.fullmatch(r'-?\d{1,20}', name) for name in names):
    names.sort(key=int)
  number = {name: i for i, name in enumerate(names)}
  return np.array([number[word] for word in words], np.int32), tuple(names)


def digits() -> Dataset:
  """scikit-learn's 1,797 handwritten digits, grey 8 x 8, in its wheel."""
  from sklearn import datasets

  bunch = datasets.load_digits()
  images = np.round(bunch.images[..., None] * (255.0 / 16.0)).astype(np.uint8)
  source = [f'load_digits[{i}]' for i in range(len(images))]
  return make(images, bunch.target.astype(np.int32), source)


def choose(dataset: Dataset, num_examples: int, seed: int) -> Dataset:
  """The first `num_examples` of a seeded permutation of a set.

  Args:
    dataset: to choose from.
    num_examples: how many; 0 is all of them, in their own order.
    seed: of the permutation.

  Raises:
    ValueError: for more examples than there are.
  """
  if num_examples < 0 or num_examples > len(dataset):
    raise ValueError(
      f'data.num_examples: {num_examples} asked, there are {len(dataset)}'
    )
  if num_examples == 0:
    return dataset
  order = prng.rng(seed, 'subset').permutation(len(dataset))
  return dataset.subset(order[:num_examples])


def to_model_range(images: np.ndarray | jax.Array):
  """uint8 [0, 255] -> float32 [-1, 1], the range networks see."""
  return images.astype(np.float32) / 127.5 - 1.0


def to_uint8(x0: np.ndarray) -> np.ndarray:
  """[-1, 1] -> uint8 [0, 255], rounded to nearest."""
  return np.clip(np.rint((x0 + 1.0) * 127.5), 0, 255).astype(np.uint8)
