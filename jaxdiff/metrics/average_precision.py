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


class _Ranking:
  """Rows from the largest score down, sorted once for many weights."""

  def __init__(self, scores: np.ndarray, positive: np.ndarray):
    self._order = np.argsort(-scores, kind='stable')
    rows = scores[self._order]
    self._ends = np.flatnonzero(np.append(np.diff(rows) != 0.0, True))
    self._positive = positive[self._order]

  def at(
    self,
    weight: np.ndarray,
    above: float = 0.0,
    below: float = 0.0,
    hit: float = 0.0,
  ) -> float:
    """Equation (1) with atoms.

    Args:
      weight: of each row, as they were given.
      above: weight of a negative above all rows.
      below: weight of a positive below all.
      hit: weight of a positive above all.
    """
    weight = weight[self._order]
    hits = np.cumsum(weight * self._positive)[self._ends]
    total = np.cumsum(weight)[self._ends] + above + hit
    precision = np.divide(
      hits + hit, total, out=np.zeros(len(hits)), where=total > 0
    )
    found = float(np.diff(hits, prepend=0.0) @ precision) + hit
    last = (hits[-1] + hit + below) / (total[-1] + below)
    return (found + below * last) / (hits[-1] + hit + below)


def average_precision(
  scores: np.ndarray, positive: np.ndarray, weight: np.ndarray | None = None
) -> float:
  """Equation (1).

  Args:
    scores: [M]; larger is more surely positive.
    positive: bool [M], one at least.
    weight: of each row; None is 1.
  """
  weight = np.ones(len(scores)) if weight is None else weight
  return _Ranking(scores, positive).at(weight)


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
  ranking = _Ranking(scores, positive)
  lows, highs = [], []
  for _ in range(num_resamples):
    weight = rng.standard_exponential(len(names))[place]
    first, second = rng.standard_exponential(2)
    lows.append(ranking.at(weight, above=first, below=second))
    # A negative below all changes nothing.
    highs.append(ranking.at(weight, hit=first))
  value = ranking.at(np.ones(len(scores)))
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
  A single cluster says nothing of others: then it has no end.

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
  rankings = _Ranking(scores, positive), _Ranking(others, positive)

  def gap(weight: np.ndarray) -> float:
    first, second = (ranking.at(weight) for ranking in rankings)
    return first - second

  value = gap(np.ones(len(scores)))
  if len(names) < 2:
    return value, -np.inf, np.inf
  found = [
    gap(rng.standard_exponential(len(names))[place])
    for _ in range(num_resamples)
  ]
  half = _DEVIATIONS * float(np.std(found))
  return value, value - half, value + half
