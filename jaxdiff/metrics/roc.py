"""ROC statistics of membership scores, plain and weighted.

Larger scores mean "more likely a member". The ROC is the plain one, a point
after each distinct score: never its convex hull.

(1)  AUC = P(member's score > non-member's) + P(equal) / 2
(2)  TPR at FPR x = the largest TPR among points with FPR <= x
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

FPRS = (0.05, 0.01, 0.001)


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Scores sorted once, so that many reweightings are cheap.

  Attributes:
    order: int [M], rows by falling score.
    is_member: bool [M], in that order.
    ends: int [D], last place of each distinct score.
    threshold: float [D], the distinct scores, falling.
  """

  order: np.ndarray
  is_member: np.ndarray
  ends: np.ndarray
  threshold: np.ndarray


def rank(scores: np.ndarray, is_member: np.ndarray) -> Ranking:
  """Sorts scores [M] with their membership bool [M].

  Raises:
    ValueError: if a score is not finite or one class is empty.
  """
  scores = np.asarray(scores).ravel()
  is_member = np.asarray(is_member, dtype=bool).ravel()
  if scores.shape != is_member.shape:
    raise ValueError(f'{scores.size} scores, {is_member.size} memberships')
  if not np.isfinite(scores).all():
    raise ValueError('scores must be finite')
  if is_member.all() or not is_member.any():
    raise ValueError('an ROC needs members and non-members')
  order = np.argsort(-scores, kind='stable')
  ordered = scores[order]
  ends = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
  return Ranking(order, is_member[order], ends, ordered[ends])


def curve(ranking: Ranking) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """fpr, tpr, threshold [D + 1]; starts at (0, 0) with threshold infinity."""
  fpr, tpr = _rates(ranking, np.ones((1, len(ranking.order))))
  return fpr[0], tpr[0], np.append(np.inf, ranking.threshold)


def statistics(
  ranking: Ranking,
  weights: np.ndarray | None = None,
  fprs: Sequence[float] = FPRS,
) -> dict[str, np.ndarray]:
  """AUC and TPR at given FPRs under row weights.

  Args:
    ranking: M ranked rows.
    weights: [R, M] in the *original* order of rows; None is all ones.
    fprs: false-positive rates.

  Returns:
    'auc' and 'tpr@fpr=x' for each x: float64 [R]. NaN where the weights leave
    a class empty, or where there are fewer than 1 / x non-members: a rate
    that one false positive already exceeds says nothing.
  """
  if weights is None:
    weights = np.ones((1, len(ranking.order)))
  fpr, tpr = _rates(ranking, weights[:, ranking.order])
  area = 0.5 * ((fpr[:, 1:] - fpr[:, :-1]) * (tpr[:, 1:] + tpr[:, :-1])).sum(1)
  out = {'auc': area}
  negatives = int((~ranking.is_member).sum())
  for x in fprs:
    # fpr rises along a row: the last point at or below x has the largest tpr.
    # The tolerance lets 10 of 1,000 count as 0.01 whatever the rounding.
    within = (fpr <= x * (1.0 + 1e-9)).sum(axis=1) - 1
    value = np.take_along_axis(tpr, np.maximum(within, 0)[:, None], axis=1)[
      :, 0
    ]
    resolved = negatives * x >= 1.0 - 1e-9
    known = np.isfinite(area) & resolved
    out[f'tpr@fpr={x:g}'] = np.where(known, value, np.nan)
  return out


def _rates(
  ranking: Ranking, ordered_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """fpr and tpr [R, D + 1] for weights [R, M] in ranked order."""
  rates = []
  for mask in (~ranking.is_member, ranking.is_member):
    total = np.cumsum(ordered_weights * mask, axis=1)
    with np.errstate(invalid='ignore', divide='ignore'):
      rate = total[:, ranking.ends] / total[:, -1:]
    rates.append(np.pad(rate, ((0, 0), (1, 0))))
  return rates[0], rates[1]
