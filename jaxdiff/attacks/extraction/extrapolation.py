"""How many more images would more samples give away?

With f_k the number of distinct images that exactly k of n samples hit, and S
their sum:

(1)  Good & Toulmin (1956): as many samples again hit
     U = -sum_k (-1)^k f_k = f_1 - f_2 + f_3 - ...    new images; unbiased
(2)  U misses the number that it predicts by a variance of
     V = S + U - 2 A^2 / n,   A = -sum_k k (-1)^k f_k
(3)  Chao (1984): all samples that could be drawn hit at least
     S + (n - 1) / n  f_1 (f_1 - 1) / (2 (f_2 + 1))   images

(2): were the number of samples a Poisson variable, hits of different images
would be independent; of one image, h(k) = -(-1)^k for k > 0 less the indicator
of a first hit among the new samples has mean 0, so that V begins with the sum
of h^2 = 1 and of the indicator. Both numbers of samples are fixed instead,
which takes away what the difference has in common with either: its covariance
with the first is A = sum of lambda exp(-2 lambda) over images, with the second
-A. Images that are often hit add nothing to A but noise: terms of k > 3 are
tapered, and the square's own bias is taken off. (3) is a lower bound whatever
the distribution: images that are too rarely hit leave no trace.
"""

import dataclasses

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.metrics import intervals

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats


@dataclasses.dataclass(frozen=True)
class Prediction:
  """A number of images, with its 95 % interval."""

  value: float
  low: float
  high: float


def _z() -> float:
  return float(stats.norm.ppf(0.5 + intervals.LEVEL / 2.0))


def at_twice(hits: np.ndarray, num_samples: int) -> Prediction:
  """Distinct images that twice the samples hit, equations (1) and (2).

  Args:
    hits: int [I] samples that hit each image; zeros do not matter.
    num_samples: n, hitting or not.
  """
  found = hits[hits > 0].astype(np.float64)
  sign = np.where(found % 2 == 1, 1.0, -1.0)
  new = max(float(sign.sum()), 0.0)
  terms = sign * found * np.clip((8.0 - found) / 5.0, 0.0, 1.0)
  common = max(np.square(terms.sum()) - np.square(terms).sum(), 0.0)
  variance = len(found) + new - 2.0 * common / num_samples
  half = _z() * np.sqrt(max(variance, 0.0))
  ends = np.array([new - half, new + half])
  if not np.any(found == 1):
    # Images hit once: none, of which as many may be expected as a count of 0
    # still allows (the rule of three, at the interval's level).
    ends[1] = max(ends[1], intervals.poisson(0)[1])
  # No fewer than now, and no more than the new samples themselves.
  ends = np.clip(ends, 0.0, num_samples)
  return Prediction(len(found) + new, *(len(found) + ends))


def at_least(hits: np.ndarray, num_samples: int) -> Prediction:
  """Lower bound on what any number of samples hits, equation (3).

  The interval is Chao's (1987): that of the bound, log-normal.
  """
  found = hits[hits > 0]
  f1, f2 = (float((found == k).sum()) for k in (1, 2))
  share = (num_samples - 1) / num_samples
  more = share * f1 * (f1 - 1.0) / (2.0 * (f2 + 1.0))
  # Variance of the bias-corrected form (EstimateS, Colwell 2013, equation 6).
  variance = (
    more
    + share**2 * f1 * (2.0 * f1 - 1.0) ** 2 / (4.0 * (f2 + 1.0) ** 2)
    + share**2 * f1**2 * f2 * (f1 - 1.0) ** 2 / (4.0 * (f2 + 1.0) ** 4)
  )
  if more <= 0.0:
    # At most one image was hit once: as many as that count still allows.
    f1 = intervals.poisson(int(f1))[1]
    unseen = share * f1 * max(f1 - 1.0, 0.0) / (2.0 * (f2 + 1.0))
    return Prediction(len(found), len(found), len(found) + unseen)
  spread = np.exp(_z() * np.sqrt(np.log1p(variance / more**2)))
  return Prediction(
    len(found) + more, len(found) + more / spread, len(found) + more * spread
  )


def table(
  hits: np.ndarray, first: np.ndarray, num_samples: int, num_images: int
) -> pd.DataFrame:
  """metric, value, low, high of one target.

  Metrics: 'extracted', now; 'at_twice' the samples; 'at_least', of any number
  of samples; 'half_predicts', what the first half of the samples says of all
  of them, to be held against 'extracted'.

  Args:
    hits: int [I] samples that hit each image.
    first: the same of the first half of the samples.
    num_samples: in all.
    num_images: that there are to be hit: an auditor knows.
  """
  now = float((hits > 0).sum())
  rows = {
    'extracted': Prediction(now, np.nan, np.nan),
    'at_twice': at_twice(hits, num_samples),
    'at_least': at_least(hits, num_samples),
    'half_predicts': at_twice(first, num_samples // 2),
  }
  return pd.DataFrame(
    [
      (
        name,
        *np.minimum((estimate.value, estimate.low, estimate.high), num_images),
      )
      for name, estimate in rows.items()
    ],
    columns=['metric', 'value', 'low', 'high'],
  )
