"""How many hits are copies: the estimator of precision, and its interval.

Of H distinct training images hit and C of the control half, of N and M there
are (`hits.py`, equation 2):

(3)  F = C (N - H) / (M - C),   precision = 1 - F / H

F estimates the false ones among the H. Samples that copy nothing hit a share
C / M of the images that nobody copied; of these there are N - H + F on the
training side, so that F = (N - H + F) C / M, which is (3) (the mix-max estimate
of Keich, Kertesz-Farkas & Noble 2015, at one threshold). It is negative where
the control is hit more.

The interval is of the precision of these very hits. With f false ones, samples
that copy nothing hit f + C of N - H + f + M images, and whether such an image
was trained on is a matter of the split alone:

(4)  f ~ Hypergeometric(N - H + f + M, N - H + f, f + C)

and the interval holds every f that (4) does not reject (mid-p, 2.5 % on either
side). What (3) and (4) rest on: that training and control images are
exchangeable but for training (drawn at random, near-duplicates together), and
that an image is as easily hit by accident whether it is copied or not.
"""

from collections.abc import Callable
from typing import NamedTuple

from etils import epy
import numpy as np

from jaxdiff.metrics import intervals

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats


class Counts(NamedTuple):
  """Distinct images, of one target or summed over several.

  Attributes:
    extracted: H.
    control: C.
    num_training: N, training images of the target.
    num_control: M, images of its control half.
  """

  extracted: int
  control: int
  num_training: int
  num_control: int


def precision(counts: Counts) -> float:
  """Equation (3); NaN where nothing was hit, or there is no control.

  Where the control is hit more it is minus what the two sides would give if
  they changed places, so that it is 0 on average where nothing is copied.
  """
  if not counts.extracted or not counts.num_control:
    return np.nan
  extracted, control, num_training, num_control = counts
  excess = extracted * num_control - control * num_training
  if excess >= 0:
    return excess / max(extracted * (num_control - control), 1)
  return max(excess / max(control * (num_training - extracted), 1), -1.0)


def precision_interval(
  counts: Counts, level: float = intervals.LEVEL
) -> tuple[float, float]:
  """Equation (4): (low, high); NaNs where `precision` is NaN.

  It holds the value of `precision`, which may be negative, where a precision
  cannot be.
  """
  if not counts.extracted or not counts.num_control:
    return np.nan, np.nan
  tail = (1.0 - level) / 2.0
  # Both tests are monotone in the number of false hits.
  fewest = _first(lambda f: _tails(counts, f)[0] > tail, 0, counts.extracted)
  most = (
    _first(
      lambda f: _tails(counts, f)[1] <= tail, fewest + 1, counts.extracted + 1
    )
    - 1
  )
  value = precision(counts)
  return (
    min(1.0 - most / counts.extracted, value),
    max(1.0 - fewest / counts.extracted, value),
  )


def surely(
  counts: Counts, wanted: float, level: float = intervals.LEVEL
) -> bool:
  """Whether the lower end of `precision_interval` is at least `wanted`."""
  too_many = int(np.floor((1.0 - wanted) * counts.extracted + 1e-9)) + 1
  if not counts.extracted:
    return False
  if too_many > counts.extracted:
    return True
  tail = (1.0 - level) / 2.0
  return precision(counts) >= wanted and _tails(counts, too_many)[1] <= tail


def _tails(counts: Counts, false: int) -> tuple[float, float]:
  """Mid-p of as few, and of as many, false hits as these by equation (4)."""
  others = counts.num_training - counts.extracted + false
  law = stats.hypergeom(
    others + counts.num_control, others, false + counts.control
  )
  here = law.pmf(false)
  if here > 1.0 - 1e-9:  # no other number is possible
    return 1.0, 1.0
  few = law.cdf(false)
  return few - 0.5 * here, 1.0 - few + 0.5 * here


def _first(holds: Callable[[int], bool], low: int, high: int) -> int:
  """The first number of low .. high - 1 from which on it holds, or high."""
  while low < high:
    middle = (low + high) // 2
    if holds(middle):
      high = middle
    else:
      low = middle + 1
  return low
