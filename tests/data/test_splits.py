"""Splits: complementary, extendable, grouped, seeded."""

import numpy as np
import pytest

from jaxdiff.data import splits


@pytest.mark.parametrize('count', [8, 9, 257])
def test_pairs_are_complementary_halves(count):
  keep = splits.keep_matrix(0, range(6), np.arange(count))
  assert keep.shape == (6, count) and keep.dtype == bool
  for j in range(3):
    np.testing.assert_array_equal(keep[2 * j], ~keep[2 * j + 1])
    assert keep[2 * j].sum() == count // 2
  assert (keep[0] != keep[2]).any()


def test_an_ensemble_grows_without_changing_its_first_models():
  group = np.arange(100)
  small = splits.keep_matrix(3, range(4), group)
  large = splits.keep_matrix(3, range(12), group)
  np.testing.assert_array_equal(small, large[:4])
  np.testing.assert_array_equal(
    splits.keep_matrix(3, range(4, 12), group), large[4:]
  )
  np.testing.assert_array_equal(
    splits.keep_matrix(3, range(1), group), large[:1]
  )


def test_seeds_differ():
  group = np.arange(100)
  one = splits.keep_matrix(0, range(2), group)
  assert (one != splits.keep_matrix(1, range(2), group)).any()


@pytest.mark.parametrize('split', splits.SPLITS)
def test_groups_stay_together(split):
  group = np.random.default_rng(0).integers(0, 12, 200)
  keep = splits.keep_matrix(0, range(4), group, split)
  for name in range(12):
    assert len(np.unique(keep[:, group == name], axis=1).T) == 1
  if split != 'bernoulli':
    largest = np.bincount(group).max()
    assert (np.abs(keep.sum(axis=1) - 100) <= largest).all()


def test_coins_of_their_own_decide_each_group():
  """Of 400 models: fair, and of one another no example tells anything."""
  group = np.repeat(np.arange(40), 2)
  keep = splits.keep_matrix(0, range(400), group, 'bernoulli')
  share = keep[:, ::2].mean(axis=0)
  assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(400)
  sizes = keep[:, ::2].sum(axis=1)
  assert abs(sizes.var() / 10.0 - 1.0) < 0.4
  related = np.corrcoef(keep[:, ::2].T) - np.eye(40)
  assert np.abs(related).max() < 5 / np.sqrt(400)
  grown = splits.keep_matrix(0, range(3), group, 'bernoulli')
  np.testing.assert_array_equal(grown, keep[:3])
  assert splits.left_out_together(4, 'bernoulli').tolist() == [0, 1, 2, 3]


def test_independent_models_have_halves_of_their_own():
  keep = splits.keep_matrix(0, range(4), np.arange(100), 'independent')
  assert (keep.sum(axis=1) == 50).all()
  for one, two in ((0, 1), (1, 2), (0, 3)):
    # Independent halves share about a quarter of all; mates share none.
    assert 15 <= (keep[one] & keep[two]).sum() <= 35
  np.testing.assert_array_equal(
    splits.left_out_together(4, 'independent'), np.arange(4)
  )


def test_mates_are_left_out_together():
  np.testing.assert_array_equal(splits.left_out_together(5), [0, 0, 1, 1, 2])


def test_unknown_split_is_refused():
  with pytest.raises(ValueError, match='independent'):
    splits.keep_matrix(0, range(2), np.arange(10), 'nope')
