"""Data sets: what they hold, and what is refused."""

import numpy as np
import pytest

from jaxdiff.data import datasets, registry
from jaxdiff.runtime import prng


def load(number, seed):
  return datasets.choose(datasets.digits(), number, seed)


def test_digits_are_real_images():
  digits = datasets.digits()
  assert digits.images.shape == (1797, 8, 8, 1)
  assert digits.images.dtype == np.uint8
  assert digits.images.max() == 255 and digits.images.min() == 0
  assert set(digits.labels) == set(range(10))
  assert len(digits.source) == len(digits.group) == len(digits) == 1797


def test_a_subset_is_the_start_of_a_seeded_permutation():
  order = prng.rng(5, 'subset').permutation(1797)
  subset = load(100, 5)
  np.testing.assert_array_equal(
    subset.images, datasets.digits().images[order[:100]]
  )
  assert subset.source[0] == f'load_digits[{order[0]}]'
  assert len(load(0, 5)) == 1797


def test_fingerprint_tells_data_apart():
  one = load(100, 5)
  assert one.fingerprint() == load(100, 5).fingerprint()
  assert one.fingerprint() != load(100, 6).fingerprint()


@pytest.mark.parametrize('num', [-1, 1798])
def test_impossible_numbers_are_refused(num):
  with pytest.raises(ValueError, match='num_examples'):
    load(num, 0)


def test_unknown_name_lists_the_known():
  with pytest.raises(ValueError, match='digits'):
    registry.load(registry.Source('nope'))


def test_model_range():
  np.testing.assert_array_equal(
    datasets.to_model_range(np.array([0, 255], np.uint8)), [-1.0, 1.0]
  )


def test_images_are_reduced_by_means_of_squares():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 8, 12, 3)).astype(np.uint8)
  dataset = datasets.downscaled(tiny_set(images), 4)
  want = [
    [
      [np.rint(image[4 * i : 4 * i + 4, 4 * j : 4 * j + 4, c].mean())
       for c in range(3)]
      for j in range(3)
    ]
    for image in images for i in range(2)
  ]  # fmt: skip
  np.testing.assert_array_equal(
    dataset.images, np.reshape(want, (5, 2, 3, 3)).astype(np.uint8)
  )
  with pytest.raises(ValueError, match='downscale: 5 does not divide'):
    datasets.downscaled(tiny_set(images), 5)


def tiny_set(images):
  rows = np.arange(len(images), dtype=np.int32)
  return datasets.Dataset(
    images=images, labels=0 * rows, source=rows, group=rows, image=rows,
    num_classes=1,
  )  # fmt: skip


def test_a_size_that_is_not_taken_is_refused():
  with pytest.raises(ValueError, match='image_size: images of digits have'):
    registry.load(registry.Source('digits', image_size=14))
  small = registry.load(registry.Source('digits', downscale=2))
  assert small.images.shape[1:] == (4, 4, 1)
