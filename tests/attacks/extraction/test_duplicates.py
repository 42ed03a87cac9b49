"""Near-duplicates: every pair within reach is found; groups hold together."""

import numpy as np
import pytest

from jaxdiff.attacks.extraction import duplicates, hits, neighbours, precision
from jaxdiff.data import datasets, splits
from jaxdiff.nearest import index as index_lib
from jaxdiff.plans import images as plans_images

pytestmark = pytest.mark.slow


def naive_groups(images, threshold, flip):
  """Joins every pair within the threshold, one after the other."""
  x = images.astype(np.float64) / 255.0
  group = np.arange(len(x))
  for i in range(len(x)):
    for j in range(i):
      versions = (x[j], x[j, :, ::-1]) if flip else (x[j],)
      if any(
        np.sqrt(np.square(x[i] - v).mean()) <= threshold for v in versions
      ):
        group[group == group[i]] = group[j]
  return duplicates.renumber(group)


@pytest.mark.parametrize('flip', [False, True])
def test_groups_equal_the_naive_twin(flip):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 240, (60, 8, 8, 1), np.uint8)
  images[4] = images[1] + 2  # RMSE 2 / 255 = 0.008
  images[7] = images[4] + 4
  images[9] = images[2, :, ::-1]
  images[20:45] = images[20] + rng.integers(0, 4, (25, 8, 8, 1), np.uint8)
  images[50:] = images[50]
  got = duplicates.groups(images, 0.02, flip)
  np.testing.assert_array_equal(got, naive_groups(images, 0.02, flip))
  assert got[1] == got[4] == got[7] and len(set(got[20:45])) == 1
  assert (got[9] == got[2]) == flip


def test_two_crowded_clusters_within_reach_are_one():
  """More near-copies than the nearest few, and a bridge between them."""
  rng = np.random.default_rng(0)
  base = rng.integers(50, 200, (1, 8, 8, 1))
  images = np.repeat(base, 24, axis=0)
  images[12:] += 4  # RMSE 4 / 255 = 0.0157 between, less than 0.006 within
  images[:, :1] += rng.integers(0, 4, (24, 1, 8, 1))
  images = images.astype(np.uint8)
  assert len(set(duplicates.groups(images, 0.0167, False))) == 1
  assert len(set(duplicates.groups(images, 0.008, False))) == 2


def test_joined_groups_hold_what_either_holds():
  joined = duplicates.join(
    np.array([0, 1, 0, 2, 3, 4]), np.array([5, 5, 6, 7, 7, 8])
  )
  np.testing.assert_array_equal(joined, [0, 0, 0, 1, 1, 2])


def test_digits_have_few_near_duplicates():
  images = datasets.digits().images
  groups = duplicates.groups(images, 0.02, False)
  assert len(images) - len(np.unique(groups)) < 10


def near_copies(repeats: int, count: int = 600) -> datasets.Dataset:
  """Real digits, each `repeats` times, +-2 of 255 apart."""
  rng = np.random.default_rng(repeats)
  order = np.random.default_rng(0).permutation(1797)
  images = datasets.digits().images[order[: count // repeats]].astype(int)
  images = np.repeat(images, repeats, axis=0)
  images = images + rng.integers(-2, 3, images.shape)
  dataset = datasets.make(
    np.clip(images, 0, 255).astype(np.uint8),
    np.zeros(len(images), np.int32),
    np.arange(len(images)),
  )
  return plans_images.join_duplicates(dataset, 0.02, False)


@pytest.mark.parametrize('repeats', [1, 2, 3, 5])
def test_near_copies_prove_nothing_of_a_generator_of_fresh_images(repeats):
  """Fresh real digits in place of samples: the true precision is 0."""
  dataset = near_copies(repeats)
  assert len(np.unique(dataset.image)) == 600 // repeats
  fresh = datasets.digits().images[
    np.random.default_rng(0).permutation(1797)[600:]
  ]
  n = min(50, 300 // repeats)
  index = index_lib.Index(dataset.images)
  # To every distinct image once; each split takes its own from these.
  near, which = neighbours.nearest_images(
    fresh, index, np.arange(600), 600 // repeats, False, dataset.image
  )
  values, excluded = [], 0
  for model in range(80 * min(repeats, 3)):
    keep = splits.keep_matrix(
      0, range(model, model + 1), dataset.group, image=dataset.image
    )[0]
    sides = [len(np.unique(dataset.image[x])) for x in (keep, ~keep)]
    assert sum(sides) == 600 // repeats and abs(sides[0] - sides[1]) <= 1
    found = {}
    samples = np.random.default_rng(model).choice(len(fresh), 600)
    for half, mask in (('training', keep), ('control', ~keep)):
      columns = which[samples]
      mine = np.argsort(~mask[columns], axis=1, kind='stable')[:, :n]
      found[f'{half}_distance'] = np.take_along_axis(
        near[samples], mine, axis=1
      )
      found[f'{half}_index'] = np.take_along_axis(columns, mine, axis=1)
    one = hits.tally(hits.collect_hits(found, dataset.image, keep, n), 0.6)
    values.append(precision.precision(one.counts))
    excluded += precision.precision_interval(one.counts)[0] > 0
  assert abs(np.mean(values)) <= 0.05, np.mean(values)
  assert excluded <= 0.07 * len(values)
