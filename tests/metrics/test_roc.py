"""ROC statistics against scikit-learn, by hand, and under weights."""

import numpy as np
import pytest
from sklearn import metrics

from jaxdiff.metrics import roc


def example(seed, count=400, ties=False):
  rng = np.random.default_rng(seed)
  is_member = rng.random(count) < 0.4
  scores = rng.normal(size=count) + is_member
  return (np.round(scores * 2) if ties else scores), is_member


def by_hand_tpr(scores, is_member, x):
  best = 0.0
  for cut in np.unique(scores):
    fpr = (scores[~is_member] >= cut).mean()
    if fpr <= x:
      best = max(best, (scores[is_member] >= cut).mean())
  return best


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('seed', range(5))
def test_equals_scikit_learn(seed, ties):
  scores, is_member = example(seed, ties=ties)
  ranking = roc.rank(scores, is_member)
  fpr, tpr, threshold = roc.curve(ranking)
  want = metrics.roc_curve(is_member, scores, drop_intermediate=False)
  for got, expected in zip((fpr, tpr, threshold), want, strict=True):
    np.testing.assert_allclose(got, expected)
  figures = roc.statistics(ranking)
  np.testing.assert_allclose(
    figures['auc'], metrics.roc_auc_score(is_member, scores)
  )
  for x in (0.05, 0.01):
    np.testing.assert_allclose(
      figures[f'tpr@fpr={x}'], by_hand_tpr(scores, is_member, x)
    )


@pytest.mark.parametrize('ties', [False, True])
def test_counts_equal_repeated_rows(ties):
  scores, is_member = example(7, ties=ties)
  cluster = np.arange(len(scores)) % 90
  ranking = roc.rank(scores, is_member, cluster)
  for counts in np.random.default_rng(0).integers(0, 4, (3, 90)):
    got = roc.statistics(ranking, counts)
    repeated = np.repeat(np.arange(len(scores)), counts[cluster])
    want = roc.statistics(roc.rank(scores[repeated], is_member[repeated]))
    for name in ('auc', 'tpr@fpr=0.05', 'tpr@fpr=0.01'):
      np.testing.assert_allclose(got[name], want[name])


def test_by_hand():
  scores = np.array([4.0, 3.0, 2.0, 1.0])
  is_member = np.array([True, False, True, False])
  metrics = roc.statistics(roc.rank(scores, is_member), fprs=(0.5, 1.0))
  assert metrics['auc'] == 0.75
  assert metrics['tpr@fpr=0.5'] == 1.0 and metrics['tpr@fpr=1'] == 1.0
  constant = roc.statistics(roc.rank(np.ones(4), is_member), fprs=(0.5,))
  assert constant['auc'] == 0.5
  assert constant['tpr@fpr=0.5'] == 0.0


def test_a_rate_that_the_negatives_cannot_resolve_is_not_a_number():
  scores, is_member = example(0)
  assert np.isnan(roc.statistics(roc.rank(scores, is_member))['tpr@fpr=0.001'])
  scores = np.arange(1001.0)
  is_member = np.arange(1001) >= 1000
  metrics = roc.statistics(roc.rank(scores, is_member))
  assert metrics['tpr@fpr=0.001'] == 1.0


def test_a_resample_without_a_class_is_not_a_number():
  ranking = roc.rank(np.arange(3.0), np.array([True, False, True]), [0, 1, 0])
  for counts in ([1, 0], [0, 1]):
    metrics = roc.statistics(ranking, np.array(counts), fprs=(1.0,))
    assert np.isnan(list(metrics.values())).all()


@pytest.mark.parametrize(
  ('scores', 'is_member', 'message'),
  [
    ([1.0, np.nan], [True, False], 'finite'),
    ([1.0, np.inf], [True, False], 'finite'),
    ([1.0, 2.0], [True, True], 'non-members'),
    ([1.0, 2.0], [False, False], 'non-members'),
    ([1.0], [True, False], '1 scores'),
  ],
)
def test_bad_scores_are_refused(scores, is_member, message):
  with pytest.raises(ValueError, match=message):
    roc.rank(np.array(scores), np.array(is_member))
