"""LiRA against a naive twin; null controls; what it refuses."""

import functools

import jax
import numpy as np
import pytest
from scipy import optimize, special, stats

from jaxdiff.attacks.membership import lira, moments, rmia
from jaxdiff.data import splits
from jaxdiff.metrics import bootstrap, roc
from jaxdiff.runtime import mesh

pytestmark = pytest.mark.slow

# Examples, where any number will do: one compiled shape.
COUNT = 150


def naive_shrink(var, freedom):
  """Smyth (2004), section 6, with a bracketing root finder."""
  log_var = np.log(var) - special.digamma(freedom / 2) + np.log(freedom / 2)
  excess = log_var.var(ddof=1) - special.polygamma(1, freedom / 2).mean()
  prior = 1e4
  if excess > 1e-6:
    root = optimize.brentq(
      lambda x: special.polygamma(1, x) - excess, 1e-3, 1e7
    )
    prior = min(2 * root, 1e4)
  prior_var = np.exp(
    log_var.mean() + special.digamma(prior / 2) - np.log(prior / 2)
  )
  total = prior + freedom
  return (prior * prior_var + freedom * var) / total, total


def naive_lira(signals, keep, left_out, variance, online=True):
  """One target and example at a time, in float64."""
  signals = signals.astype(np.float64)
  num_models, count, columns = signals.shape
  scores = np.zeros(signals.shape)
  for k in range(num_models):
    shadows = left_out != left_out[k]
    for q in range(columns):
      for side, sign in ((True, 1), (False, -1)):
        if side and not online:
          continue
        mean, scatter, free = np.zeros((3, count))
        for n in range(count):
          values = signals[shadows & (keep[:, n] == side), n, q]
          mean[n] = values.mean()
          scatter[n] = ((values - values.mean()) ** 2).sum()
          free[n] = len(values) - 1
        if variance == 'pooled':
          var = np.full(count, scatter.sum() / free.sum())
        else:
          var = scatter / free
        own = signals[k, :, q]
        if variance == 'shrunken':
          var, free_now = naive_shrink(var, free)
          sd = np.sqrt(var * (1 + 1 / (free + 1)))
          density = stats.t.logpdf(own, free_now, mean, sd)
        else:
          sd = np.sqrt(var)
          density = stats.norm.logpdf(own, mean, sd)
        scores[k, :, q] += sign * density if online else (mean - own) / sd
  return scores


def naive_rmia(signals, keep, left_out, gamma, online, a):
  """One target, example and population member at a time, in float64."""
  probability = np.exp(-signals.astype(np.float64))
  num_models, count, columns = signals.shape
  scores = np.zeros(signals.shape)
  for k in range(num_models):
    shadows = left_out != left_out[k]
    for q in range(columns):
      ratio = np.zeros(count)
      for n in range(count):
        by_side = [
          probability[shadows & (keep[:, n] == side), n, q].mean()
          for side in ((True, False) if online else (False,))
        ]
        marginal = np.mean(by_side)
        if not online:
          marginal = ((1 + a) * by_side[0] + (1 - a)) / 2
        ratio[n] = probability[k, n, q] / marginal
      for n in range(count):
        # By the ramp of roc.widths, whose top is where the two are equal.
        cut, rising = np.log(ratio[n] / gamma), np.sort(np.log(ratio))
        place, reach = (rising < cut).sum(), count // 8
        below = cut - rising[max(place - reach, 0)]
        above = rising[min(place + reach, count - 1)] - cut
        width = min(below, above)
        if place < reach:
          width = above
        elif place + reach > count - 1:
          width = below
        width = 2.0**-7 * max(width, 0.0)
        short = np.log(np.delete(ratio, n)) - cut
        beaten = short <= 0.0
        if width:
          beaten = np.clip(1.0 - short / width, 0.0, 1.0)
        scores[k, n, q] = beaten.mean()
  return scores


def make(seed, num_models, count, columns=1, gap=0.0, scale=1.0, offset=0.0):
  rng = np.random.default_rng(seed)
  keep = splits.keep_matrix(seed, range(num_models), np.arange(count))
  noise = rng.normal(size=(num_models, count, columns))
  base = rng.normal(size=(1, count, 1))
  signals = offset + scale * (base + noise - gap * keep[..., None])
  return signals.astype(np.float32), keep, splits.left_out_together(num_models)


@pytest.mark.parametrize('online', [True, False])
@pytest.mark.parametrize('variance', lira.VARIANCES)
@pytest.mark.parametrize('num_models', [6, 8, 11])
def test_equals_the_naive_twin(variance, num_models, online):
  # Of 11 models the last has no mate: enough remain.
  signals, keep, left_out = make(0, num_models, 40, columns=3, gap=1.0)
  got = lira.lira(signals, keep, left_out, variance=variance, online=online)
  want = naive_lira(signals, keep, left_out, variance, online)
  # Two shadows a side can nearly coincide: scores of 10^5, hence relative.
  np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('variance', lira.VARIANCES)
def test_devices_and_chunks_change_nothing(variance, monkeypatch):
  monkeypatch.setattr(lira, '_CHUNK', 8 * 3 * 7)  # 7 examples a chunk
  lira._lira.clear_cache()
  signals, keep, left_out = make(1, 8, 101, 3, gap=1.0)
  want = naive_lira(signals, keep, left_out, variance)
  for number in (1, 2, 4):
    found = lira.lira(
      signals, keep, left_out, variance=variance,
      mesh=mesh.make(1, jax.devices()[:number]),
    )  # fmt: skip
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
  lira._lira.clear_cache()


@pytest.mark.parametrize('attack', [lira.lira, rmia.rmia])
def test_columns_in_pieces_change_nothing(attack, monkeypatch):
  signals, keep, left_out = make(2, 8, 31, 5, gap=1.0)
  want = attack(signals, keep, left_out)
  monkeypatch.setattr(lira, '_NUMBERS', 2 * 8 * 31)
  assert len(lira.column_pieces(signals.shape)) == 3
  got = attack(signals, keep, left_out)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('online', [True, False])
@pytest.mark.parametrize('gamma', [0.8, 1.0, 2.0])
def test_rmia_equals_the_naive_twin(gamma, online):
  signals, keep, left_out = make(0, 8, 30, columns=2, gap=1.0)
  got = rmia.rmia(
    signals, keep, left_out, gamma=gamma, online=online, offline_a=0.4
  )
  want = naive_rmia(signals, keep, left_out, gamma, online, 0.4)
  # A tie to rounding may fall on the other side where there is no ramp.
  assert np.abs(got - want).max() < 1.01 / 29
  assert (np.abs(got - want) > 1e-4).mean() < 0.02


def test_inverse_trigamma():
  x = np.array([0.3, 1.0, 5.0, 80.0, 5000.0], np.float32)
  y = special.polygamma(1, x).astype(np.float32)
  np.testing.assert_allclose(moments._inverse_trigamma(y), x, rtol=2e-3)


def test_log_gamma_step():
  x = np.array([0.5, 1.0, 7.9, 8.1, 50.0, 5000.0], np.float32)
  exact = x.astype(np.float64)
  want = special.gammaln(exact + 0.5) - special.gammaln(exact)
  np.testing.assert_allclose(moments._log_gamma_step(x), want, atol=2e-6)


def test_shrunken_variances_lie_between_the_extremes():
  # Variances that truly differ: shrinkage must beat both extremes.
  rng = np.random.default_rng(0)
  aucs = dict.fromkeys(lira.VARIANCES, 0.0)
  for seed in range(6):
    _, keep, left_out = make(seed, 8, 300)
    scale = np.exp(rng.normal(0, 1.0, (1, 300, 1)))
    signals = scale * (rng.normal(size=(8, 300, 1)) - 1.5 * keep[..., None])
    for variance in lira.VARIANCES:
      scores = lira.lira(signals, keep, left_out, variance=variance)
      ranking = roc.rank(scores[..., 0], keep)
      aucs[variance] += roc.statistics(ranking, fprs=())['auc'] / 6
  assert aucs['shrunken'] > aucs['per_example'] + 0.02
  assert aucs['shrunken'] > aucs['pooled']


@pytest.mark.parametrize('variance', lira.VARIANCES)
def test_small_spread_on_a_large_mean_survives_float32(variance):
  signals, keep, left_out = make(1, 16, COUNT, gap=1.0, scale=1e-3, offset=1.0)
  got = lira.lira(signals, keep, left_out, variance=variance)
  want = naive_lira(signals, keep, left_out, variance)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_two_far_apart_sides_survive_float32():
  # Losses of members 1e-4 of the others': their spread must not drown.
  rng = np.random.default_rng(2)
  _, keep, left_out = make(2, 16, COUNT)
  shape = keep.shape + (1,)
  inside = 1e-3 + 1e-6 * rng.normal(size=shape)
  outside = 1.0 + 0.3 * rng.normal(size=shape)
  signals = np.where(keep[..., None], inside, outside).astype(np.float32)
  got = lira.lira(signals, keep, left_out)
  want = naive_lira(signals, keep, left_out, 'pooled')
  np.testing.assert_allclose(got, want, rtol=1e-3)


ATTACKS = {
  **{
    variance: functools.partial(lira.lira, variance=variance)
    for variance in lira.VARIANCES
  },
  'offline': functools.partial(lira.lira, online=False),
  'rmia': rmia.rmia,
}


@pytest.mark.parametrize('attack', ATTACKS)
@pytest.mark.parametrize('num_models', [6, 8, 16])
def test_pure_noise_is_not_membership(attack, num_models):
  # 100 seeded repetitions: AUC 0.5 lies in the 95 % interval in 90 to 99.
  cluster = np.broadcast_to(np.arange(COUNT), (num_models, COUNT))
  inside, aucs = 0, []
  for seed in range(100):
    signals, keep, left_out = make(seed, num_models, COUNT)
    scores = ATTACKS[attack](signals, keep, left_out)
    value, low, high = bootstrap.cluster_bootstrap_roc(
      scores[..., 0], keep, cluster, num_resamples=160, seed=seed, fprs=()
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
    signals, keep, _ = make(seed, 8, COUNT)
    scores = lira.lira(signals, keep, np.arange(8), variance='per_example')
    ranking = roc.rank(scores[..., 0], keep)
    aucs.append(roc.statistics(ranking, fprs=())['auc'])
  assert np.mean(aucs) < 0.46


def test_a_gap_is_found_and_larger_means_member():
  signals, keep, left_out = make(3, 8, COUNT, gap=3.0)
  for attack in (*ATTACKS.values(), lira.threshold):
    scores = attack(signals, keep, left_out)
    assert roc.statistics(roc.rank(scores[..., 0], keep))['auc'] > 0.88


@pytest.mark.parametrize('num_models', [2, 3, 4])
def test_too_few_shadows_are_refused(num_models):
  signals, keep, left_out = make(0, num_models, 20)
  assert not lira.enough_shadows(keep, left_out).any()
  with pytest.raises(ValueError, match=r'train more models'):
    lira.lira(signals, keep, left_out)


def test_a_lone_model_has_shadows_where_pairs_have_not():
  signals, keep, left_out = make(0, 5, 20)
  for scores in (
    lira.lira(signals, keep, left_out),
    rmia.rmia(signals, keep, left_out),
  ):
    assert np.isnan(scores[:4]).all() and np.isfinite(scores[4]).all()


def independent(seed, num_models, count):
  """Pure noise with a spread of its own for every example."""
  rng = np.random.default_rng(seed)
  keep = splits.keep_matrix(
    seed, range(num_models), np.arange(count), 'independent'
  )
  scale = np.exp(rng.normal(size=(1, count, 1)))
  signals = scale * rng.normal(size=(num_models, count, 1))
  left_out = splits.left_out_together(num_models, 'independent')
  return signals.astype(np.float32), keep, left_out


@pytest.mark.parametrize('num_models', [6, 8])
@pytest.mark.parametrize('variance', lira.VARIANCES)
def test_unequal_numbers_of_shadows_equal_the_naive_twin(variance, num_models):
  signals, keep, left_out = independent(0, num_models, COUNT)
  usable = lira.enough_shadows(keep, left_out)
  for k, n in np.ndindex(*keep.shape):
    others = np.delete(keep[:, n], k)
    assert usable[k, n] == (min(others.sum(), (~others).sum()) >= 2)
  got = lira.lira(signals, keep, left_out, variance=variance)
  np.testing.assert_array_equal(np.isfinite(got[..., 0]), usable)
  if variance != 'shrunken':  # its prior is fitted to all examples at once
    every = usable.all(axis=0)
    want = naive_lira(signals[:, every], keep[:, every], left_out, variance)
    if variance == 'per_example':
      np.testing.assert_allclose(got[:, every], want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
  'attack', ['pooled', 'per_example', 'shrunken', 'rmia']
)
@pytest.mark.parametrize('num_models', [6, 8, 12])
def test_pure_noise_is_not_membership_under_independent_splits(
  attack, num_models
):
  """Dropping examples by their count over all models scored .37 to .49."""
  aucs = []
  for seed in range(60):
    signals, keep, left_out = independent(seed, num_models, COUNT)
    scores = ATTACKS[attack](signals, keep, left_out)[..., 0]
    usable = lira.enough_shadows(keep, left_out)
    ranking = roc.rank(scores[usable], keep[usable])
    aucs.append(roc.statistics(ranking, fprs=())['auc'])
  assert abs(np.mean(aucs) - 0.5) < 4 * np.std(aucs) / np.sqrt(60)
  assert abs(np.mean(aucs) - 0.5) < 0.02


def test_unknown_variance_is_refused():
  signals, keep, left_out = make(0, 8, 20)
  with pytest.raises(ValueError, match='per_example'):
    lira.lira(signals, keep, left_out, variance='nope')
