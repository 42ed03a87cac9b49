"""Average precision, and its interval over clusters.

(1)  AP = sum_n (R_n - R_{n-1}) P_n

over distinct scores from the largest down, with P precision and R recall
(equal scores are taken together). AP of scores that say nothing is the share
of positives.

The interval is the Bayesian bootstrap over clusters, each of weight Exp(1),
with an atom on either side for what was not seen: for the lower end a negative
above all and a positive below, for the upper end a positive above all and a
negative below. It covers prompts (or whatever the rows are) drawn like these.
"""

import numpy as np

from jaxdiff.metrics import intervals
from jaxdiff.runtime import prng

# Of a difference's interval.
_DEVIATIONS = 2.2


def average_precision(
  scores: np.ndarray, positive: np.ndarray, weight: np.ndarray | None = None
) -> float:
  """Equation (1).

  Args:
    scores: [M]; larger is more surely positive.
    positive: bool [M].
    weight: of each row; None is 1.
  """
  weight = np.ones(len(scores)) if weight is None else weight
  order = np.argsort(-scores, kind='stable')
  scores, hit = scores[order], (weight * positive)[order]
  ends = np.flatnonzero(np.append(np.diff(scores) != 0.0, True))
  hits = np.cumsum(hit)[ends]
  total = np.cumsum(weight[order])[ends]
  precision = np.divide(hits, total, out=np.zeros(len(hits)), where=total > 0)
  return float(np.diff(hits, prepend=0.0) @ precision / hits[-1])


def with_interval(
  scores: np.ndarray,
  positive: np.ndarray,
  cluster: np.ndarray,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
  level: float = intervals.LEVEL,
) -> tuple[float, float, float]:
  """(AP, low, high); NaNs where all rows are of one kind.

  Args:
    scores: as `average_precision`.
    positive: likewise.
    cluster: int [M], rows of which are drawn together.
    num_resamples: of the bootstrap.
    seed: of it.
    level: of the interval.
  """
  if positive.all() or not positive.any():
    return np.nan, np.nan, np.nan
  names, place = np.unique(cluster, return_inverse=True)
  rng = prng.rng(seed, 'interval', 1)
  above, below = scores.max() + 1.0, scores.min() - 1.0
  wide = np.concatenate([[above, below], scores])
  low_kind = np.concatenate([[False, True], positive])
  high_kind = np.concatenate([[True, False], positive])
  lows, highs = [], []
  for _ in range(num_resamples):
    weight = rng.standard_exponential(len(names))[place]
    weight = np.concatenate([rng.standard_exponential(2), weight])
    lows.append(average_precision(wide, low_kind, weight))
    highs.append(average_precision(wide, high_kind, weight))
  value = average_precision(scores, positive)
  tail = (1.0 - level) / 2.0
  return (
    value,
    min(value, float(np.quantile(lows, tail))),
    max(value, float(np.quantile(highs, 1.0 - tail))),
  )


def difference(
  scores: np.ndarray,
  others: np.ndarray,
  positive: np.ndarray,
  cluster: np.ndarray,
  *,
  num_resamples: int = 1000,
  seed: int = 0,
) -> tuple[float, float, float]:
  """(AP of scores - AP of others, low, high), both over the same resamples.

  The 95 % interval is 2.2 standard deviations of the resampled gap to either
  side: it is skew and a little off, and its percentiles cover 0.87 of cases.

  Args:
    scores: as `average_precision`.
    others: of the same rows.
    positive: bool [M].
    cluster: int [M].
    num_resamples: of the bootstrap, without atoms.
    seed: of it.
  """
  names, place = np.unique(cluster, return_inverse=True)
  rng = prng.rng(seed, 'interval', 2)

  def gap(weight: np.ndarray | None) -> float:
    first = average_precision(scores, positive, weight)
    return first - average_precision(others, positive, weight)

  found = np.array(
    [
      gap(rng.standard_exponential(len(names))[place])
      for _ in range(num_resamples)
    ]
  )
  value, half = gap(None), _DEVIATIONS * float(found.std())
  return value, value - half, value + half
