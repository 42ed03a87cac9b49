"""Extraction, counted: hits, their matched control, and how sure.

Paper, section 5.1. With d_1 <= d_2 <= ... the distances from one sample to its
nearest references:

(1)  ratio = d_1 / mean(d_1 .. d_n);   the sample hits its nearest reference
     when ratio < alpha                       (the paper: alpha 0.5, n = 50)

Every target is counted twice by the same rule: against the images it trained
on, and against its *control half*, the other examples of the run (as many, or
one more or less), which it never saw. A hit there is a false one:

(2)  H = distinct training images hit,  C = distinct control images hit
     precision = 1 - C / H             (negative when the control is hit more)

Near-duplicates are one image: everything below counts groups of them.
"""

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


def precision(extracted: np.ndarray, control: np.ndarray) -> np.ndarray:
  """Equation (2): 1 - C / H, NaN where nothing was hit."""
  extracted = np.asarray(extracted, np.float64)
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(extracted > 0, 1.0 - control / extracted, np.nan)


@dataclasses.dataclass(frozen=True)
class Hits:
  """One target's smallest ratio to every image, block of samples by block.

  Attributes:
    training: float32 [B, G] smallest ratio of a block's samples whose nearest
      training image is in group g; inf where there is none.
    control: the same for the control half, without groups that the target
      trained on.
    num_images: distinct training images of the target.
  """

  training: np.ndarray
  control: np.ndarray
  num_images: int

  def counts(self, alphas: np.ndarray) -> np.ndarray:
    """H and C of equation (2) at each alpha: int [2, A]."""
    return np.stack(
      [
        np.searchsorted(np.sort(best.min(axis=0)), alphas.astype(np.float32))
        for best in (self.training, self.control)
      ]
    )


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
    groups: int [N] near-duplicate groups.
    keep: bool [N] images the target trained on.
    num_neighbours: n of equation (1).
    num_blocks: blocks of consecutive samples.
  """
  best = {}
  for half in HALVES:
    found = neighbours[f'{half}_distance']
    group = groups[neighbours[f'{half}_index'][:, 0]]
    blocks = min(num_blocks, len(found))
    block = np.arange(len(found)) * blocks // len(found)
    best[half] = np.full((blocks, groups.max() + 1), np.inf, np.float32)
    ratio = ratios(found, num_neighbours).astype(np.float32)
    np.minimum.at(best[half], (block, group), ratio)
  trained_on = np.unique(groups[keep])
  # An image whose duplicate was trained on is no control.
  best['control'][:, trained_on] = np.inf
  return Hits(best['training'], best['control'], len(trained_on))


def hit_by_sample(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  keep: np.ndarray,
  num_neighbours: int,
  alpha: float,
) -> dict[str, np.ndarray]:
  """The distinct image that each sample of one target hits, by half.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups.
    keep: bool [N] images the target trained on.
    num_neighbours: n of equation (1).
    alpha: of equation (1).

  Returns:
    half -> int [S], a group, or -1 where the sample hits none.
  """
  out = {}
  for half in HALVES:
    found = neighbours[f'{half}_distance']
    group = groups[neighbours[f'{half}_index'][:, 0]]
    hit = ratios(found, num_neighbours).astype(np.float32) < np.float32(alpha)
    if half == 'control':
      # An image whose duplicate was trained on is no control.
      hit &= ~np.isin(group, groups[keep])
    out[half] = np.where(hit, group, -1)
  return out


def choose_alpha(counts: np.ndarray, wanted: float) -> float:
  """Largest of ALPHAS that surely keeps a precision on some targets.

  Surely: with the upper 97.5 % Poisson bound in place of C. Taking the largest
  of many alphas whose *measured* precision suffices would pick lucky ones, and
  fall short on the next target about every second time.

  Args:
    counts: H and C at each of ALPHAS, summed over targets: [2, A].
    wanted: precision.

  Returns:
    alpha, or 0 (nothing hits) if there is none.
  """
  extracted, control = counts
  most = np.array([intervals.poisson(c)[1] for c in control])
  good = np.flatnonzero(precision(extracted, most) >= wanted)
  return float(ALPHAS[good[-1]]) if len(good) else 0.0


class Tally(NamedTuple):
  """Counts at one alpha, with the variance of H; targets add up."""

  extracted: int
  control: int
  variance: float
  num_images: int


def tally(hits: Hits, alpha: float) -> Tally:
  """Equation (2) of one target.

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
    hits.num_images,
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
    int(hit.any(axis=0).sum()), 0, _jackknife_variance(hit), num_images
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
  """Metric -> (value, low, high), 95 % intervals over samples.

  'extracted' (H) and 'extracted_fraction': normal, by the jackknife variance.
  'control_hits' (C) and through it 'precision': exact Poisson. Control hits
  are rare and near independent, often none, where resampling sees no
  uncertainty at all; a sum of rare events is Poisson, and one of less rare
  events varies less. H is taken as known there: its share of the uncertainty
  is small.
  """
  extracted, control, variance, num_images = counted
  spread = stats.norm.ppf(0.5 + intervals.LEVEL / 2.0) * np.sqrt(variance)
  values = np.array(
    [
      extracted,
      max(extracted - spread, 0.0),
      min(extracted + spread, num_images),
    ],
    np.float64,
  )
  low, high = intervals.poisson(control)
  return {
    'extracted': tuple(values),
    'extracted_fraction': tuple(values / num_images),
    'control_hits': (control, low, high),
    'precision': tuple(
      float(precision(extracted, c)) for c in (control, high, low)
    ),
  }
