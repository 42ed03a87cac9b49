"""Untargeted extraction: which training images do the samples give away?

Paper, section 5.1. With d_1 <= d_2 <= ... the distances from one sample to its
nearest references:

(1)  ratio = d_1 / mean(d_1 .. d_n);   the sample hits its nearest reference
     when ratio < alpha                       (the paper: alpha 0.5, n = 50)

Every target is counted twice by the same rule: against the images it trained
on, and against its *control half*, images of the same source, as many, that it
never saw. A hit there is a false one:

(2)  H = distinct training images hit,  C = distinct control images hit
     precision = 1 - C / H

The paper's alpha says little on a small set; `chosen` is the largest alpha
that keeps precision on the *other* models, so that no target picks its own.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np
import pandas as pd
from scipy import sparse, stats

from jaxdiff import progress, runs
from jaxdiff.metrics import distance, intervals

PAPER_ALPHA = 0.5
PAPER_NEIGHBOURS = 50
ALPHAS = np.round(np.arange(0.05, 0.951, 0.01), 2)
# Neighbours looked at for near-duplicates; longer chains join up by parts.
_DUPLICATE_NEIGHBOURS = 10
# Blocks of samples that an interval leaves out one at a time.
_JACKKNIFE_BLOCKS = 64

HALVES = ('training', 'control')


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
  """All that extraction needs; made by `build`.

  Attributes:
    images: uint8 [N, H, W, C], every example of the run.
    keep: bool [K, N].
    left_out: int [K]; alpha for a model is chosen on models of other numbers.
    num_samples: of each model.
    block_size: samples a file.
    flip: count mirror images as the image.
    precision: what `chosen` must keep on the other models.
    duplicate_distance: images at most this far apart count once.
  """

  images: np.ndarray
  keep: np.ndarray
  left_out: np.ndarray
  num_samples: int
  block_size: int
  flip: bool
  precision: float
  duplicate_distance: float

  @property
  def stored_neighbours(self) -> int:
    smallest = min(self.keep.sum(axis=1).min(), (~self.keep).sum(axis=1).min())
    return int(min(PAPER_NEIGHBOURS, smallest))

  @property
  def num_neighbours(self) -> int:
    """n of the chosen setting: well below the size of the set."""
    smallest = min(self.keep.sum(axis=1).min(), (~self.keep).sum(axis=1).min())
    return int(max(1, min(PAPER_NEIGHBOURS, smallest // 4)))


def nearest_images(
  queries: np.ndarray,
  images: np.ndarray,
  chosen: np.ndarray,
  k: int,
  flip: bool,
) -> tuple[np.ndarray, np.ndarray]:
  """Neighbours of samples among chosen images, mirrored or not.

  Args:
    queries: uint8 [S, H, W, C].
    images: uint8 [N, H, W, C].
    chosen: int [n] rows of `images`, n >= k.
    k: neighbours.
    flip: an image is as near as the nearer of itself and its mirror image.

  Returns:
    distance float32 [S, k], rising, and index int32 [S, k] into `images`;
    each image appears once.
  """
  found, index = distance.nearest(queries, images[chosen], k)
  if flip:
    mirrored, index_m = distance.nearest(queries[:, :, ::-1], images[chosen], k)
    found = np.concatenate([found, mirrored], axis=1)
    index = np.concatenate([index, index_m], axis=1)
    # By image, then distance: the second of a pair is the farther one.
    order = np.lexsort((found, index), axis=1)
    index = np.take_along_axis(index, order, axis=1)
    found = np.take_along_axis(found, order, axis=1)
    again = np.pad(index[:, 1:] == index[:, :-1], ((0, 0), (1, 0)))
    found = np.where(again, np.inf, found)
    order = np.lexsort((index, found), axis=1)[:, :k]
    index = np.take_along_axis(index, order, axis=1)
    found = np.take_along_axis(found, order, axis=1)
  return found, chosen[index].astype(np.int32)


def find_neighbours(plan: ExtractionPlan, run: runs.Run) -> None:
  """Writes neighbours of every block of samples that lacks them."""
  starts = range(0, plan.num_samples, plan.block_size)
  missing = [
    (model, start)
    for model in range(len(plan.keep))
    for start in starts
    if runs.read_npz(run.neighbours(model, start)) is None
  ]
  total = len(plan.keep) * plan.num_samples
  done = total - len(missing) * plan.block_size
  with progress.track('neighbours', total, 'images', done) as advance:
    for model, start in missing:
      block = runs.read_npz(run.samples(model, start))
      if block is None:
        raise runs.InputError(
          f'{run.samples(model, start)} is missing or torn: run the sample '
          'stage again'
        )
      arrays = {}
      for half, mask in zip(
        HALVES, (plan.keep[model], ~plan.keep[model]), strict=True
      ):
        arrays[f'{half}_distance'], arrays[f'{half}_index'] = nearest_images(
          block['images'],
          plan.images,
          np.flatnonzero(mask),
          plan.stored_neighbours,
          plan.flip,
        )
      runs.write_npz(
        run.neighbours(model, start), indices=block['indices'], **arrays
      )
      advance(plan.block_size)


def duplicate_groups(
  images: np.ndarray, threshold: float, flip: bool
) -> np.ndarray:
  """Joins near-duplicate images: int [N], equal within a group.

  Args:
    images: uint8 [N, H, W, C].
    threshold: largest RMSE of near-duplicates.
    flip: mirror images are duplicates too.
  """
  count = len(images)
  k = min(_DUPLICATE_NEIGHBOURS, count)
  found, index = nearest_images(images, images, np.arange(count), k, flip)
  rows, columns = np.nonzero(found <= threshold)
  edges = sparse.coo_array(
    (np.ones(len(rows)), (rows, index[rows, columns])), shape=(count, count)
  )
  return sparse.csgraph.connected_components(edges, directed=False)[1]


def ratios(found: np.ndarray, num_neighbours: int) -> np.ndarray:
  """Equation (1): distances [S, k] -> ratio float32 [S]."""
  mean = found[:, :num_neighbours].mean(axis=1, dtype=np.float64)
  # A sample equal to its n nearest references is as close as can be.
  return np.divide(
    found[:, 0], mean, out=np.zeros(len(found)), where=mean > 0.0
  )


@dataclasses.dataclass(frozen=True)
class Hits:
  """One target's smallest ratio to every image, block of samples by block.

  Attributes:
    training: float [B, G] smallest ratio of a block's samples whose nearest
      training image is in group g; inf where there is none.
    control: the same for the control half, without groups that the target
      trained on.
  """

  training: np.ndarray
  control: np.ndarray

  def counts(
    self, alphas: np.ndarray, blocks: np.ndarray | slice = slice(None)
  ) -> tuple[np.ndarray, np.ndarray]:
    """H and C of equation (2) at each alpha: int [A] each."""
    return tuple(
      np.searchsorted(np.sort(best[blocks].min(axis=0)), alphas, side='left')
      for best in (self.training, self.control)
    )


def collect_hits(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  keep: np.ndarray,
  num_neighbours: int,
  num_blocks: int = _JACKKNIFE_BLOCKS,
) -> Hits:
  """Smallest ratios of one target.

  Args:
    neighbours: distance and index [S, k] of both halves.
    groups: int [N] near-duplicate groups.
    keep: bool [N] images the target trained on.
    num_neighbours: n of equation (1).
    num_blocks: blocks of consecutive samples.
  """
  best = {}
  for half in HALVES:
    found = neighbours[f'{half}_distance']
    group = groups[neighbours[f'{half}_index'][:, 0]]
    num_blocks = min(num_blocks, len(found))
    block = np.arange(len(found)) * num_blocks // len(found)
    best[half] = np.full((num_blocks, groups.max() + 1), np.inf)
    np.minimum.at(best[half], (block, group), ratios(found, num_neighbours))
  # An image whose duplicate was trained on is no control.
  best['control'][:, np.unique(groups[keep])] = np.inf
  return Hits(best['training'], best['control'])


def precision(extracted: np.ndarray, control: np.ndarray) -> np.ndarray:
  """Equation (2): 1 - C / H, NaN where nothing was hit."""
  with np.errstate(invalid='ignore', divide='ignore'):
    return np.where(extracted > 0, 1.0 - control / extracted, np.nan)


def choose_alpha(hits: Sequence[Hits], wanted: float) -> float:
  """Largest of ALPHAS at which the targets' pooled precision is `wanted`.

  Returns:
    alpha, or 0 (nothing hits) if there is none.
  """
  counts = np.sum([one.counts(ALPHAS) for one in hits], axis=0)
  good = np.flatnonzero(precision(*counts) >= wanted)
  return float(ALPHAS[good[-1]]) if len(good) else 0.0


def count_with_intervals(
  targets: Sequence[tuple[Hits, float]], num_images: int
) -> dict[str, tuple[float, float, float]]:
  """Equation (2) pooled over targets, with 95 % intervals over samples.

  H: delete-one-block jackknife over blocks of samples within each target. A
  bootstrap would not do: a resample repeats blocks and finds fewer distinct
  images than there are, so that its interval can miss the count itself.

  C, and through it the precision: exact Poisson. Control hits are rare and
  near independent, often none, where resampling sees no uncertainty at all; a
  sum of rare events is Poisson, and one of less rare events varies less.

  Args:
    targets: hits of each target, and its alpha.
    num_images: training images of all targets together.

  Returns:
    name -> (value, low, high) for 'extracted' (H), 'extracted_fraction',
    'control_hits' (C) and 'precision'.
  """
  extracted, control, variance = 0, 0, 0.0
  for hits, alpha in targets:
    hit = hits.training < alpha
    times = hit.sum(axis=0)
    # Leaving a block out loses the images that it alone hits.
    lost = (hit & (times == 1)[None]).sum(axis=1)
    variance += (len(lost) - 1) * lost.var() if len(lost) > 1 else np.nan
    extracted += int((times > 0).sum())
    control += int((hits.control < alpha).any(axis=0).sum())
  spread = stats.norm.ppf(0.5 + intervals.LEVEL / 2.0) * np.sqrt(variance)
  counts = np.array(
    [
      extracted,
      max(extracted - spread, 0.0),
      min(extracted + spread, num_images),
    ]
  )
  low, high = intervals.poisson(control)
  per_hit = lambda c: float(precision(np.float64(extracted), np.float64(c)))
  return {
    'extracted': tuple(counts),
    'extracted_fraction': tuple(counts / num_images),
    'control_hits': (control, low, high),
    'precision': (per_hit(control), max(per_hit(high), 0.0), per_hit(low)),
  }


def matches(
  neighbours: dict[str, np.ndarray], num_neighbours: int, alpha: float
) -> pd.DataFrame:
  """One row an image that some sample hits, training and control.

  Columns: half, index (image), sample (its nearest), distance (RMSE), ratio
  (equation 1), hits (samples that hit it); most convincing first.
  """
  tables = []
  for half in HALVES:
    found = neighbours[f'{half}_distance']
    table = pd.DataFrame(
      {
        'half': half,
        'index': neighbours[f'{half}_index'][:, 0],
        'sample': np.arange(len(found)),
        'distance': found[:, 0],
        'ratio': ratios(found, num_neighbours),
      }
    )
    table = table[table['ratio'] < alpha].sort_values(
      ['ratio', 'sample'], kind='stable'
    )
    table['hits'] = table.groupby('index')['index'].transform('size')
    tables.append(table.drop_duplicates('index'))
  return pd.concat(tables, ignore_index=True)


def analyse(plan: ExtractionPlan, run: runs.Run) -> None:
  """Reads stored neighbours; writes matches, summary and curve."""
  num_models = len(plan.keep)
  groups = duplicate_groups(plan.images, plan.duplicate_distance, plan.flip)
  evidence = [_read_neighbours(plan, run, model) for model in range(num_models)]
  match_tables, rows, curve_rows = [], [], []
  for setting in ('chosen', 'paper'):
    if setting == 'paper':
      num_neighbours = plan.stored_neighbours
    else:
      num_neighbours = plan.num_neighbours
    hits = [
      collect_hits(found, groups, keep, num_neighbours)
      for found, keep in zip(evidence, plan.keep, strict=True)
    ]
    alphas = _alphas(plan, setting, hits)
    if alphas is None:
      continue
    for model, alpha in enumerate(alphas):
      table = matches(evidence[model], num_neighbours, alpha)
      table.insert(0, 'setting', setting)
      table.insert(1, 'model', model)
      match_tables.append(table)
    rows += _summary_rows(plan, setting, num_neighbours, hits, alphas)
    for model, one in enumerate(hits):
      counts = zip(ALPHAS, *one.counts(ALPHAS), strict=True)
      curve_rows += [
        (setting, model, num_neighbours, alpha, h, c) for alpha, h, c in counts
      ]
  runs.write_csv(
    run.extraction_matches, pd.concat(match_tables, ignore_index=True)
  )
  runs.write_csv(
    run.extraction_curve,
    pd.DataFrame(
      curve_rows,
      columns=[
        'setting', 'model', 'num_neighbours', 'alpha', 'extracted',
        'control_hits',
      ],
    ),
  )  # fmt: skip
  runs.write_csv(run.extraction_summary, pd.DataFrame(rows))


def _read_neighbours(
  plan: ExtractionPlan, run: runs.Run, model: int
) -> dict[str, np.ndarray]:
  blocks = list(
    runs.read_blocks(run.neighbours, model, plan.num_samples, plan.block_size)
  )
  return {
    name: np.concatenate([block[name] for block in blocks])
    for name in blocks[0]
  }


def _alphas(
  plan: ExtractionPlan, setting: str, hits: list[Hits]
) -> list[float] | None:
  """Alpha of each target; None when there is no other model to choose on."""
  if setting == 'paper':
    return [PAPER_ALPHA] * len(hits)
  alphas = []
  for own in plan.left_out:
    others = [
      one
      for one, number in zip(hits, plan.left_out, strict=True)
      if number != own
    ]
    if not others:
      return None
    alphas.append(choose_alpha(others, plan.precision))
  return alphas


def _summary_rows(
  plan: ExtractionPlan,
  setting: str,
  num_neighbours: int,
  hits: list[Hits],
  alphas: list[float],
) -> list[dict[str, object]]:
  """Rows of summary.csv: each target, all pooled, the median over targets."""
  sizes = plan.keep.sum(axis=1)
  common = {'setting': setting, 'num_neighbours': num_neighbours}
  rows, by_metric = [], {}

  def add(name, targets, num_images, alpha):
    figures = count_with_intervals(targets, num_images)
    for metric, (value, low, high) in figures.items():
      rows.append(
        {
          'target': name, **common, 'alpha': alpha, 'metric': metric,
          'value': value, 'low': low, 'high': high,
          'num_training': num_images,
          'num_samples': plan.num_samples * len(targets),
        }
      )  # fmt: skip
      if name != 'pooled':
        by_metric.setdefault(metric, []).append(value)

  for model, target in enumerate(zip(hits, alphas, strict=True)):
    add(f'model-{model:03d}', [target], sizes[model], target[1])
  one_alpha = alphas[0] if len(set(alphas)) == 1 else np.nan
  pooled = list(zip(hits, alphas, strict=True))
  add('pooled', pooled, sizes.sum(), one_alpha)
  for metric, values in by_metric.items():
    # A target without hits has no precision.
    known = pd.Series(values).dropna()
    rows.append(
      {
        'target': 'median', **common, 'alpha': np.median(alphas),
        'metric': metric, 'value': known.median(),
        'low': known.min(), 'high': known.max(),
        'num_training': int(np.median(sizes)),
        'num_samples': plan.num_samples,
      }
    )  # fmt: skip
  return rows
