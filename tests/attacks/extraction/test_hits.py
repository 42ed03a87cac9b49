"""Counting: rules by hand, near-duplicates, intervals that cover."""

import numpy as np
import pytest
from scipy import spatial, stats

from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.attacks.extraction import precision, thresholds


def test_ratio_is_equation_1():
  found = np.array([[0.1, 0.3, 0.5], [0.0, 0.0, 0.9], [0.0, 0.0, 0.0]])
  np.testing.assert_allclose(hits_lib.ratios(found, 3), [0.1 / 0.3, 0.0, 0.0])
  np.testing.assert_allclose(hits_lib.ratios(found, 2), [0.5, 0.0, 0.0])


def neighbours(training, control):
  """From lists of (image, nearest distance); the second is always 1."""
  out = {}
  for half, rows in (('training', training), ('control', control)):
    out[f'{half}_distance'] = np.array([[d, 1.0] for _, d in rows], np.float32)
    out[f'{half}_index'] = np.array([[i, 0] for i, _ in rows])
  return out


def test_halves_compete_and_the_rule_does_not_know_them():
  """Its nearest of all images counts, by the n nearest of all."""
  found = neighbours(
    [(0, 0.1), (1, 0.2), (2, 0.1), (3, 0.9)],
    [(5, 0.2), (6, 0.1), (7, 0.1), (6, 0.8)],
  )
  ratio = hits_lib.compete(found, 2)
  inf = np.inf
  np.testing.assert_allclose(ratio['training'], [0.1 / 0.15, inf, inf, inf])
  # As near to both sides is no evidence of training.
  np.testing.assert_allclose(
    ratio['control'], [inf, 0.1 / 0.15, 0.1 / 0.1, 0.8 / 0.85], rtol=1e-6
  )


def test_distinct_images_count_once_and_duplicates_together():
  # Ratio of d beside 1: d / ((d + 1) / 2): 0.1 -> 0.18, 0.2 -> 0.33.
  found = neighbours(
    [(0, 0.1), (0, 0.1), (1, 0.1), (2, 0.2), (3, 1.0), (3, 1.0), (3, 1.0)],
    [(5, 1.0)] * 4 + [(5, 0.1), (6, 0.9), (7, 0.1)],
  )
  groups = np.array([0, 0, 2, 3, 4, 5, 6, 5])  # 0 and 1, 5 and 7 are duplicates
  keep = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
  hits = hits_lib.collect_hits(found, groups, keep, 2, num_blocks=5)
  extracted, control = hits.counts(np.array([0.15, 0.25, 0.5]))
  np.testing.assert_array_equal(extracted, [0, 1, 2])
  np.testing.assert_array_equal(control, [0, 1, 1])
  one = hits_lib.tally(hits, 0.5)
  # Four training images, two of them near-duplicates: three; so is control.
  assert one.counts == precision.Counts(2, 1, 3, 3)
  metrics = hits_lib.with_intervals(one)
  # F = 1 x (3 - 2) / (3 - 1).
  assert metrics['precision'][0] == 1 - 0.5 / 2
  np.testing.assert_allclose(metrics['extracted_fraction'][0], 2 / 3)


def brute_force_interval(counts):
  """Every number of false hits that the hypergeometric law allows."""
  extracted, control, num_training, num_control = counts
  allowed = []
  for f in range(extracted + 1):
    others = num_training - extracted + f
    law = stats.hypergeom(others + num_control, others, f + control)
    few = sum(law.pmf(x) for x in range(f)) + 0.5 * law.pmf(f)
    if law.pmf(f) > 1 - 1e-9 or 0.025 < few < 0.975:
      allowed.append(1 - f / extracted)
  return min(allowed), max(allowed)


@pytest.mark.parametrize(
  'counts',
  [(5, 0, 50, 50), (20, 3, 50, 50), (40, 30, 60, 50), (50, 10, 50, 50),
   (9, 9, 30, 60), (12, 14, 40, 40), (30, 0, 30, 30)],
)  # fmt: skip
def test_precision_interval_equals_its_naive_twin(counts):
  counts = precision.Counts(*counts)
  low, high = brute_force_interval(counts)
  value = precision.precision(counts)
  got = precision.precision_interval(counts)
  np.testing.assert_allclose(got, (min(low, value), max(high, value)))
  for wanted in (0.2, 0.5, 0.8, 0.95):
    assert precision.surely(counts, wanted) == (got[0] >= wanted - 1e-12)


def simulate(rng, share, *, copied=0.4, num=200, alpha=0.5, samples=600):
  """Samples of which a share copies training images, the rest is fresh.

  Images are normal with a few strong directions, so that some lie near each
  other by chance. Returns (truth, counts).
  """
  scale = np.array([1.0, 1.0, 1.0, 1.0, 0.1, 0.1])
  draw = lambda count: rng.normal(size=(count, len(scale))) * scale
  images = {'training': draw(num), 'control': draw(num)}
  known = rng.permutation(num)[: int(copied * num)]
  copies = rng.random(samples) < share
  origin = np.where(copies, rng.choice(known, samples), -1)
  made = np.where(
    copies[:, None],
    images['training'][origin] + 0.02 * draw(samples),
    draw(samples),
  )
  found = {}
  for half, rows in images.items():
    tree = spatial.cKDTree(rows)
    found[f'{half}_distance'], found[f'{half}_index'] = tree.query(made, 25)
  found['control_index'] = found['control_index'] + num
  groups = np.arange(2 * num)
  hits = hits_lib.collect_hits(found, groups, groups < num, 25)
  one = hits_lib.tally(hits, alpha)
  by_sample = hits_lib.hit_by_sample(found, groups, 25, alpha)['training']
  true = np.unique(by_sample[copies & (by_sample == origin)])
  return len(true) / max(one.extracted, 1), one.counts


@pytest.mark.parametrize('share', [0.0, 0.1, 0.5, 0.9, 1.0])
def test_interval_holds_the_precision_of_models_that_copy(share):
  covered, values, truths = [], [], []
  for repeat in range(200):
    truth, counts = simulate(np.random.default_rng(repeat), share)
    low, high = precision.precision_interval(counts)
    covered.append(low - 1e-9 <= truth <= high + 1e-9)
    values.append(precision.precision(counts))
    truths.append(truth)
  assert np.mean(covered) >= 0.93
  # Of few false hits the law has large steps, and the interval is wider.
  if share in (0.1, 0.5):
    assert np.mean(covered) <= 0.985
  assert abs(np.mean(values) - np.mean(truths)) < 0.03
  if share in (0.0, 1.0):
    assert abs(np.mean(truths) - share) < 1e-9


def counts_of(training, control):
  """One sample an image: ratio by image."""
  ratios = [np.array([r], np.float32) for r in (training, control)]
  hits = hits_lib.Hits(*ratios, len(training), len(control))
  return hits.counts(hits_lib.ALPHAS)


def test_alpha_is_the_largest_that_keeps_precision():
  rng = np.random.default_rng(0)
  training = rng.uniform(0.1, 0.4, 100)
  control = np.full(100, np.inf)
  control[:5] = [0.30, 0.31, 0.32, 0.33, 0.34]
  control[5:40] = 0.37
  counts = counts_of(training, control)
  alpha = thresholds.choose_alpha(counts, 400, 400, 0.9)
  place = int(np.flatnonzero(alpha == hits_lib.ALPHAS)[0])

  def at(place):
    return precision.Counts(*counts[:, place], 400, 400)

  assert precision.precision_interval(at(place))[0] >= 0.9
  assert all(
    precision.precision_interval(at(later))[0] < 0.9
    for later in range(place + 1, len(counts.T))
  )
  # A bare 0.9 in the sample would have gone further.
  measured = np.array(
    [precision.precision(at(i)) for i in range(counts.shape[1])]
  )
  assert hits_lib.ALPHAS[measured >= 0.9].max() > alpha
  nothing = counts_of(np.full(5, np.inf), np.full(5, np.inf))
  assert thresholds.choose_alpha(nothing, 10, 10, 0.95) == 0.0


def test_targets_add_up_and_their_union_counts_once():
  hit = np.zeros((2, 3, 6), bool)
  hit[0, :, 0] = hit[1, :, 0] = True  # both targets, every block
  hit[0, 1, 1] = hit[1, 2, 2] = True
  ratio = np.where(hit, 0.1, np.inf)
  none = np.full((3, 6), np.inf)
  tallies = [
    hits_lib.tally(hits_lib.Hits(one, none, 4, 5), 0.5) for one in ratio
  ]
  pooled = hits_lib.add(tallies)
  assert pooled.counts == precision.Counts(4, 0, 8, 10)
  assert pooled.variance == tallies[0].variance + tallies[1].variance
  union = hits_lib.union(list(hit), 6)
  assert (union.extracted, union.num_training) == (3, 6)


def test_intervals_always_hold_their_value():
  for extracted in (0, 1, 5, 50, 100):
    for control in (0, 1, 10, 100):
      for variance in (0.0, 3.0):
        one = hits_lib.Tally(extracted, control, variance, 100, 100)
        for name, (value, low, high) in hits_lib.with_intervals(one).items():
          if np.isnan(value):
            assert name == 'precision' and extracted == 0
          else:
            assert low <= value <= high, (name, one)


def test_nothing_found_is_not_certainty():
  none = np.full((64, 10), np.inf)
  one = hits_lib.tally(hits_lib.Hits(none, none, 10, 10), 0.5)
  value, low, high = hits_lib.with_intervals(one)['extracted']
  assert value == low == 0 and high > 3


def test_interval_covers_what_a_fresh_set_of_samples_would_find():
  # Image i is hit by Poisson(rate_i) samples of each of 64 blocks; control
  # images rarely.
  rng = np.random.default_rng(0)
  rate = rng.gamma(0.5, 0.02, 200)
  rare = np.full(100, 0.0008)
  expected = {
    'extracted': (1 - np.exp(-64 * rate)).sum(),
    'control_hits': (1 - np.exp(-64 * rare)).sum(),
  }
  covered = dict.fromkeys(expected, 0)
  for _ in range(300):
    best = [
      np.where(rng.poisson(r[None].repeat(64, 0)) > 0, 0.1, np.inf)
      for r in (rate, rare)
    ]
    one = hits_lib.tally(hits_lib.Hits(*best, 200, 100), 0.5)
    metrics = hits_lib.with_intervals(one)
    for name, truth in expected.items():
      _, low, high = metrics[name]
      covered[name] += low <= truth <= high
  # Conservative, never short: at least 93 % of 300 at a nominal 95.
  assert min(covered.values()) >= 279, covered


def test_controlled_alpha_hits_no_control_but_natural_duplicates():
  alphas = hits_lib.ALPHAS
  extracted = np.full(len(alphas), 40)
  control = np.where(alphas < 0.3, 0, np.where(alphas < 0.42, 2, 9))
  counts = np.stack([extracted, control])
  # One accident is expected before the first control image: a fortieth.
  assert thresholds.controlled_alpha(counts, 500, 500, 0.95, 0.5, 0) == 0.29
  # Two natural duplicates: three expected of forty, more than 5 %.
  assert thresholds.controlled_alpha(counts, 500, 500, 0.95, 0.5, 2) == 0.0
  assert thresholds.controlled_alpha(counts, 500, 500, 0.9, 0.5, 2) == 0.41
  # With twice as many training images twice as many accidents.
  assert thresholds.controlled_alpha(counts, 1000, 500, 0.95, 0.5, 0) == 0.29
  assert thresholds.controlled_alpha(counts, 1001, 500, 0.95, 0.5, 0) == 0.0
  # Never above the paper's, nor below all.
  none = np.stack([extracted, np.zeros(len(alphas), int)])
  assert thresholds.controlled_alpha(none, 500, 500, 0.95, 0.5, 0) == 0.5
  every = np.stack([extracted, np.ones(len(alphas), int)])
  assert thresholds.controlled_alpha(every, 500, 500, 0.95, 0.5, 0) == 0.0


def test_natural_duplicates_are_nearest_to_the_control():
  found = {
    'training_distance': np.array([[0.5], [0.001], [0.01], [0.3]]),
    'control_distance': np.array([[0.01], [0.01], [0.01], [0.02]]),
    'control_index': np.array([[5], [6], [7], [5]]),
    'training_index': np.array([[0], [1], [2], [3]]),
  }
  assert thresholds.natural_duplicates(found, np.arange(8), 0.02) == 2


def test_near_duplicates_count_as_a_ratio():
  found = {
    'training_distance': np.array([[0.02, 0.021], [0.01, 0.011], [0.3, 0.4]]),
    'control_distance': np.array([[0.03, 0.03], [0.5, 0.5], [0.35, 0.4]]),
  }
  plain = hits_lib.compete(found, 2)['training']
  near = hits_lib.compete(found, 2, near=0.02)['training']
  np.testing.assert_allclose(near[:2], [0.5, 0.25])
  assert near[2] == plain[2] and (plain[:2] > 0.9).all()
