"""Canaries: making them, exposure by hand, its nulls, and what it must find."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from jaxdiff.attacks.canaries import exposure, insertion
from jaxdiff.attacks.membership.signals import base, loss

pytestmark = pytest.mark.slow

SHAPE = (8, 8, 1)
SETTINGS = {'counts': (1, 2, 8), 'per_count': 3, 'coins': 20, 'pool': 63}


def make(num_models=3, **overrides):
  return insertion.make(0, num_models, SHAPE, 10, **SETTINGS | overrides)


def plan(made):
  class Signals:
    queries = loss.queries(base.Settings((100,), draws=2))

  return exposure.CanaryPlan(made, Signals(), seed=0)


def test_every_canary_has_its_copies_and_no_other_model_trains_on_it():
  made = make()
  images, labels, owner = made.inserted()
  assert len(images) == made.copies.sum() == len(labels)
  for model in range(3):
    mine = images[owner == model].reshape(-1, 64)
    _, counts = np.unique(mine, axis=0, return_counts=True)
    assert sorted(counts) == sorted(made.copies[model][made.copies[model] > 0])
    others = {x.tobytes() for x in images[owner != model]}
    assert not others & {x.tobytes() for x in images[owner == model]}
  assert not made.copies[:, made.pool].any()
  # Coins are fair, and decide on once or not at all.
  many = make(coins=2000).copies[:, 12:-63]
  assert set(np.unique(many)) == {0, 1}
  assert abs(many.mean() - 0.5) < 0.02


def test_pixels_are_uniform_and_further_models_change_none():
  made, more = make(), make(num_models=5)
  np.testing.assert_array_equal(more.images[:3], made.images)
  np.testing.assert_array_equal(more.copies[:3], made.copies)
  counts = np.bincount(made.images.ravel(), minlength=256)
  assert stats.chisquare(counts).pvalue > 0.001


def test_exposure_by_hand():
  pool = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
  got = exposure.exposure(np.array([0.05, 0.1, 0.35, 0.9]), pool)
  # Ranks 1, 1 (ties in the canary's favour), 4 and 8 of 8.
  np.testing.assert_allclose(got, [3.0, 3.0, 1.0, 0.0])
  assert exposure.exposure(np.array([0.0]), np.ones(1023))[0] == 10.0


def losses(made, strength, rng):
  """Normal losses, lower by `strength` for every doubling of the copies."""
  drop = strength * np.log2(1 + made.copies)
  return rng.normal(size=made.copies.shape) - drop


def summary_of(strength, seed=0, **overrides):
  made = make(**overrides)
  rng = np.random.default_rng(seed)
  own = plan(made)
  found = losses(made, strength, rng)
  rows = exposure.table(own, found)
  return rows, exposure.summarise(own, found, rows).set_index(
    ['metric', 'copies']
  )


def test_memory_is_found():
  rows, summary = summary_of(3.0)
  assert len(rows) == 3 * (4 * 3 + 40)
  value, low, high = summary.loc[('spearman', -1), ['value', 'low', 'high']]
  assert 0.5 < low < value < high
  assert summary.loc[('epsilon_lower_bound', -1), 'value'] > 0.5
  median = summary.loc['median_exposure', 'value']
  assert median.loc[0] < median.loc[1] <= median.loc[8] <= 6.0
  assert (
    summary.loc['max_exposure', 'value']
    >= summary.loc['median_exposure', 'value']
  ).all()


def test_no_memory_is_not():
  below, spearman, epsilon = 0, 0, []
  for seed in range(60):
    _, summary = summary_of(0.0, seed)
    below += summary.loc[('uniformity_p', -1), 'value'] < 0.05
    low, high = summary.loc[('spearman', -1), ['low', 'high']]
    spearman += not low <= 0.0 <= high
    epsilon.append(summary.loc[('epsilon_lower_bound_largest', -1), 'value'])
  assert below <= 8 and spearman <= 8  # of 60; 3 are to be expected
  # 95 % in each of three models: some may be above 0.
  assert np.mean(np.array(epsilon) > 0.0) <= 0.2


def test_every_count_has_as_many_canaries_and_chance_is_said():
  """The largest of the 64 coins was shown beside the largest of four."""
  tops = {copies: [] for copies in (0, 1, 2, 8)}
  medians = []
  for seed in range(40):
    rows, summary = summary_of(0.0, seed)
    top = summary.loc['max_exposure']
    assert (top['num_canaries'] == 3).all()
    for copies, values in tops.items():
      values.append(top.loc[copies, 'value'])
    medians.append(summary.loc['median_exposure', 'value'].mean())
  chance = top['chance'].iloc[0]
  rng = np.random.default_rng(0)
  drawn = [
    exposure.exposure(rng.random(3), rng.random(63)) for _ in range(4000)
  ]
  assert chance == pytest.approx(np.max(drawn, axis=1).mean(), abs=0.06)
  for values in tops.values():
    assert np.mean(values) == pytest.approx(chance, abs=0.4)
  want = summary.loc['median_exposure', 'chance'].iloc[0]
  assert want == pytest.approx(np.median(drawn, axis=1).mean(), abs=0.05)
  assert np.mean(medians) == pytest.approx(want, abs=0.2)


def test_a_saturated_exposure_is_no_certainty():
  value, low, high = exposure.mean_exposure(np.full(3, 6.0), 63)
  # Rank 1 of 63: at 95 %, up to 5.7 % of the pool may rank before it.
  assert (value, high) == (6.0, 6.0)
  assert low == pytest.approx(-np.log2(1 - 0.025 ** (1 / 63)), abs=1e-3)


def test_the_cap_is_what_perfect_separation_gives():
  made = make(coins=64)
  found = np.where(made.copies > 0, -1.0, 1.0)
  own = plan(made)
  summary = exposure.summarise(own, found, exposure.table(own, found))
  values = summary[summary['copies'] < 0].set_index('metric')['value']
  cap = values['epsilon_lower_bound_cap']
  assert values['epsilon_lower_bound'] == pytest.approx(cap)
  # Above the 2.71 that the bound of Steinke et al. can reach with 64 a side.
  assert 4.0 < cap < 6.0


def test_canaries_left_out_that_rank_too_well_are_noticed():
  made = make()
  rng = np.random.default_rng(1)
  found = losses(made, 0.0, rng)
  found[:, made.coin] -= 1.0  # as if they had been trained on all the same
  own = plan(made)
  summary = exposure.summarise(own, found, exposure.table(own, found))
  p = summary[summary['metric'] == 'uniformity_p']['value'].iloc[0]
  assert p < 1e-3


def test_the_spearman_correlation_is_that_of_ranks():
  rows = pd.DataFrame(
    {'copies': [0, 1, 2, 4, 8], 'exposure': [0.5, 2.0, 1.0, 3.0, 9.0]}
  )
  value, low, high = exposure.correlation(rows, 0)
  assert value == pytest.approx(0.9)
  assert low <= value <= high
