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
