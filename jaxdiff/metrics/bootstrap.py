"""Intervals of ROC statistics, over examples, and over models too.

An example is scored once per target model, so rows of one example are not
independent: intervals *over examples* resample examples, clusters of rows. They
hold what the same models would show on new examples (`cluster_bootstrap_roc`).
Intervals *over models too* hold what newly trained models would show on new
examples (`over_models`): what is compared across runs needs those.

The bootstrap over examples is the Bayesian one (Rubin 1981), which gives every
cluster c a weight

(1)  w_c ~ Exp(1),

with an atom for what was not seen: for the lower end one more cluster of weight
Exp(1) on the side that hurts, for the upper end on the side that helps. With
one row a cluster a rate at a fixed threshold then has Clopper and Pearson's
exact interval, and a threshold the exact interval of an order statistic. No
interval is without width where every example was told apart, and TPRs at low
rates, where the percentile bootstrap covers 0.5 to 0.8, keep their level. The
size of an atom is the mean number of hits in the cluster of a hit, shrunk
towards a whole cluster by one cluster of that size:

(2)  (sum_c h_c^2 + most) / (sum_c h_c + 1)

Every end is a continuous function of the scores.
"""

from collections.abc import Sequence

from etils import epy
import numpy as np

from jaxdiff.metrics import intervals, roc
from jaxdiff.runtime import prng

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats


def cluster_bootstrap_roc(
  scores: np.ndarray,
  is_member: np.ndarray,
  cluster: np.ndarray,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
  fprs: Sequence[float] = roc.FPRS,
  level: float = intervals.LEVEL,
  resolved: bool = True,
) -> dict[str, tuple[float, float, float]]:
  """ROC statistics with intervals over examples.

  Args:
    scores: [M] or any shape; larger = more likely a member.
    is_member: bool, same shape.
    cluster: int, same shape: rows of one cluster are drawn together.
    num_resamples: bootstrap resamples.
    seed: of the resampling.
    fprs: false-positive rates.
    level: of the interval.
    resolved: compare scores by ramps, `roc` equation (3).

  Returns:
    name -> (value, low, high), for 'auc' and 'tpr@fpr=x'; NaNs for a rate that
    there are too few distinct non-members for.
  """
  ranking = roc.rank(scores, is_member, cluster, resolved=resolved)
  values = roc.statistics(ranking, fprs=fprs)
  bootstrap = _Bootstrap(ranking, fprs)
  rng = prng.rng(seed, 'interval')
  ends = [
    bootstrap.ends(
      rng.standard_exponential(ranking.num_clusters),
      rng.standard_exponential(3),
    )
    for _ in range(num_resamples)
  ]
  tail = (1.0 - level) / 2.0
  out = {}
  for name, value in values.items():
    if np.isnan(value):
      out[name] = (np.nan,) * 3
      continue
    lows, highs = np.array([end[name] for end in ends]).T
    out[name] = (
      value,
      # Sums round: a share is none beyond 0 and 1.
      max(0.0, min(value, float(np.quantile(lows, tail)))),
      min(1.0, max(value, float(np.quantile(highs, 1.0 - tail)))),
    )
  return out


class _Bootstrap:
  """Both ends of each statistic in one resample, with atoms."""

  def __init__(self, ranking: roc.Ranking, fprs: Sequence[float]):
    self._ranking = ranking
    self._fprs = [x for x in fprs if ranking.enough(x)]
    members, others = (
      np.ones(len(x)) for x in (ranking.member_scores, ranking.other_scores)
    )
    lost = ranking.beaten(others) / len(others)
    rising = ranking.member_scores[::-1]
    if ranking.resolved:
      width = ranking.widths(ranking.other_scores)
      beats = roc.ramp_sums(rising, ranking.other_scores + 0.5 * width, width)
    else:
      left, right = (
        np.searchsorted(rising, ranking.other_scores, side=side)
        for side in ('left', 'right')
      )
      beats = 0.5 * (left + right)
    beats = beats / len(members)
    self._auc_sizes = (
      self._atom(lost, ranking.member_cluster),
      self._atom(beats, ranking.other_cluster),
      self._atom(1.0 - lost, ranking.member_cluster),
      self._atom(1.0 - beats, ranking.other_cluster),
    )
    self._sizes: dict[float, tuple[float, float, float]] = {}
    for x in self._fprs:
      place = min(int(x * len(others) * (1.0 + 1e-9)), len(others) - 1)
      cut = ranking.other_scores[place]
      width = ranking.widths(np.array([cut]))[0]
      false, hit = (
        _above(scores - cut, width)
        for scores in (ranking.other_scores, ranking.member_scores)
      )
      self._sizes[x] = (
        self._atom(false, ranking.other_cluster),
        self._atom(1.0 - hit, ranking.member_cluster),
        self._atom(hit, ranking.member_cluster),
      )

  def _atom(self, hits: np.ndarray, cluster: np.ndarray) -> float:
    """Equation (2): rows that a cluster not seen would bring at once."""
    count = self._ranking.num_clusters
    by_cluster = np.bincount(cluster, weights=hits, minlength=count)
    most = np.bincount(cluster, minlength=count).max()
    return float((by_cluster @ by_cluster + most) / (by_cluster.sum() + 1.0))

  def ends(
    self, weights: np.ndarray, atoms: np.ndarray
  ) -> dict[str, tuple[float, float]]:
    """Lower and upper value of each statistic.

    Args:
      weights: [num_clusters] of equation (1).
      atoms: [3] of the AUC, the threshold and the members.
    """
    ranking = self._ranking
    member = weights[ranking.member_cluster]
    other = weights[ranking.other_cluster]
    members, others = member.sum(), other.sum()
    lost = member @ ranking.beaten(other)
    size = [atoms[0] * auc_size for auc_size in self._auc_sizes]

    def of_all(more_members: float, more_others: float) -> float:
      return max(
        (members + more_members) * others, members * (others + more_others)
      )

    out = {
      'auc': (
        (members * others - lost) / of_all(*size[:2]),
        1.0 - lost / of_all(*size[2:]),
      )
    }
    if not self._fprs:
      return out
    above = roc.running(other)
    sums = ranking.accepted.running(member)

    def accepted(places: np.ndarray) -> np.ndarray:
      """Members above the non-members; all of them past the last."""
      inside = np.minimum(places, len(other) - 1)
      found = ranking.accepted.at(sums, inside)
      return np.where(places < len(other), found, members)

    for x in self._fprs:
      false, missed, hit = self._sizes[x]
      low = self._lowest(x, above, others, false * atoms[1], accepted)
      # An unseen row of non-members below all others.
      place = np.searchsorted(above[1:], x * (others + atoms[1]), side='right')
      high = accepted(np.array([place]))[0]
      out[f'tpr@fpr={x:g}'] = (
        low / (members + missed * atoms[2]),
        (high + hit * atoms[2]) / (members + hit * atoms[2]),
      )
    return out

  def _lowest(self, x, above, others, atom, accepted) -> float:
    """Members accepted at rate x beside unseen non-members above all others."""
    rate = x * (others + atom)
    if atom > rate:
      # The rate lies before the first non-member: a line from no member.
      return accepted(np.array([0]))[0] * rate / atom
    # The mean of the steps over a short stretch below the rate: it jumps
    # neither with the atom nor where two non-members change places.
    end = rate - atom
    start = max(end - x * others / 64.0, 0.0)
    first, last = np.searchsorted(above[1:], (start, end), side='right')
    if first == last or end == start:
      return accepted(np.array([last]))[0]
    edges = np.concatenate([[start], above[first + 1 : last + 1], [end]])
    return np.diff(edges) @ accepted(np.arange(first, last + 1)) / (end - start)


def _above(excess: np.ndarray, width: float) -> np.ndarray:
  """Whether scores are above a cut, by a ramp of this width or a step."""
  if width:
    return np.clip(excess / width, 0.0, 1.0)
  return (excess > 0.0).astype(np.float64)


def of_roc(
  scores: np.ndarray,
  is_member: np.ndarray,
  cluster: np.ndarray,
  group: np.ndarray,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
  fprs: Sequence[float] = roc.FPRS,
  wider: float = 1.0,
  resolved: bool = True,
) -> dict[str, tuple[float, ...]]:
  """ROC statistics with both intervals, over examples and over models too.

  Args:
    scores: [M] or any shape.
    is_member: bool, same shape.
    cluster: int, same shape, of the example.
    group: int, same shape, of the model: of equal number are no two.
    num_resamples: of the bootstrap.
    seed: of it.
    fprs: false-positive rates.
    wider: what the interval over examples is multiplied by.
    resolved: compare scores by ramps, `roc` equation (3).

  Returns:
    name -> (value, low, high, low_models, high_models).
  """
  found = {
    name: (
      value,
      float(np.maximum(0.0, value - wider * (value - low))),
      float(np.minimum(1.0, value + wider * (high - value))),
    )
    for name, (value, low, high) in cluster_bootstrap_roc(
      scores,
      is_member,
      cluster,
      num_resamples=num_resamples,
      seed=seed,
      fprs=fprs,
      resolved=resolved,
    ).items()
  }
  ranking = roc.rank(scores, is_member, cluster, resolved=resolved)
  both = over_models(ranking, np.ravel(group), found)
  return {name: (*numbers, *both[name]) for name, numbers in found.items()}


def over_models(
  ranking: roc.Ranking,
  group: np.ndarray,
  found: dict[str, tuple[float, float, float]],
  level: float = intervals.LEVEL,
) -> dict[str, tuple[float, float]]:
  """Intervals over models too: of new models and new examples.

  On the arcsine scale a(p) = asin sqrt p, each end lies

  (3)  sqrt(e^2 + t^2 V),  V = (G - 1) / G sum_g (a_g - mean a)^2

  from the value, where e is the distance of that end over examples, t Student's
  quantile with G - 1 degrees of freedom, and a_g the value without group g of
  models that are left out together: the jackknife (Graybill & Wang 1980; exact
  where either part vanishes).

  Args:
    ranking: of all rows.
    group: int, of each row given: of its model.
    found: of `cluster_bootstrap_roc` on the same rows.
    level: of the interval.

  Returns:
    name -> (low, high); NaNs with fewer than two groups.
  """
  names = np.unique(group)
  fprs = [
    float(name.removeprefix('tpr@fpr=')) for name in found if name != 'auc'
  ]
  without = (
    [
      roc.statistics(ranking, (group != name).astype(np.float64), fprs)
      for name in names
    ]
    if len(names) > 1
    else []
  )
  return {
    name: two_way(
      numbers, np.array([statistics[name] for statistics in without]), level
    )
    for name, numbers in found.items()
  }


def two_way(
  found: tuple[float, float, float],
  without: np.ndarray,
  level: float = intervals.LEVEL,
) -> tuple[float, float]:
  """Equation (3): (low, high) of a proportion.

  Args:
    found: value, low and high of the same models.
    without: [G], the value without each group of models.
    level: of the interval.
  """
  count = len(without)
  if count < 2 or not np.isfinite([*found, *without]).all():
    return np.nan, np.nan
  value, low, high = (_angle(x) for x in found)
  angles = _angle(without)
  between = (count - 1) / count * np.square(angles - angles.mean()).sum()
  between *= stats.t.ppf((1.0 + level) / 2.0, count - 1) ** 2
  down = np.sqrt((value - low) ** 2 + between)
  up = np.sqrt((high - value) ** 2 + between)
  return (
    float(np.sin(max(value - down, 0.0)) ** 2),
    float(np.sin(min(value + up, np.pi / 2.0)) ** 2),
  )


def _angle(share):
  return np.arcsin(np.sqrt(np.clip(share, 0.0, 1.0)))
