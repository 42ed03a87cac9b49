"""Extraction, counted: hits, what they are worth, and how sure.

Paper, section 5.1. With d_1 <= d_2 <= ... the distances from one sample to its
nearest references:

(1)  ratio = d_1 / mean(d_1 .. d_n);   the sample hits its nearest reference
     when ratio < alpha                       (the paper: alpha 0.5, n = 50)

References are all images of the run: the N that the target trained on, and its
*control half*, M others of the same source, which it never saw. The halves
compete, as targets and decoys do in proteomics (Elias & Gygi 2007):

(2)  H = distinct training images hit,  C = distinct control images hit

The rule knows nothing of the split, and a sample that copies nothing is as near
to one half as to the other: C counts what such samples hit. (Looked for in each
half by itself, a copy of a training image is held against the model that it
proves to copy, when some control image is near it too; and an image whose only
like is in the other half looks like a find.)

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

Near-duplicates are one image: everything below counts groups of them.
"""

from collections.abc import Callable
import dataclasses
from typing import NamedTuple

import numpy as np
from scipy import stats

from jaxdiff.metrics import intervals

ALPHAS = np.round(np.arange(0.05, 0.951, 0.01), 2)
HALVES = ('training', 'control')
# Blocks of samples that an interval leaves out one at a time.
JACKKNIFE_BLOCKS = 64


def ratios(found: np.ndarray, num_neighbours: int) -> np.ndarray:
  """Equation (1): distances [S, k] -> ratio float64 [S]."""
  mean = found[:, :num_neighbours].mean(axis=1, dtype=np.float64)
  # A sample equal to its n nearest references is as close as can be.
  return np.divide(found[:, 0], mean, out=np.zeros(len(found)), where=mean > 0)


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
  """Equation (3); NaN where nothing was hit.

  Where the control is hit more it is minus what the two sides would give if
  they changed places, so that it is 0 on average where nothing is copied.
  """
  if not counts.extracted:
    return np.nan
  extracted, control, num_training, num_control = counts
  excess = extracted * num_control - control * num_training
  if excess >= 0:
    return excess / max(extracted * (num_control - control), 1)
  return max(excess / max(control * (num_training - extracted), 1), -1.0)


def precision_interval(
  counts: Counts, level: float = intervals.LEVEL
) -> tuple[float, float]:
  """Equation (4): (low, high); NaNs where nothing was hit.

  It holds the value of `precision`, which may be negative, where a precision
  cannot be.
  """
  if not counts.extracted:
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


@dataclasses.dataclass(frozen=True)
class Hits:
  """One target's smallest ratio to every image, block of samples by block.

  Attributes:
    training: float32 [B, G] smallest ratio of a block's samples whose nearest
      image is in group g and was trained on; inf where there is none.
    control: the same for the control half.
    num_training: distinct training images of the target.
    num_control: distinct images of its control half.
  """

  training: np.ndarray
  control: np.ndarray
  num_training: int
  num_control: int

  def counts(self, alphas: np.ndarray) -> np.ndarray:
    """H and C of equation (2) at each alpha: int [2, A]."""
    return np.stack(
      [
        np.searchsorted(np.sort(best.min(axis=0)), alphas.astype(np.float32))
        for best in (self.training, self.control)
      ]
    )


def compete(
  neighbours: dict[str, np.ndarray], num_neighbours: int
) -> dict[str, np.ndarray]:
  """Ratio of every sample on the side of its nearest image, inf on the other.

  Equally near images of both sides count as control: what a split cannot tell
  apart is no evidence of training.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves, k >= n.
    num_neighbours: n of equation (1).

  Returns:
    half -> float32 [S].
  """
  found = np.sort(
    np.concatenate([neighbours[f'{half}_distance'] for half in HALVES], axis=1),
    axis=1,
  )
  ratio = ratios(found, num_neighbours).astype(np.float32)
  near = (
    neighbours['training_distance'][:, 0]
    < (neighbours['control_distance'][:, 0])
  )
  return {
    'training': np.where(near, ratio, np.float32(np.inf)),
    'control': np.where(near, np.float32(np.inf), ratio),
  }


def collect_hits(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  keep: np.ndarray,
  num_neighbours: int,
  num_blocks: int = JACKKNIFE_BLOCKS,
) -> Hits:
  """Smallest ratios of one target.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups, each within one half.
    keep: bool [N] images the target trained on.
    num_neighbours: n of equation (1).
    num_blocks: blocks of consecutive samples.
  """
  best = {}
  for half, ratio in compete(neighbours, num_neighbours).items():
    group = groups[neighbours[f'{half}_index'][:, 0]]
    blocks = min(num_blocks, len(ratio))
    block = np.arange(len(ratio)) * blocks // len(ratio)
    best[half] = np.full((blocks, groups.max() + 1), np.inf, np.float32)
    np.minimum.at(best[half], (block, group), ratio)
  return Hits(
    best['training'],
    best['control'],
    len(np.unique(groups[keep])),
    len(np.unique(groups[~keep])),
  )


def hit_by_sample(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  num_neighbours: int,
  alpha: float,
) -> dict[str, np.ndarray]:
  """The distinct image that each sample of one target hits, by half.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups.
    num_neighbours: n of equation (1).
    alpha: of equation (1).

  Returns:
    half -> int [S], a group, or -1 where the sample hits none.
  """
  return {
    half: np.where(
      ratio < np.float32(alpha),
      groups[neighbours[f'{half}_index'][:, 0]],
      -1,
    )
    for half, ratio in compete(neighbours, num_neighbours).items()
  }


def choose_alpha(
  counts: np.ndarray, num_training: int, num_control: int, wanted: float
) -> float:
  """Largest of ALPHAS that surely keeps a precision on some targets.

  Surely: by the lower end of the interval. Taking the largest of many alphas
  whose *measured* precision suffices would pick lucky ones, and fall short on
  the next target about every second time.

  Args:
    counts: H and C at each of ALPHAS, summed over targets: [2, A].
    num_training: training images, summed likewise.
    num_control: control images.
    wanted: precision.

  Returns:
    alpha, or 0 (nothing hits) if there is none.
  """
  for alpha, extracted, control in zip(
    ALPHAS[::-1], *counts[:, ::-1], strict=True
  ):
    one = Counts(int(extracted), int(control), num_training, num_control)
    if surely(one, wanted):
      return float(alpha)
  return 0.0


class Tally(NamedTuple):
  """Counts at one alpha, with the variance of H; targets add up."""

  extracted: int
  control: int
  variance: float
  num_training: int
  num_control: int

  @property
  def counts(self) -> Counts:
    return Counts(
      self.extracted, self.control, self.num_training, self.num_control
    )


def tally(hits: Hits, alpha: float) -> Tally:
  """The counts of equation (2) of one target.

  The variance of H is a delete-one-block jackknife over blocks of samples. A
  bootstrap would not do: a resample repeats blocks and finds fewer distinct
  images than there are, so that its interval can miss the count itself.
  """
  hit = hits.training < np.float32(alpha)
  control = (hits.control < np.float32(alpha)).any(axis=0).sum()
  return Tally(
    int(hit.any(axis=0).sum()),
    int(control),
    _jackknife_variance(hit),
    hits.num_training,
    hits.num_control,
  )


def add(tallies: list[Tally]) -> Tally:
  """Counts pooled over targets; an image counts once for each target."""
  return Tally(*(sum(values) for values in zip(*tallies, strict=True)))


def union(hits: list[np.ndarray], num_images: int) -> Tally:
  """Distinct images that any target gave away (the paper's pooled count).

  Args:
    hits: of each target, bool [B, G]: block of its samples hits group.
    num_images: distinct images that any target trained on.

  Returns:
    A tally without control: one target's control is another's training set.
  """
  hit = np.concatenate(hits)
  return Tally(
    int(hit.any(axis=0).sum()), 0, _jackknife_variance(hit), num_images, 0
  )


def _jackknife_variance(hit: np.ndarray) -> float:
  """Variance of the number of images hit: bool [B, G]."""
  # Leaving a block out loses the images that it alone hits.
  lost = (hit & (hit.sum(axis=0) == 1)[None]).sum(axis=1)
  if len(lost) < 2:
    return np.nan
  if not lost.any():
    # None seen: at most this many expected, at the interval's confidence.
    return intervals.poisson(0)[1]
  return float((len(lost) - 1) * lost.var())


def with_intervals(counted: Tally) -> dict[str, tuple[float, float, float]]:
  """Metric -> (value, low, high), 95 % intervals.

  'extracted' (H) and 'extracted_fraction': over samples of the same models,
  normal, by the jackknife variance. 'control_hits' (C): over samples, exact
  Poisson; a sum of rare events is Poisson, and one of less rare events varies
  less. 'precision': of these very hits, equations (3) and (4).
  """
  extracted, control, variance, num_training, _ = counted
  spread = stats.norm.ppf(0.5 + intervals.LEVEL / 2.0) * np.sqrt(variance)
  values = np.array(
    [
      extracted,
      max(extracted - spread, 0.0),
      min(extracted + spread, num_training),
    ],
    np.float64,
  )
  return {
    'extracted': tuple(values),
    'extracted_fraction': tuple(values / num_training),
    'control_hits': (control, *intervals.poisson(control)),
    'precision': (
      precision(counted.counts),
      *precision_interval(counted.counts),
    ),
  }
