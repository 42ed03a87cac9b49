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

What they say of precision is in `precision.py`, equations (3) and (4).

Near-duplicates are one image: everything below counts groups of them.
"""

import dataclasses
from typing import NamedTuple

from etils import epy
import numpy as np

from jaxdiff.attacks.extraction import precision
from jaxdiff.metrics import intervals

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats

PAPER_ALPHA = 0.5


ALPHAS = np.round(np.arange(0.05, 0.951, 0.01), 2)


HALVES = ('training', 'control')


# Blocks of samples that an interval leaves out one at a time.
JACKKNIFE_BLOCKS = 64


def ratios(found: np.ndarray, num_neighbours: int) -> np.ndarray:
  """Equation (1): distances [S, k] -> ratio float64 [S]."""
  mean = found[:, :num_neighbours].mean(axis=1, dtype=np.float64)
  # A sample equal to its n nearest references is as close as can be.
  return np.divide(found[:, 0], mean, out=np.zeros(len(found)), where=mean > 0)


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
  neighbours: dict[str, np.ndarray], num_neighbours: int, near: float = 0.0
) -> dict[str, np.ndarray]:
  """Ratio of every sample on the side of its nearest image, inf on the other.

  Equally near images of both sides count as control: what a split cannot tell
  apart is no evidence of training.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves, k >= n.
    num_neighbours: n of equation (1).
    near: distance of near-duplicates, which count as a ratio of the paper's
      alpha, and nearer ones as less in proportion; 0 looks at ratios alone.

  Returns:
    half -> float32 [S].
  """
  found = np.sort(
    np.concatenate([neighbours[f'{half}_distance'] for half in HALVES], axis=1),
    axis=1,
  )
  ratio = ratios(found, num_neighbours)
  if near:
    ratio = np.minimum(ratio, PAPER_ALPHA * found[:, 0] / near)
  ratio = ratio.astype(np.float32)
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
  in_order: bool = False,
  near: float = 0.0,
) -> Hits:
  """Smallest ratios of one target.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups, each within one half.
    keep: bool [N] images the target trained on.
    num_neighbours: n of equation (1).
    num_blocks: blocks of consecutive samples.
    in_order: samples come in some order: blocks take them in turn.
    near: as in `compete`.
  """
  best = {}
  for half, ratio in compete(neighbours, num_neighbours, near).items():
    group = groups[neighbours[f'{half}_index'][:, 0]]
    blocks = min(num_blocks, len(ratio))
    place = np.arange(len(ratio))
    block = place % blocks if in_order else place * blocks // len(ratio)
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
  near: float = 0.0,
) -> dict[str, np.ndarray]:
  """The distinct image that each sample of one target hits, by half.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups.
    num_neighbours: n of equation (1).
    alpha: of equation (1).
    near: as in `compete`.

  Returns:
    half -> int [S], a group, or -1 where the sample hits none.
  """
  return {
    half: np.where(
      ratio < np.float32(alpha),
      groups[neighbours[f'{half}_index'][:, 0]],
      -1,
    )
    for half, ratio in compete(neighbours, num_neighbours, near).items()
  }


class Tally(NamedTuple):
  """Counts at one alpha, with the variance of H; targets add up."""

  extracted: int
  control: int
  variance: float
  num_training: int
  num_control: int

  @property
  def counts(self) -> precision.Counts:
    return precision.Counts(
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


def with_intervals(
  counted: Tally, controlled: int = 0
) -> dict[str, tuple[float, float, float]]:
  """Metric -> (value, low, high), 95 % intervals.

  'extracted' (H) and 'extracted_fraction': over samples of the same models,
  normal, by the jackknife variance. 'control_hits' (C): over samples, exact
  Poisson; a sum of rare events is Poisson, and one of less rare events varies
  less. 'precision': of these very hits (`precision`, equations 3 and 4).

  Args:
    counted: the counts.
    controlled: targets whose alpha was lowered until hardly any of the control
      is hit. C then says little, and of each an accident more is expected: (C +
      1) N / M of its hits (`controlled_alpha`).
  """
  extracted, control, variance, num_training, _ = counted
  spread = stats.norm.ppf(0.5 + intervals.LEVEL / 2.0) * np.sqrt(variance)
  precise = precision.precision(counted.counts)
  low, high = precision.precision_interval(counted.counts)
  if controlled and extracted and counted.num_control:
    expected = (control + controlled) * num_training / counted.num_control
    precise = max(1.0 - expected / extracted, 0.0)
    low, high = min(low, precise), max(high, precise)
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
    'precision': (precise, low, high),
  }
