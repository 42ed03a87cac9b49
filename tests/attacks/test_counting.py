"""Counting: rules by hand, near-duplicates, intervals that cover."""

import numpy as np
from scipy import stats

from jaxdiff.attacks import counting


def test_ratio_is_equation_1():
  found = np.array([[0.1, 0.3, 0.5], [0.0, 0.0, 0.9], [0.0, 0.0, 0.0]])
  np.testing.assert_allclose(counting.ratios(found, 3), [0.1 / 0.3, 0.0, 0.0])
  np.testing.assert_allclose(counting.ratios(found, 2), [0.5, 0.0, 0.0])


def neighbours(training, control):
  """From lists of (image, nearest distance); the second is always 1."""
  out = {}
  for half, rows in (('training', training), ('control', control)):
    out[f'{half}_distance'] = np.array([[d, 1.0] for _, d in rows], np.float32)
    out[f'{half}_index'] = np.array([[i, 0] for i, _ in rows])
  return out


def test_distinct_images_count_once_and_duplicates_together():
  # Ratio of d is d / ((d + 1) / 2): 0.1 -> 0.18, 0.2 -> 0.33.
  found = neighbours(
    [(0, 0.1), (0, 0.1), (1, 0.1), (2, 0.2), (3, 0.9)],
    [(5, 0.1), (6, 0.9), (6, 0.9), (7, 0.1), (6, 0.9)],
  )
  groups = np.array([0, 0, 2, 3, 4, 5, 6, 2])  # 0 and 1 are duplicates; 7 of 2
  keep = np.array([1, 1, 1, 1, 0, 0, 0, 0], bool)
  hits = counting.collect_hits(found, groups, keep, 2, num_blocks=5)
  extracted, control = hits.counts(np.array([0.15, 0.25, 0.5]))
  np.testing.assert_array_equal(extracted, [0, 1, 2])
  # Image 7 duplicates a training image: no control.
  np.testing.assert_array_equal(control, [0, 1, 1])
  one = counting.tally(hits, 0.5)
  # Four training images, two of them near-duplicates: three.
  assert (one.extracted, one.control, one.num_images) == (2, 1, 3)
  metrics = counting.with_intervals(one)
  assert metrics['precision'][0] == 0.5
  np.testing.assert_allclose(metrics['extracted_fraction'][0], 2 / 3)


def counts_of(training, control):
  """One sample an image: ratio by image."""
  ratios = [np.array([r], np.float32) for r in (training, control)]
  return counting.Hits(*ratios, len(training)).counts(counting.ALPHAS)


def test_alpha_is_the_largest_that_keeps_precision():
  rng = np.random.default_rng(0)
  training = rng.uniform(0.1, 0.4, 100)
  control = np.full(100, np.inf)
  control[:5] = [0.30, 0.31, 0.32, 0.33, 0.34]
  control[5:40] = 0.37
  counts = counts_of(training, control)
  alpha = counting.choose_alpha(counts, 0.9)
  place = int(np.flatnonzero(alpha == counting.ALPHAS)[0])

  def surely(at):
    extracted, hits = counts[:, at]
    return 1 - stats.chi2.ppf(0.975, 2 * hits + 2) / 2 / extracted

  assert surely(place) >= 0.9
  assert all(surely(at) < 0.9 for at in range(place + 1, len(counts.T)))
  # A bare 0.9 in the sample would have gone further.
  measured = 1 - counts[1] / np.maximum(counts[0], 1)
  assert counting.ALPHAS[measured >= 0.9].max() > alpha
  nothing = counts_of(np.full(5, np.inf), np.full(5, np.inf))
  assert counting.choose_alpha(nothing, 0.95) == 0.0


def test_targets_add_up_and_their_union_counts_once():
  hit = np.zeros((2, 3, 6), bool)
  hit[0, :, 0] = hit[1, :, 0] = True  # both targets, every block
  hit[0, 1, 1] = hit[1, 2, 2] = True
  ratio = np.where(hit, 0.1, np.inf)
  none = np.full((3, 6), np.inf)
  tallies = [counting.tally(counting.Hits(one, none, 4), 0.5) for one in ratio]
  pooled = counting.add(tallies)
  assert (pooled.extracted, pooled.num_images) == (4, 8)
  assert pooled.variance == tallies[0].variance + tallies[1].variance
  union = counting.union(list(hit), 6)
  assert (union.extracted, union.num_images) == (3, 6)


def test_intervals_always_hold_their_value():
  for extracted in (0, 1, 5, 50, 100):
    for control in (0, 1, 10, 100):
      for variance in (0.0, 3.0):
        one = counting.Tally(extracted, control, variance, 100)
        for name, (value, low, high) in counting.with_intervals(one).items():
          if np.isnan(value):
            assert name == 'precision' and extracted == 0
          else:
            assert low <= value <= high, (name, one)


def test_nothing_found_is_not_certainty():
  none = np.full((64, 10), np.inf)
  one = counting.tally(counting.Hits(none, none, 10), 0.5)
  value, low, high = counting.with_intervals(one)['extracted']
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
    one = counting.tally(counting.Hits(*best, 200), 0.5)
    metrics = counting.with_intervals(one)
    for name, truth in expected.items():
      _, low, high = metrics[name]
      covered[name] += low <= truth <= high
  # Conservative, never short: at least 93 % of 300 at a nominal 95.
  assert min(covered.values()) >= 279, covered
