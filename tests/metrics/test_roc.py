"""ROC statistics against scikit-learn, by hand, and under weights."""

import numpy as np
import pytest
from sklearn import metrics

from jaxdiff.metrics import bootstrap, roc


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
    got = roc.statistics(ranking, counts[cluster])
    repeated = np.repeat(np.arange(len(scores)), counts[cluster])
    want = roc.statistics(roc.rank(scores[repeated], is_member[repeated]))
    for name in ('auc', 'tpr@fpr=0.05'):
      np.testing.assert_allclose(got[name], want[name])


def test_by_hand():
  scores = np.array([8.0, 7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
  is_member = np.array([1, 0, 1, 0, 1, 0, 1, 0], bool)
  metrics = roc.statistics(roc.rank(scores, is_member), fprs=(0.5, 1.0))
  assert metrics['auc'] == 10 / 16
  assert metrics['tpr@fpr=0.5'] == 0.75 and metrics['tpr@fpr=1'] == 1.0
  constant = roc.statistics(roc.rank(np.ones(8), is_member), fprs=(0.5,))
  assert constant['auc'] == 0.5
  assert constant['tpr@fpr=0.5'] == 0.0


def test_a_rate_that_the_negatives_cannot_resolve_is_not_a_number():
  """Distinct ones count: models that share an example do not make it two."""
  scores = np.arange(2001.0)
  is_member = np.arange(2001) >= 2000
  metrics = roc.statistics(roc.rank(scores, is_member))
  assert metrics['tpr@fpr=0.001'] == 1.0
  fewer = roc.statistics(roc.rank(scores[2:], is_member[2:]))
  assert np.isnan(fewer['tpr@fpr=0.001']) and fewer['tpr@fpr=0.01'] == 1.0
  shared = np.arange(2001) // 8
  ranking = roc.rank(scores, is_member, shared)
  metrics = roc.statistics(ranking)
  assert np.isnan(metrics['tpr@fpr=0.001'])
  assert metrics['tpr@fpr=0.01'] == 1.0 and ranking.few(0.01)


def naive_width(scores, cut):
  """2^-7 of the nearer of the scores an eighth of the ranks away."""
  rising, count = sorted(scores), len(scores)
  place = sum(x < cut for x in rising)
  reach = count // 8
  below = cut - rising[max(place - reach, 0)]
  above = rising[min(place + reach, count - 1)] - cut
  if place < reach and place + reach > count - 1:
    return 2.0**-7 * max(below, above)
  if place < reach:
    return 2.0**-7 * above
  if place + reach > count - 1:
    return 2.0**-7 * below
  return 2.0**-7 * min(below, above)


def naive_ramps(scores, is_member, weights, rates):
  """Equation (3), a pair at a time, in float64."""
  members, others = scores[is_member], scores[~is_member]
  wm, wo = weights[is_member], weights[~is_member]
  total = 0.0
  for m, w in zip(members, wm, strict=True):
    r = naive_width(scores, m)
    for o, v in zip(others, wo, strict=True):
      total += w * v * min(max((m - o) / r + 0.5, 0.0), 1.0)
  out = {'auc': total / wm.sum() / wo.sum()}
  order = np.argsort(-others, kind='stable')
  for x in rates:
    spent = np.cumsum(wo[order])
    first = int((spent <= x * wo.sum() * (1 + 1e-9)).sum())
    cut = others[order][first]
    r = naive_width(scores, cut)
    out[f'tpr@fpr={x:g}'] = (
      wm @ np.clip((members - cut) / r, 0.0, 1.0) / wm.sum()
    )
  return out


@pytest.mark.parametrize('seed', range(4))
def test_ramps_equal_their_naive_twin(seed):
  scores, is_member = example(seed)
  rng = np.random.default_rng(seed)
  # Many near-ties, at a fraction of the ramp.
  scores[200:] = scores[:200] + 1e-4 * rng.normal(size=200)
  weights = rng.exponential(size=len(scores))
  got = roc.statistics(
    roc.rank(scores, is_member, resolved=True), weights, (0.05, 0.02)
  )
  want = naive_ramps(scores, is_member, weights, (0.05, 0.02))
  for name, value in want.items():
    np.testing.assert_allclose(got[name], value, rtol=1e-9)


def test_ramps_change_nothing_where_no_scores_are_close():
  scores, is_member = example(0)
  scores = np.argsort(np.argsort(scores)).astype(float)
  plain, ramps = (
    roc.statistics(roc.rank(scores, is_member, resolved=one))
    for one in (False, True)
  )
  assert plain == pytest.approx(ramps, nan_ok=True)


def test_scores_of_many_magnitudes_keep_their_order():
  """Errors of a memoriser: 1e-10 for members, 1e-6 to 1 for others."""
  rng = np.random.default_rng(0)
  is_member = np.arange(800) < 400
  errors = np.where(
    is_member, 1e-10 * rng.random(800), 10.0 ** rng.uniform(-6, 0, 800)
  )
  for resolved in (False, True):
    ranking = roc.rank(-errors, is_member, resolved=resolved)
    figures = roc.statistics(ranking, fprs=(0.05,))
    assert figures['auc'] > 1.0 - 1e-6 and figures['tpr@fpr=0.05'] == 1.0


def test_the_last_bit_of_a_score_decides_nothing():
  """Scores that tie but for rounding, as losses of other processors do."""
  rng = np.random.default_rng(0)
  scores = np.round(rng.normal(size=(8, 400)), 2)
  is_member = rng.random(scores.shape) < 0.5
  scores += 0.3 * is_member
  cluster = np.broadcast_to(np.arange(400), scores.shape)
  found = []
  for seed in range(3):
    noise = np.random.default_rng(seed).uniform(-1, 1, scores.shape)
    moved = scores * (1.0 + 2.0**-23 * noise)
    found.append(
      bootstrap.cluster_bootstrap_roc(
        moved, is_member, cluster, num_resamples=100, fprs=(0.05, 0.01)
      )
    )
  for name, numbers in found[0].items():
    for other in found[1:]:
      np.testing.assert_allclose(other[name], numbers, atol=1e-5)
  # By steps, the same noise moves them.
  steps = [
    roc.statistics(
      roc.rank(scores + s * 1e-7 * (2 * is_member - 1), is_member), fprs=()
    )['auc']
    for s in (-1.0, 1.0)
  ]
  assert steps[1] - steps[0] > 1e-4


def test_a_resample_without_a_class_is_not_a_number():
  ranking = roc.rank(np.arange(3.0), np.array([True, False, True]), [0, 1, 0])
  for counts in ([1, 0], [0, 1]):
    weights = np.array(counts)[[0, 1, 0]]
    metrics = roc.statistics(ranking, weights, fprs=(1.0,))
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


def test_ramps_narrower_than_sums_round_stay_within_their_numbers():
  """Probabilities of a classifier that is sure: 1, and next to nothing."""
  rising = np.array([*(1e-300 * np.arange(1.0, 31.0)), 0.25, 0.5, 1.0])
  cuts, width = rising[1:30], np.full(29, 2.5e-300)
  found = roc.ramp_sums(rising, cuts, width)
  steps = np.searchsorted(rising, cuts - width)
  assert (found >= steps).all() and (found <= steps + 3).all()
  scores = np.concatenate([rising, rising[::-1]])
  member = np.arange(66) < 33
  auc = bootstrap.cluster_bootstrap_roc(
    scores, member, np.arange(66), num_resamples=40, seed=0, resolved=True
  )['auc']
  assert 0.0 <= auc[1] <= auc[0] <= auc[2] <= 1.0
