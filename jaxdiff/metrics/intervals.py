"""Confidence intervals, each named for what it covers.

Of counts, means over models and medians here; of ROC statistics in
`bootstrap.py`.
"""

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats

LEVEL = 0.95


def binomial(successes: int, trials: int, level: float = LEVEL):
  """Exact (Clopper-Pearson) interval (low, high) of a proportion."""
  result = stats.binomtest(int(successes), int(trials)).proportion_ci(level)
  return result.low, result.high


def clustered(
  hits: np.ndarray, cluster: np.ndarray, level: float = LEVEL
) -> tuple[float, float, float]:
  """(share, low, high) of rows, those of one cluster not independent.

  Clopper and Pearson's interval of as many independent rows as have the same
  variance (Korn & Graubard 1998): n* = p (1 - p) / V, with V that of the ratio
  estimate over clusters, and Student's quantiles for their number; where all
  rows are equal, n* is the number of clusters. For clusters drawn like these.

  Args:
    hits: bool [n], one row at least.
    cluster: int [n].
    level: of the interval.
  """
  hits = np.asarray(hits, np.float64)
  count, share = len(hits), float(hits.mean())
  place = np.unique(cluster, return_inverse=True)[1]
  groups = int(place.max()) + 1
  sums = np.bincount(place, weights=hits - share)
  wide = groups / max(groups - 1, 1) * np.square(sums).sum() / count**2
  effective = float(groups)
  if wide > 0.0 and groups > 1:
    effective = share * (1.0 - share) / wide
    tail = (1.0 + level) / 2.0
    if count > 1:
      students = [stats.t.ppf(tail, n - 1) for n in (count, groups)]
      effective *= (students[0] / students[1]) ** 2
  effective = min(effective, float(count))
  successes, tail = share * effective, (1.0 - level) / 2.0
  low, high = 0.0, 1.0
  if successes > 0.0:
    low = float(stats.beta.ppf(tail, successes, effective - successes + 1.0))
  if successes < effective:
    high = float(
      stats.beta.ppf(1.0 - tail, successes + 1.0, effective - successes)
    )
  return share, min(low, share), max(high, share)


def poisson(count: int, level: float = LEVEL) -> tuple[float, float]:
  """Exact (Garwood) interval (low, high) of a Poisson mean."""
  tail = (1.0 - level) / 2.0
  low = stats.chi2.ppf(tail, 2 * count) / 2.0 if count else 0.0
  return float(low), float(stats.chi2.ppf(1.0 - tail, 2 * count + 2) / 2.0)


def student(
  values: np.ndarray,
  lowest: float = -np.inf,
  highest: float = np.inf,
  level: float = LEVEL,
) -> tuple[float, float, float]:
  """Mean of independent repetitions, with Student's interval (low, high).

  Args:
    values: one a repetition, such as a model; NaNs are left out.
    lowest: that the mean can be.
    highest: likewise.
    level: of the interval; NaNs for fewer than two repetitions.
  """
  values = np.asarray(values, np.float64)
  values = values[~np.isnan(values)]
  if len(values) < 2:
    return float(values.mean()) if len(values) else np.nan, np.nan, np.nan
  mean = float(values.mean())
  quantile = stats.t.ppf((1.0 + level) / 2.0, len(values) - 1)
  half = float(quantile * stats.sem(values))
  return mean, max(mean - half, lowest), min(mean + half, highest)


def median(
  values: np.ndarray, level: float = LEVEL
) -> tuple[float, float, float]:
  """Median of independent values, with its exact interval (low, high).

  The interval lies between two order statistics, whatever the distribution
  (Conover 1999, section 3.2): the narrowest that holds the median with at least
  the level's probability. NaNs where not even the extremes do: at 95 %, below
  six values.
  """
  values = np.sort(np.asarray(values, np.float64))
  value = float(np.median(values)) if len(values) else np.nan
  tail = (1.0 - level) / 2.0
  # The largest d with P(fewer than d of n lie below the median) <= tail.
  out = int(stats.binom.ppf(tail, len(values), 0.5)) if len(values) else 0
  if len(values) and stats.binom.cdf(out, len(values), 0.5) <= tail:
    out += 1
  if not out:
    return value, np.nan, np.nan
  return value, float(values[out - 1]), float(values[-out])


def percentile(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
  """Percentile interval (low, high) of resampled values; NaNs are left out."""
  values = values[~np.isnan(values)]
  if not len(values):
    return np.nan, np.nan
  tail = (1.0 - level) / 2.0
  low, high = np.quantile(values, [tail, 1.0 - tail])
  return float(low), float(high)
