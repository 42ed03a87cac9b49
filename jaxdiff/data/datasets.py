"""Named sets of real images: uint8 [N, H, W, C], labels, ids, groups."""

from collections.abc import Callable
import dataclasses
import hashlib

import jax
import numpy as np

from jaxdiff import keys


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Images with what is known of each.

  Attributes:
    images: uint8 [N, H, W, C].
    labels: int32 [N], below `num_classes`.
    source: [N] where each image came from, for the reader of a table.
    group: int32 [N]; images of one group fall into one half of a split.
    num_classes: number of labels.
  """

  images: np.ndarray
  labels: np.ndarray
  source: np.ndarray
  group: np.ndarray
  num_classes: int

  def __len__(self) -> int:
    return len(self.images)

  def fingerprint(self) -> str:
    """SHA-256 over images and labels, for provenance."""
    digest = hashlib.sha256()
    for array in (self.images, self.labels):
      digest.update(str((array.shape, array.dtype)).encode())
      digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()

  def subset(self, index: np.ndarray) -> 'Dataset':
    return Dataset(
      self.images[index],
      self.labels[index],
      self.source[index],
      self.group[index],
      self.num_classes,
    )


def digits() -> Dataset:
  """scikit-learn's 1,797 handwritten digits, grey 8 x 8, in its wheel."""
  from sklearn import datasets

  bunch = datasets.load_digits()
  images = np.round(bunch.images[..., None] * (255.0 / 16.0)).astype(np.uint8)
  count = len(images)
  return Dataset(
    images=images,
    labels=bunch.target.astype(np.int32),
    source=np.array([f'load_digits[{i}]' for i in range(count)]),
    group=np.arange(count, dtype=np.int32),
    num_classes=10,
  )


DATASETS: dict[str, Callable[[], Dataset]] = {'digits': digits}


def load(name: str, num_examples: int, seed: int) -> Dataset:
  """The first `num_examples` of a seeded permutation of a named set.

  Args:
    name: one of DATASETS.
    num_examples: how many to use; 0 is all of them, in their own order.
    seed: of the permutation.

  Raises:
    ValueError: for an unknown name, or more examples than there are.
  """
  if name not in DATASETS:
    raise ValueError(
      f'data.name: no data set {name!r}; there is {", ".join(DATASETS)}'
    )
  dataset = DATASETS[name]()
  if num_examples < 0 or num_examples > len(dataset):
    raise ValueError(
      f'data.num_examples: {num_examples} asked, {name} has {len(dataset)}'
    )
  if num_examples == 0:
    return dataset
  order = keys.rng(seed, 'subset').permutation(len(dataset))
  return dataset.subset(order[:num_examples])


def to_model_range(images: np.ndarray | jax.Array):
  """uint8 [0, 255] -> float32 [-1, 1], the range networks see."""
  return images.astype(np.float32) / 127.5 - 1.0
