"""Overlap against counting by hand, and against chance."""

import math

import numpy as np
import pytest

from jaxdiff.attacks.extraction import overlap
from jaxdiff.data import splits


def test_the_p_value_by_hand():
  first = np.array([1, 1, 1, 0, 0, 0, 0, 1], bool)
  second = np.array([1, 1, 0, 0, 0, 1, 0, 1], bool)
  both = np.array([1, 1, 1, 1, 1, 1, 1, 0], bool)
  got = overlap.compare(first, second, both)
  assert (got['population'], got['common']) == (7, 2)
  assert (got['first_extracted'], got['second_extracted']) == (3, 3)
  assert got['expected'] == pytest.approx(9 / 7)
  ways = [math.comb(3, k) * math.comb(4, 3 - k) for k in (2, 3)]
  assert got['p_value'] == pytest.approx(
    (0.5 * ways[0] + ways[1]) / math.comb(7, 3)
  )


def test_strata_are_added_up():
  rng = np.random.default_rng(0)
  first, second = rng.random((2, 30)) < 0.4
  stratum = np.arange(30) % 3
  got = overlap.compare(first, second, np.ones(30, bool), stratum)
  # By shuffling within strata.
  common = []
  for _ in range(20_000):
    total = 0
    for name in range(3):
      here = stratum == name
      total += (first[here] & rng.permutation(second[here])).sum()
    common.append(total)
  common = np.array(common)
  want = (common > got['common']).mean() + (common == got['common']).mean() / 2
  assert got['p_value'] == pytest.approx(want, abs=0.01)
  assert got['expected'] == pytest.approx(common.mean(), abs=0.05)


@pytest.mark.parametrize('num_models', [2, 4, 8])
def test_runs_that_share_their_splits_agree_by_chance_alone(num_models):
  """Images that more models saw are hit more, in both runs."""
  p = []
  for seed in range(200):
    keep = splits.keep_matrix(
      seed, range(num_models), np.arange(800), 'independent'
    )
    rng = np.random.default_rng(seed)
    hits = [(rng.random(keep.shape) < 0.06) & keep for _ in range(2)]
    p.append(overlap.between_families(hits[0], keep, hits[1], keep)['p_value'])
  share = np.mean(np.array(p) < 0.05)
  assert 0.02 <= share <= 0.08, share


def test_the_papers_numbers():
  # Section 6: 1,280 and 361 of 50,000 images, 244 in common.
  first, second = np.zeros((2, 50_000), bool)
  first[:1280] = True
  second[1280 - 244 : 1280 - 244 + 361] = True
  got = overlap.compare(first, second, np.ones(50_000, bool))
  assert got['common'] == 244
  assert got['expected'] == pytest.approx(9.2, abs=0.1)
  assert 0.0 <= got['p_value'] < 1e-261


def test_chance_overlap_is_seldom_called_more():
  rng = np.random.default_rng(0)
  p = [
    overlap.compare(*(rng.random((2, 200)) < 0.3), np.ones(200, bool))[
      'p_value'
    ]
    for _ in range(300)
  ]
  assert np.mean(np.array(p) < 0.05) < 0.08


def test_pairs_without_shared_images_are_left_out():
  trained_on = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]], bool)
  rows = overlap.between_models(trained_on, trained_on)
  assert rows[['first', 'second']].to_numpy().tolist() == [[0, 2], [1, 2]]
  assert rows['common'].tolist() == [1, 1]
  none = overlap.between_models(trained_on[:2], trained_on[:2])
  assert none.empty and 'p_value' in none.columns


def test_families_are_compared_on_what_both_trained_on():
  hit = np.array([[1, 0, 0, 0], [0, 1, 0, 0]], bool)
  trained_on = np.array([[1, 1, 0, 0], [0, 1, 1, 0]], bool)
  got = overlap.between_families(
    hit, trained_on, np.array([[1, 0, 0, 1]], bool), np.ones((1, 4), bool)
  )
  assert (got['population'], got['common']) == (3, 1)
