"""Intervals: agreement with a naive bootstrap, and coverage."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jaxdiff.metrics import intervals


def test_equals_a_bootstrap_that_copies_rows():
  rng = np.random.default_rng(0)
  clusters, targets = 60, 4
  is_member = rng.random((targets, clusters)) < 0.5
  scores = rng.normal(size=is_member.shape) + is_member
  cluster = np.broadcast_to(np.arange(clusters), is_member.shape)
  value, low, high = intervals.cluster_bootstrap_roc(
    scores, is_member, cluster, num_resamples=1000
  )['auc']
  np.testing.assert_allclose(
    value,
    metrics.roc_auc_score(is_member.ravel(), scores.ravel()),
    atol=1e-3,  # the ramp of near ties
  )
  copies = []
  for _ in range(1000):
    drawn = rng.integers(0, clusters, clusters)
    copies.append(
      metrics.roc_auc_score(
        is_member[:, drawn].ravel(), scores[:, drawn].ravel()
      )
    )
  np.testing.assert_allclose(
    (low, high), np.quantile(copies, [0.025, 0.975]), atol=0.02
  )


def test_clusters_widen_the_interval_when_rows_repeat():
  rng = np.random.default_rng(1)
  is_member = np.arange(100) < 50
  scores = rng.normal(size=100) + is_member
  rows = np.tile(np.arange(100), 8)
  clustered = intervals.cluster_bootstrap_roc(
    scores[rows], is_member[rows], rows
  )['auc']
  plain = intervals.cluster_bootstrap_roc(
    scores[rows], is_member[rows], np.arange(800)
  )['auc']
  assert clustered[0] == plain[0]
  # Eight copies carry the information of one: sqrt(8) times as wide.
  ratio = (clustered[2] - clustered[1]) / (plain[2] - plain[1])
  assert 2.2 < ratio < 3.5


def brute_force_median(values):
  """The narrowest pair of order statistics that holds it often enough."""
  values, count = np.sort(values), len(values)
  law = stats.binom(count, 0.5)
  best = (np.nan, np.nan)
  for d in range(1, count // 2 + 1):
    # The d-th smallest is above the median when fewer than d are below it.
    if 2 * law.cdf(d - 1) <= 0.05:
      best = values[d - 1], values[count - d]
  return best


@pytest.mark.parametrize('count', [1, 4, 5, 6, 9, 17, 64])
def test_the_medians_interval_is_exact(count):
  rng = np.random.default_rng(count)
  values = rng.normal(size=count)
  value, low, high = intervals.median(values)
  assert value == np.median(values)
  np.testing.assert_equal((low, high), brute_force_median(values))
  assert np.isnan(low) == (count < 6)
  if count >= 6:
    covered = 0
    for _ in range(1000):
      _, low, high = intervals.median(rng.exponential(size=count))
      covered += low <= np.log(2.0) <= high
    assert covered >= 930


def test_binomial_is_exact():
  # Clopper-Pearson for 0 of n: 1 - (alpha / 2)^(1 / n).
  low, high = intervals.binomial(0, 20)
  assert low == 0.0
  np.testing.assert_allclose(high, 1.0 - 0.025 ** (1 / 20))


def test_percentile_of_nothing_is_not_a_number():
  assert np.isnan(intervals.percentile(np.array([np.nan]))).all()


@pytest.mark.parametrize('num_models', [1, 8])
def test_what_was_told_without_error_is_no_certainty(num_models):
  """32 members and 32 others, all told apart: as Clopper-Pearson at best."""
  is_member = np.arange(64) < 32
  is_member = np.array([is_member, ~is_member] * num_models)[:num_models]
  cluster = np.broadcast_to(np.arange(64), is_member.shape)
  rng = np.random.default_rng(0)
  scores = 10.0 * is_member + rng.normal(size=is_member.shape)
  for value, low, high in intervals.cluster_bootstrap_roc(
    scores, is_member, cluster, fprs=(0.1,)
  ).values():
    assert value == high == 1.0
    assert 0.5 < low < 0.99


def test_an_interval_over_models_holds_both_sources():
  found = (0.8, 0.75, 0.84)
  # Equal models add nothing; one group says nothing.
  np.testing.assert_allclose(
    intervals.two_way(found, np.full(4, 0.8)), found[1:]
  )
  assert np.isnan(intervals.two_way(found, np.array([0.8]))).all()
  without = np.array([0.78, 0.80, 0.81, 0.82])
  low, high = intervals.two_way(found, without)
  angles = np.arcsin(np.sqrt(without))
  between = 3 / 4 * np.square(angles - angles.mean()).sum()
  between *= stats.t.ppf(0.975, 3) ** 2
  a, b = np.arcsin(np.sqrt([0.8, 0.75]))
  want = np.sin(a - np.sqrt((a - b) ** 2 + between)) ** 2
  assert low == pytest.approx(want) and low < 0.75 and high > 0.84
