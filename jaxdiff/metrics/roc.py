"""ROC statistics of membership scores, plain and resampled.

Larger scores mean "more likely a member". The ROC is the plain one, a point
after each distinct score: never its convex hull.

(1)  AUC = P(member's score > non-member's) + P(equal) / 2
(2)  TPR at FPR x = the largest TPR among points with FPR <= x

Scores are sorted once. A resample that draws clusters of rows with given
counts then costs one gather and one running sum over the non-members, one
gather and one product over the members: about 4 ms for 800,000 rows on one
core, bound by the gathers.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

FPRS = (0.05, 0.01, 0.001)


@dataclasses.dataclass(frozen=True)
class Ranking:
  """Members (P rows) and non-members (M rows), each by falling score.

  Attributes:
    member_scores: [P].
    other_scores: [M].
    member_cluster: int32 [P], the cluster of each row.
    other_cluster: int32 [M].
    num_clusters: clusters are 0 .. num_clusters - 1.
    above: int32 [P], non-members with a larger score than the member.
    not_below: int32 [P], non-members with as large a score; None where no
      member ties with a non-member.
    members_above: int32 [M], members with a larger score than the non-member.
  """

  member_scores: np.ndarray
  other_scores: np.ndarray
  member_cluster: np.ndarray
  other_cluster: np.ndarray
  num_clusters: int
  above: np.ndarray
  not_below: np.ndarray | None
  members_above: np.ndarray


def rank(
  scores: np.ndarray,
  is_member: np.ndarray,
  cluster: np.ndarray | None = None,
) -> Ranking:
  """Sorts scores with their membership, any equal shapes.

  Args:
    scores: of any shape.
    is_member: bool, same shape.
    cluster: int from 0 on, same shape; None makes each row its own.

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
  if cluster is None:
    cluster = np.arange(scores.size)
  cluster = np.asarray(cluster, np.int32).ravel()
  # Negated, so that scores fall along the sorted rows.
  sides = []
  for mask in (is_member, ~is_member):
    falling = -scores[mask]
    order = np.argsort(falling, kind='stable')
    sides.append((falling[order], cluster[mask][order]))
  (members, member_cluster), (others, other_cluster) = sides
  above = np.searchsorted(others, members, side='left').astype(np.int32)
  not_below = np.searchsorted(others, members, side='right').astype(np.int32)
  return Ranking(
    member_scores=-members,
    other_scores=-others,
    member_cluster=member_cluster,
    other_cluster=other_cluster,
    num_clusters=int(cluster.max()) + 1,
    above=above,
    not_below=None if (above == not_below).all() else not_below,
    members_above=np.searchsorted(members, others, side='left').astype(
      np.int32
    ),
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


def statistics(
  ranking: Ranking,
  counts: np.ndarray | None = None,
  fprs: Sequence[float] = FPRS,
) -> dict[str, float]:
  """AUC and TPR at given FPRs, equations (1) and (2).

  Args:
    ranking: the ranked rows.
    counts: int [num_clusters], how often each cluster was drawn; None is once.
    fprs: false-positive rates.

  Returns:
    'auc' and 'tpr@fpr=x' for each x. NaN where the counts leave a class empty,
    or where there are fewer than 1 / x non-members: a rate that one false
    positive already exceeds says nothing.
  """
  if counts is None:
    counts = np.ones(ranking.num_clusters, np.int32)
  member = counts[ranking.member_cluster].astype(np.float64)
  # others_above[j]: weight of the first j non-members; exact below 2^53.
  others_above = np.zeros(len(ranking.other_scores) + 1)
  np.cumsum(counts[ranking.other_cluster], out=others_above[1:])
  members, others = member.sum(), others_above[-1]
  if members == 0 or others == 0:
    return dict.fromkeys(['auc', *(f'tpr@fpr={x:g}' for x in fprs)], np.nan)
  beaten_by = others_above[ranking.above]
  if ranking.not_below is not None:
    beaten_by = 0.5 * (beaten_by + others_above[ranking.not_below])
  out = {'auc': float(1.0 - member @ beaten_by / (members * others))}
  for x in fprs:
    if len(ranking.other_scores) * x < 1.0 - 1e-9:
      out[f'tpr@fpr={x:g}'] = np.nan
      continue
    # The first non-member whose acceptance would exceed the rate; all scores
    # above it can be accepted. The tolerance lets 10 of 1,000 count as 0.01.
    first = np.searchsorted(
      others_above[1:], x * others * (1.0 + 1e-9), side='right'
    )
    if first == len(ranking.members_above):
      accepted = members
    else:
      accepted = member[: ranking.members_above[first]].sum()
    out[f'tpr@fpr={x:g}'] = float(accepted / members)
  return out
