"""Average precision: scikit-learn's, and intervals that hold what they say."""

import numpy as np
import pytest
from sklearn import metrics

from jaxdiff.metrics import average_precision


def test_it_is_that_of_scikit_learn_with_ties_and_weights():
  rng = np.random.default_rng(0)
  for _ in range(50):
    scores = rng.integers(0, 6, 40).astype(float)
    positive = rng.random(40) < 0.3
    positive[:2] = True, False
    weight = rng.standard_exponential(40)
    assert average_precision.average_precision(
      scores, positive, weight
    ) == pytest.approx(
      metrics.average_precision_score(positive, scores, sample_weight=weight)
    )
    assert average_precision.average_precision(
      scores, positive
    ) == pytest.approx(metrics.average_precision_score(positive, scores))


def test_one_kind_alone_has_no_interval():
  scores, ones = np.arange(4.0), np.ones(4, bool)
  for positive in (ones, ~ones):
    found = average_precision.with_interval(scores, positive, np.arange(4))
    assert np.isnan(found).all()


def _rows(rng, count, shift, clusters):
  """Rows of which a fifth are positive; those of a cluster are alike."""
  size = count // clusters
  positive = rng.random(clusters) < 0.2
  positive[:2] = True, False
  common = rng.standard_normal(clusters) + shift * positive
  scores = np.repeat(common, size)
  if size > 1:
    scores = scores + 0.3 * rng.standard_normal(count)
  return scores, np.repeat(positive, size), np.repeat(np.arange(clusters), size)


@pytest.mark.slow
@pytest.mark.parametrize('shift', [0.0, 1.5, 4.0])
@pytest.mark.parametrize('size', [1, 4])
def test_intervals_cover(shift, size):
  """Of 200 sets of prompts: at least 0.92 hold the AP of all there are."""
  rng = np.random.default_rng(1)
  truth = average_precision.average_precision(
    *_rows(rng, 400_000, shift, 400_000 // size)[:2]
  )
  inside, width, plain = 0, [], 0
  for repeat in range(200):
    rows = _rows(rng, 100 * size, shift, 100)
    value, low, high = average_precision.with_interval(
      *rows, num_resamples=200, seed=repeat
    )
    assert low <= value <= high
    inside += low <= truth <= high
    width.append(high - low)
    alone = average_precision.with_interval(
      *rows[:2], np.arange(len(rows[0])), num_resamples=100, seed=repeat
    )
    plain += alone[1] <= truth <= alone[2]
  assert inside >= 0.92 * 200
  assert np.mean(width) < 0.6
  if size > 1 and shift == 1.5:
    assert plain < inside  # rows that are alike are no independent evidence


@pytest.mark.slow
def test_a_difference_is_paired_and_covers():
  rng = np.random.default_rng(2)

  def rows(count):
    positive = rng.random(count) < 0.3
    positive[:2] = True, False
    common = rng.standard_normal(count)
    first = common + 1.5 * positive
    second = common + 0.7 * positive + 0.3 * rng.standard_normal(count)
    return first, second, positive

  first, second, positive = rows(300_000)
  truth = average_precision.average_precision(
    first, positive
  ) - average_precision.average_precision(second, positive)
  inside = 0
  for repeat in range(200):
    value, low, high = average_precision.difference(
      *rows(150), np.arange(150), num_resamples=200, seed=repeat
    )
    assert low <= value <= high
    inside += low <= truth <= high
  assert inside >= 0.9 * 200
