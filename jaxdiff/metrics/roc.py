"""ROC statistics of membership scores, plain and under weights.

Larger scores mean "more likely a member". The ROC is the plain one, a point
after each distinct score: never its convex hull.

(1)  AUC = P(member's score > non-member's) + P(equal) / 2
(2)  TPR at FPR x = the share of members above c, the smallest non-member's
     score with a share of at most x of the non-members above it

The last bit of a score must decide nothing: it differs between processors, and
with the threads of a process. Where a resolution is asked for, a comparison of
two scores is not a step but a ramp:

(3)  [m > o] becomes clip((m - o) / r(m) + 1/2, 0, 1) in (1),
     [m > c] becomes clip((m - c) / r(c), 0, 1) in (2)

Its width r is 2^-7 of how far scores reach around there: of the distance to
the score an eighth of all ranks above or below, whichever is nearer. (Losses
span orders of magnitude: no width of the whole set would do.) Every statistic
is then a continuous function of the scores, up to the change that one rank
makes to r: where each score moves by d, (1) and (2) move by d / r times the
share of pairs within r. It is the plain one where no two scores are that close.

Scores are sorted once. A resample, which gives every row a weight, then costs
some running sums, gathers and a product: a few milliseconds for 800,000 rows.
"""

from collections.abc import Sequence
import dataclasses
import functools

import numpy as np

FPRS = (0.05, 0.01, 0.001)
# r of equation (3): a share of the reach of scores, and of ranks.
RESOLUTION, _REACH = 2.0**-7, 8
# Distinct non-members that a TPR at FPR x needs: fewer than FEWEST / x cannot
# say, fewer than FEW / x say little.
FEWEST, FEW = 2.0, 10.0


def widths(rising: np.ndarray, cuts: np.ndarray) -> np.ndarray:
  """r of equation (3) at each cut: [P]; 0 where an eighth of all are equal.

  Args:
    rising: [M] all scores, sorted.
    cuts: [P].
  """
  last = len(rising) - 1
  reach = max(len(rising) // _REACH, 1)
  place = np.searchsorted(rising, cuts)
  below = cuts - rising[np.clip(place - reach, 0, last)]
  above = rising[np.clip(place + reach, 0, last)] - cuts
  width = np.minimum(below, above)
  # At the ends, what there is on the other side.
  first, end = place < reach, place + reach > last
  width = np.where(first, above, np.where(end, below, width))
  width = np.where(first & end, np.maximum(above, below), width)
  return RESOLUTION * np.maximum(width, 0.0)


class Ramp:
  """Sums of weights below cuts, by a ramp: w clip((cut - x) / width, 0, 1).

  Weights are not negative.
  """

  def __init__(self, rising: np.ndarray, cuts: np.ndarray, width: np.ndarray):
    """Places the cuts once for many weights.

    Args:
      rising: [M] numbers x, sorted.
      cuts: [P].
      width: [P] of the ramps; 0 is a step, which equal numbers are at the foot
        of.
    """
    origin = rising[0] if len(rising) else 0.0
    self._x, self._cuts, self._width = rising - origin, cuts - origin, width
    self._first, self._last = (
      np.searchsorted(rising, edge, side='left').astype(np.int32)
      for edge in (cuts - width, cuts)
    )
    # Below most cuts no number lies on the ramp.
    self._on = np.flatnonzero(self._last > self._first)

  def running(self, weights: np.ndarray) -> tuple[np.ndarray, ...]:
    """What `at` reads of weights [M]."""
    return running(weights), running(weights * self._x)

  def at(
    self, sums: tuple[np.ndarray, ...], index: np.ndarray | None = None
  ) -> np.ndarray:
    """Sums below all cuts, or below some of them: float64."""
    below, moment = sums
    if index is None:
      out, on = below[self._first], self._on
      self._add(out, on, below, moment, on)
      return out
    out = below[self._first[index]]
    on = np.flatnonzero(self._last[index] > self._first[index])
    self._add(out, on, below, moment, index[on])
    return out

  def _add(self, out, place, below, moment, cut) -> None:
    """The numbers on the ramps."""
    first, last = self._first[cut], self._last[cut]
    whole = below[last] - below[first]
    part = (
      self._cuts[cut] * whole - (moment[last] - moment[first])
    ) / self._width[cut]
    # Where a ramp is narrower than the sums round, that is all that is known.
    out[place] += np.clip(part, 0.0, whole)


def ramp_sums(
  rising: np.ndarray, cuts: np.ndarray, width: np.ndarray
) -> np.ndarray:
  """How many of some numbers lie below each cut, by `Ramp`."""
  ramp = Ramp(rising, cuts, width)
  return ramp.at(ramp.running(np.ones(len(rising))))


def running(values: np.ndarray) -> np.ndarray:
  """Sums of the first 0, 1, ..., M values; whole numbers exactly below 2^53."""
  out = np.zeros(len(values) + 1)
  np.cumsum(values, out=out[1:])
  return out


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Members (P rows) and non-members (M rows), each by falling score.

  Attributes:
    member_scores: [P].
    other_scores: [M].
    member_row: int [P], where each row was given.
    other_row: int [M].
    cluster: int [P + M], the cluster of each row given, 0 .. num_clusters - 1.
    num_clusters: that there are.
    resolved: whether scores are compared by ramps, equation (3).
  """

  member_scores: np.ndarray
  other_scores: np.ndarray
  member_row: np.ndarray
  other_row: np.ndarray
  cluster: np.ndarray
  num_clusters: int
  resolved: bool

  @functools.cached_property
  def member_cluster(self) -> np.ndarray:
    """Cluster of each member: int32 [P]."""
    return self.cluster[self.member_row].astype(np.int32)

  @functools.cached_property
  def other_cluster(self) -> np.ndarray:
    """Cluster of each non-member: int32 [M]."""
    return self.cluster[self.other_row].astype(np.int32)

  @functools.cached_property
  def distinct_others(self) -> int:
    """Clusters with a non-member."""
    return len(np.unique(self.other_cluster))

  def beaten(self, weights: np.ndarray) -> np.ndarray:
    """Weight [P] of the non-members that beat each member, equation (1).

    Args:
      weights: [M].
    """
    if self.resolved:
      return self._others_above.at(self._others_above.running(weights))
    below = running(weights)
    above, not_below = self._steps
    return 0.5 * (below[above] + below[not_below])

  @functools.cached_property
  def _others_above(self) -> Ramp:
    width = self.widths(self.member_scores)
    # Where scores are equal by the eighth, ties are halved by a narrow ramp.
    width = np.maximum(width, _least(self.member_scores))
    cuts = 0.5 * width - self.member_scores
    return Ramp(-self.other_scores, cuts, width)

  @functools.cached_property
  def _steps(self) -> list[np.ndarray]:
    return [
      np.searchsorted(-self.other_scores, -self.member_scores, side=side)
      for side in ('left', 'right')
    ]

  @functools.cached_property
  def accepted(self) -> Ramp:
    """Weight of the members above each non-member, equation (2)."""
    width = self.widths(self.other_scores)
    return Ramp(-self.member_scores, -self.other_scores, width)

  @functools.cached_property
  def _rising(self) -> np.ndarray:
    return np.sort(np.concatenate([self.member_scores, self.other_scores]))

  def widths(self, cuts: np.ndarray) -> np.ndarray:
    """r of equation (3) at each cut: [P]; 0 compares by steps."""
    if not self.resolved:
      return np.zeros(len(cuts))
    return widths(self._rising, cuts)

  def enough(self, rate: float) -> bool:
    """Whether there are the non-members to speak of a rate."""
    return self.distinct_others * rate >= FEWEST - 1e-9

  def few(self, rate: float) -> bool:
    """Whether there are so few of them that what is said is vague."""
    return self.distinct_others * rate < FEW - 1e-9


def _least(scores: np.ndarray) -> np.ndarray:
  """A width that separates equal scores from all others of float32."""
  tiny = np.finfo(np.float64).tiny
  return np.maximum(2.0**-40 * np.abs(scores), tiny * 2.0**60)


def rank(
  scores: np.ndarray,
  is_member: np.ndarray,
  cluster: np.ndarray | None = None,
  resolved: bool = False,
) -> Ranking:
  """Sorts scores with their membership, any equal shapes.

  Args:
    scores: of any shape.
    is_member: bool, same shape.
    cluster: int, same shape; rows of one example. None makes each row its own.
    resolved: compare by ramps, equation (3).

  Raises:
    ValueError: if a score is not finite or one class is empty.
  """
  scores = np.asarray(scores, np.float64).ravel()
  is_member = np.asarray(is_member, dtype=bool).ravel()
  if scores.shape != is_member.shape:
    raise ValueError(f'{scores.size} scores, {is_member.size} memberships')
  if not np.isfinite(scores).all():
    raise ValueError('scores must be finite')
  if is_member.all() or not is_member.any():
    raise ValueError('an ROC needs members and non-members')
  if cluster is None:
    cluster = np.arange(scores.size)
  names, cluster = np.unique(np.asarray(cluster).ravel(), return_inverse=True)
  sides = []
  for mask in (is_member, ~is_member):
    rows = np.flatnonzero(mask)
    rows = rows[np.argsort(-scores[rows], kind='stable')]
    sides.append((scores[rows], rows))
  (members, member_row), (others, other_row) = sides
  return Ranking(
    member_scores=members,
    other_scores=others,
    member_row=member_row,
    other_row=other_row,
    cluster=cluster,
    num_clusters=len(names),
    resolved=resolved,
  )


def curve(ranking: Ranking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """fpr, tpr, threshold [D + 1]; starts at (0, 0) with threshold infinity."""
  thresholds = np.unique(
    np.concatenate([ranking.member_scores, ranking.other_scores])
  )[::-1]
  rates = [
    np.searchsorted(-scores, -thresholds, side='right') / len(scores)
    for scores in (ranking.other_scores, ranking.member_scores)
  ]
  fpr, tpr = (np.append(0.0, rate) for rate in rates)
  return fpr, tpr, np.append(np.inf, thresholds)


def grid_curve(ranking: Ranking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The ROC at fixed rates, the same whatever the scores: fpr, tpr, threshold.

  40 rates a decade, from the first that one false positive does not exceed.
  """
  count = len(ranking.other_scores)
  fpr = 10.0 ** np.linspace(-6.0, 0.0, 241)
  fpr = fpr[fpr * count >= 1.0 - 1e-9]
  place = np.floor(fpr * count * (1.0 + 1e-9)).astype(int)
  sums = ranking.accepted.running(np.ones(len(ranking.member_scores)))
  tpr = np.ones(len(fpr))
  threshold = np.full(len(fpr), -np.inf)
  inside = place < count
  tpr[inside] = ranking.accepted.at(sums, place[inside]) / len(
    ranking.member_scores
  )
  threshold[inside] = ranking.other_scores[place[inside]]
  return fpr, tpr, threshold


def statistics(
  ranking: Ranking,
  weights: np.ndarray | None = None,
  fprs: Sequence[float] = FPRS,
) -> dict[str, float]:
  """AUC and TPR at given FPRs, equations (1) and (2).

  Args:
    ranking: the ranked rows.
    weights: [P + M], of each row as it was given; None is 1.
    fprs: false-positive rates.

  Returns:
    'auc' and 'tpr@fpr=x' for each x. NaN where the weights leave a class empty,
    or where there are fewer than 2 / x distinct non-members: models that share
    an example do not make it two.
  """
  if weights is None:
    weights = np.ones(len(ranking.cluster))
  member = weights[ranking.member_row].astype(np.float64)
  other = weights[ranking.other_row].astype(np.float64)
  members, others = member.sum(), other.sum()
  names = ['auc', *(f'tpr@fpr={x:g}' for x in fprs)]
  if members == 0 or others == 0:
    return dict.fromkeys(names, np.nan)
  lost = member @ ranking.beaten(other)
  out = {'auc': float(1.0 - lost / (members * others))}
  above = running(other)[1:]
  sums = ranking.accepted.running(member)
  for x in fprs:
    out[f'tpr@fpr={x:g}'] = np.nan
    if ranking.enough(x):
      # The first non-member whose acceptance would exceed the rate. The
      # tolerance lets 10 of 1,000 count as 0.01.
      first = np.searchsorted(above, x * others * (1.0 + 1e-9), side='right')
      accepted = members
      if first < len(above):
        accepted = ranking.accepted.at(sums, np.array([first]))[0]
      out[f'tpr@fpr={x:g}'] = float(accepted / members)
  return out
