"""Intervals: equality with a naive twin, and coverage."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from jaxdiff.metrics import bootstrap, intervals
from jaxdiff.runtime import prng
from tests.benchmarks import coverage

pytestmark = pytest.mark.slow


class NaiveBootstrap:
  """The Bayesian bootstrap with atoms, a row and a pair at a time."""

  def __init__(self, scores, is_member, cluster):
    rows = list(zip(scores, is_member, cluster, strict=True))
    self.scores = sorted(scores)
    self.members = [(s, c) for s, m, c in rows if m]
    self.others = sorted(((s, c) for s, m, c in rows if not m), reverse=True)

  def width(self, cut):
    reach = max(len(self.scores) // 8, 1)
    place = sum(score < cut for score in self.scores)
    sides = []
    if place >= reach:
      sides.append(cut - self.scores[place - reach])
    if place + reach < len(self.scores):
      sides.append(self.scores[place + reach] - cut)
    return min(sides) / 128

  @staticmethod
  def above(excess, width):
    return min(max(excess / width, 0), 1)

  def wins(self, first, second, at):
    """How far the first beats the second, by a ramp of the width at `at`."""
    width = self.width(at)
    return self.above(first - second + width / 2, width)

  def atom(self, hits, rows):
    sums, counts = {}, {}
    for hit, (_, c) in zip(hits, rows, strict=True):
      sums[c] = sums.get(c, 0) + hit
      counts[c] = counts.get(c, 0) + 1
    squares = sum(x * x for x in sums.values())
    return (squares + max(counts.values())) / (sum(hits) + 1)

  def accepted(self, place, w):
    """Weight of the members above the non-member of this place."""
    if place == len(self.others):
      return sum(w[c] for _, c in self.members)
    cut = self.others[place][0]
    width = self.width(cut)
    return sum(w[c] * self.above(m - cut, width) for m, c in self.members)

  def auc(self, w, unseen):
    beaten = [
      [self.wins(o, m, at=m) for o, _ in self.others] for m, _ in self.members
    ]
    lost = [sum(row) / len(row) for row in beaten]
    beats = [
      sum(self.wins(o, m, at=o) for m, _ in self.members) / len(self.members)
      for o, _ in self.others
    ]
    members = sum(w[c] for _, c in self.members)
    others = sum(w[c] for _, c in self.others)
    pairs = sum(
      w[c] * w[d] * beaten[i][j]
      for i, (_, c) in enumerate(self.members)
      for j, (_, d) in enumerate(self.others)
    )

    def of_all(more_members, more_others):
      return max(
        (members + unseen * more_members) * others,
        members * (others + unseen * more_others),
      )

    against = self.atom(lost, self.members), self.atom(beats, self.others)
    helping = (
      self.atom([1 - x for x in lost], self.members),
      self.atom([1 - x for x in beats], self.others),
    )
    return (
      (members * others - pairs) / of_all(*against),
      1 - pairs / of_all(*helping),
    )

  def tpr(self, x, w, false_unseen, unseen):
    cut = self.others[int(x * len(self.others) + 1e-9)][0]
    width = self.width(cut)
    hits = [self.above(m - cut, width) for m, _ in self.members]
    false = [self.above(o - cut, width) for o, _ in self.others]
    members = sum(w[c] for _, c in self.members)
    others = sum(w[c] for _, c in self.others)
    sums = np.cumsum([w[c] for _, c in self.others])
    atom = false_unseen * self.atom(false, self.others)
    rate = x * (others + atom)
    if atom > rate:
      low = self.accepted(0, w) * rate / atom
    else:
      # The mean over a stretch of rates, by its pieces.
      end = rate - atom
      start = max(end - x * others / 64, 0)
      edges = [start, *sums[(sums > start) & (sums < end)], end]
      low = sum(
        (b - a) * self.accepted(sum(sums <= (a + b) / 2), w)
        for a, b in zip(edges[:-1], edges[1:], strict=True)
      ) / (end - start)
    high = self.accepted(sum(sums <= x * (others + false_unseen)), w)
    missed = unseen * self.atom([1 - hit for hit in hits], self.members)
    hit = unseen * self.atom(hits, self.members)
    return low / (members + missed), (high + hit) / (members + hit)


@pytest.mark.parametrize(('effect', 'targets'), [(0.5, 1), (1.5, 3), (6.0, 2)])
def test_equals_a_naive_twin(effect, targets):
  rng = np.random.default_rng(targets)
  clusters, resamples, x = 40, 30, 0.1
  is_member = rng.random((targets, clusters)) < 0.5
  scores = rng.normal(size=is_member.shape) + effect * is_member
  cluster = np.broadcast_to(np.arange(clusters), is_member.shape)
  found = bootstrap.cluster_bootstrap_roc(
    scores, is_member, cluster, num_resamples=resamples, seed=5, fprs=(x,)
  )
  naive = NaiveBootstrap(scores.ravel(), is_member.ravel(), cluster.ravel())
  draws, ends = prng.rng(5, 'interval'), {'auc': [], f'tpr@fpr={x:g}': []}
  for _ in range(resamples):
    weights = draws.standard_exponential(clusters)
    atoms = draws.standard_exponential(3)
    ends['auc'].append(naive.auc(weights, atoms[0]))
    ends[f'tpr@fpr={x:g}'].append(naive.tpr(x, weights, *atoms[1:]))
  for name, (value, low, high) in found.items():
    lows, highs = zip(*ends[name], strict=True)
    assert low == pytest.approx(
      max(min(value, np.quantile(lows, 0.025)), 0), abs=1e-9
    )
    assert high == pytest.approx(
      min(max(value, np.quantile(highs, 0.975)), 1), abs=1e-9
    )
  even = np.ones(clusters)
  assert found['auc'][0] == pytest.approx(naive.auc(even, 0.0)[0], abs=1e-12)


# More of them: tests/benchmarks/coverage.py.
@pytest.mark.parametrize(
  'setting',
  [
    coverage.Setting(4, 200, 1.5, rho=0.7),
    coverage.Setting(2, 200, 3.5),
    coverage.Setting(8, 200, 2.0, between=0.2),
  ],
)
def test_intervals_hold_the_truth(setting):
  found = coverage.coverage(setting, repeats=100, num_resamples=200)
  for name, (these, new) in found.items():
    if name == 'tpr@fpr=0.001':  # 200 distinct non-members cannot say
      assert np.isnan(these) and np.isnan(new)
      continue
    # Of 100 audits at 95 %, fewer than 89 have a chance of 0.4 %.
    assert these >= 0.89 and (np.isnan(new) or new >= 0.89), name


def test_equals_a_bootstrap_that_copies_rows():
  rng = np.random.default_rng(0)
  clusters, targets = 60, 4
  is_member = rng.random((targets, clusters)) < 0.5
  scores = rng.normal(size=is_member.shape) + is_member
  cluster = np.broadcast_to(np.arange(clusters), is_member.shape)
  value, low, high = bootstrap.cluster_bootstrap_roc(
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
  clustered = bootstrap.cluster_bootstrap_roc(
    scores[rows], is_member[rows], rows
  )['auc']
  plain = bootstrap.cluster_bootstrap_roc(
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
  for value, low, high in bootstrap.cluster_bootstrap_roc(
    scores, is_member, cluster, fprs=(0.1,)
  ).values():
    assert value == high == 1.0
    assert 0.5 < low < 0.99


def test_an_interval_over_models_holds_both_sources():
  found = (0.8, 0.75, 0.84)
  # Equal models add nothing; one group says nothing.
  np.testing.assert_allclose(
    bootstrap.two_way(found, np.full(4, 0.8)), found[1:]
  )
  assert np.isnan(bootstrap.two_way(found, np.array([0.8]))).all()
  without = np.array([0.78, 0.80, 0.81, 0.82])
  low, high = bootstrap.two_way(found, without)
  angles = np.arcsin(np.sqrt(without))
  between = 3 / 4 * np.square(angles - angles.mean()).sum()
  between *= stats.t.ppf(0.975, 3) ** 2
  a, b = np.arcsin(np.sqrt([0.8, 0.75]))
  want = np.sin(a - np.sqrt((a - b) ** 2 + between)) ** 2
  assert low == pytest.approx(want) and low < 0.75 and high > 0.84


@pytest.mark.parametrize(
  ('share', 'groups', 'size'), [(0.05, 100, 8), (0.3, 30, 8), (0.1, 20, 2)]
)
def test_clustered_shares_cover(share, groups, size):
  """Of 500 sets whose clusters are all or nothing, 95 % and more."""
  rng = np.random.default_rng(0)
  cluster = np.repeat(np.arange(groups), size)
  inside, plain = 0, 0
  for _ in range(500):
    hits = np.repeat(rng.random(groups) < share, size)
    value, low, high = intervals.clustered(hits, cluster)
    assert 0.0 <= low <= value <= high <= 1.0
    inside += low <= share <= high
    few = intervals.binomial(hits.sum(), len(hits))
    plain += few[0] <= share <= few[1]
  assert inside >= 0.95 * 500 > plain


def test_independent_rows_have_nearly_the_exact_interval():
  hits = np.arange(200) < 30
  value, low, high = intervals.clustered(hits, np.arange(200))
  assert value == 0.15
  np.testing.assert_allclose(
    (low, high), intervals.binomial(30, 200), atol=0.003
  )
  # Nothing found in so many groups, however many rows they have.
  _, low, high = intervals.clustered(np.zeros(80), np.repeat(np.arange(20), 4))
  assert low == 0.0
  assert high == pytest.approx(intervals.binomial(0, 20)[1])
