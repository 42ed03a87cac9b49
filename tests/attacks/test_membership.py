"""LiRA against a naive twin; null controls; what it refuses."""

import numpy as np
import pytest
from scipy import stats

from jaxdiff.attacks import membership
from jaxdiff.data import splits
from jaxdiff.metrics import intervals, roc


def naive_lira(signals, keep, left_out, variance):
  """One target and example at a time, in float64."""
  signals = signals.astype(np.float64)
  num_models, count, columns = signals.shape
  scores = np.zeros(signals.shape)
  for k in range(num_models):
    shadows = left_out != left_out[k]
    for q in range(columns):
      mean, scatter, free = {}, {}, {}
      for side in (True, False):
        mean[side], scatter[side], free[side] = np.zeros((3, count))
        for n in range(count):
          values = signals[shadows & (keep[:, n] == side), n, q]
          mean[side][n] = values.mean()
          scatter[side][n] = ((values - values.mean()) ** 2).sum()
          free[side][n] = len(values) - 1
      for side, sign in ((True, 1), (False, -1)):
        if variance == 'pooled':
          var = np.full(count, scatter[side].sum() / free[side].sum())
        else:
          var = scatter[side] / free[side]
        scores[k, :, q] += sign * stats.norm.logpdf(
          signals[k, :, q], mean[side], np.sqrt(var)
        )
  return scores


def make(seed, num_models, count, columns=1, gap=0.0, scale=1.0, offset=0.0):
  rng = np.random.default_rng(seed)
  keep = splits.keep_matrix(seed, range(num_models), np.arange(count))
  noise = rng.normal(size=(num_models, count, columns))
  base = rng.normal(size=(1, count, 1))
  signals = offset + scale * (base + noise - gap * keep[..., None])
  return signals.astype(np.float32), keep, splits.left_out_together(num_models)


@pytest.mark.parametrize('variance', membership.VARIANCES)
@pytest.mark.parametrize('num_models', [6, 8, 11])
def test_equals_the_naive_twin(variance, num_models):
  signals, keep, left_out = make(0, num_models, 40, columns=3, gap=1.0)
  if num_models == 11:  # the last model has no mate: enough remain
    assert membership.enough_shadows(keep, left_out).all()
  got = membership.lira(signals, keep, left_out, variance=variance)
  want = naive_lira(signals, keep, left_out, variance)
  # Two shadows a side can nearly coincide: scores of 10^5, hence relative.
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variance', membership.VARIANCES)
def test_small_spread_on_a_large_mean_survives_float32(variance):
  signals, keep, left_out = make(1, 16, 60, gap=1.0, scale=1e-3, offset=1.0)
  got = membership.lira(signals, keep, left_out, variance=variance)
  want = naive_lira(signals, keep, left_out, variance)
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_two_far_apart_sides_survive_float32():
  # Losses of members 1e-4 of the others': their spread must not drown.
  rng = np.random.default_rng(2)
  _, keep, left_out = make(2, 16, 50)
  shape = keep.shape + (1,)
  inside = 1e-3 + 1e-6 * rng.normal(size=shape)
  outside = 1.0 + 0.3 * rng.normal(size=shape)
  signals = np.where(keep[..., None], inside, outside).astype(np.float32)
  got = membership.lira(signals, keep, left_out)
  want = naive_lira(signals, keep, left_out, 'pooled')
  np.testing.assert_allclose(got, want, rtol=1e-3)


@pytest.mark.parametrize('variance', membership.VARIANCES)
@pytest.mark.parametrize('num_models', [6, 8, 16])
def test_pure_noise_is_not_membership(variance, num_models):
  # 100 seeded repetitions: AUC 0.5 lies in the 95 % interval in 90 to 99.
  count = 150
  cluster = np.broadcast_to(np.arange(count), (num_models, count))
  inside, aucs = 0, []
  for seed in range(100):
    signals, keep, left_out = make(seed, num_models, count)
    scores = membership.lira(signals, keep, left_out, variance=variance)
    value, low, high = intervals.cluster_bootstrap_roc(
      scores[..., 0], keep, cluster, num_resamples=400, seed=seed, fprs=()
    )['auc']
    inside += low <= 0.5 <= high
    aucs.append(value)
  assert 90 <= inside <= 99
  # No bias either: the mean of 100 is within 4 standard errors.
  assert abs(np.mean(aucs) - 0.5) < 4 * np.std(aucs) / 10


def test_leaving_out_the_target_alone_is_the_trap():
  # Every example in exactly half of the models: the counts of the others
  # give the target away, and pure noise scores off 0.5.
  aucs = []
  for seed in range(60):
    signals, keep, _ = make(seed, 8, 150)
    scores = membership.lira(
      signals, keep, np.arange(8), variance='per_example'
    )
    ranking = roc.rank(scores[..., 0], keep)
    aucs.append(roc.statistics(ranking, fprs=())['auc'])
  assert np.mean(aucs) < 0.46


def test_a_gap_is_found_and_larger_means_member():
  signals, keep, left_out = make(3, 8, 200, gap=3.0)
  for attack in (membership.lira, membership.threshold):
    scores = attack(signals, keep, left_out)
    assert roc.statistics(roc.rank(scores[..., 0], keep))['auc'] > 0.9


@pytest.mark.parametrize('num_models', [2, 3, 4, 5])
def test_too_few_shadows_are_refused_naming_examples(num_models):
  signals, keep, left_out = make(0, num_models, 20)
  assert not membership.enough_shadows(keep, left_out).all()
  with pytest.raises(ValueError, match=r'num_models') as error:
    membership.lira(signals, keep, left_out)
  assert '[0, 1, 2, 3, 4]' in str(error.value) or num_models == 5


def test_unknown_variance_is_refused():
  signals, keep, left_out = make(0, 8, 20)
  with pytest.raises(ValueError, match='per_example'):
    membership.lira(signals, keep, left_out, variance='nope')
