"""Extrapolation where the truth is known: uniform, Zipf, and rare hits."""

import numpy as np
import pytest

from jaxdiff.attacks.extraction import extrapolation

REPETITIONS = 1000


def chances(kind):
  """Of each image to be hit by one sample; the rest hits nothing."""
  if kind == 'uniform':
    return np.full(300, 1 / 300)
  if kind == 'rarely':
    return np.full(300, 0.05 / 300)
  zipf = 1.0 / np.arange(1, 2001)
  return zipf / zipf.sum()


@pytest.mark.parametrize(
  ('kind', 'samples'),
  [('uniform', 150), ('uniform', 600), ('zipf', 500), ('zipf', 4000),
   ('zipf', 200), ('rarely', 6000)],
)  # fmt: skip
def test_the_interval_covers_the_truth_at_twice_as_often_as_it_says(
  kind, samples
):
  rng = np.random.default_rng(0)
  p = chances(kind)
  covered, error = 0, []
  for _ in range(REPETITIONS):
    draws = [
      rng.multinomial(samples, np.append(p, 1.0 - p.sum()).clip(0))[:-1]
      for _ in range(2)
    ]
    told = extrapolation.at_twice(draws[0], samples)
    truth = (sum(draws) > 0).sum()
    covered += told.low <= truth <= told.high
    error.append(told.value - truth)
  # 95 % of 1,000, within the binomial's 99.8 % and one for the approximation.
  assert 920 <= covered <= 970, covered
  assert abs(np.mean(error)) < 4 * np.std(error) / np.sqrt(REPETITIONS)


@pytest.mark.parametrize(('kind', 'samples'), [('uniform', 300), ('zipf', 900)])
def test_the_lower_bound_is_one(kind, samples):
  rng = np.random.default_rng(1)
  p = chances(kind)
  told = [
    extrapolation.at_least(rng.multinomial(samples, p), samples)
    for _ in range(REPETITIONS)
  ]
  # Exact for equal chances, below the truth for others.
  mean = np.mean([one.value for one in told])
  assert mean < 1.02 * len(p)
  assert (mean > 0.97 * len(p)) == (kind == 'uniform')
  # Its interval begins above the truth no more often than it says.
  assert np.mean([one.low > len(p) for one in told]) < 0.05
  assert all(one.low <= one.value <= one.high for one in told)


def test_the_estimators_by_hand():
  hits = np.array([0, 1, 1, 1, 2, 2, 3, 5])
  told = extrapolation.at_twice(hits, 100)
  assert told.value == 7 + (3 - 2 + 1 + 1)
  # Terms sign x k x taper: three of 1, two of -2, one of 3, and 5 x 3 / 5.
  terms = np.array([1, 1, 1, -2, -2, 3, 3])
  common = max(terms.sum() ** 2 - (terms**2).sum(), 0)
  variance = 7 + 3 - 2 * common / 100
  assert told.high == pytest.approx(10 + 1.959964 * np.sqrt(variance))
  bound = extrapolation.at_least(hits, 100)
  assert bound.value == pytest.approx(7 + 0.99 * 3 * 2 / (2 * 3))


@pytest.mark.parametrize('hits', [[], [0, 0], [4, 6], [1]])
def test_few_hits_claim_nothing_impossible(hits):
  hits = np.array(hits, int)
  now = (hits > 0).sum()
  for told in (
    extrapolation.at_twice(hits, 16), extrapolation.at_least(hits, 16),
  ):  # fmt: skip
    assert now <= told.low <= told.value <= told.high <= now + 16


def test_the_first_half_is_held_against_the_whole():
  rng = np.random.default_rng(2)
  first, second = rng.multinomial(200, chances('uniform'), size=2)
  rows = extrapolation.table(first + second, first, 400, 300)
  rows = rows.set_index('metric')
  predicted = rows.loc['half_predicts']
  assert predicted['low'] <= rows.loc['extracted', 'value']
  assert rows.loc['extracted', 'value'] <= predicted['high']
  assert rows.loc['at_twice', 'value'] > rows.loc['extracted', 'value']
  few = extrapolation.table(first + second, first, 400, 210)
  assert few[['value', 'low', 'high']].max().max() <= 210


def test_no_hit_is_no_certainty():
  """The rule of three: 0 of n samples allow 3.7 hits of as many more."""
  none = np.zeros(5, int)
  for told in (
    extrapolation.at_twice(none, 100), extrapolation.at_least(none, 100),
  ):  # fmt: skip
    assert told.value == told.low == 0.0
    assert 3.0 < told.high < 6.0
  # Of images hit by one sample in 100 in all, none in the first 100.
  rng = np.random.default_rng(0)
  new = rng.binomial(100, 0.01, 2000)[rng.binomial(100, 0.01, 2000) == 0]
  assert (new <= extrapolation.at_twice(none, 100).high).mean() > 0.95
