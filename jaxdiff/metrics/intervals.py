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
