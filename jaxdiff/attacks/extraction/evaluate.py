"""Untargeted extraction: which training images do the samples give away?

Neighbours of every sample are found once and stored; tables are made from
them by the rules of `counting`, in two settings:

* `paper`: alpha 0.5, n = 50 (or all there are);
* `chosen`: the n and alpha that hit most on *other* models while they surely
  keep the wanted precision there, so that no target picks its own, with n a
  quarter of the training set at most. The paper's say little on a small set.

The n neighbours are n distinct images: of near-duplicates the nearest alone. By
the paper's rule to the letter (`neighbours='images'`), an image with n copies
in the training set has n equally near neighbours, and no sample can hit it,
though the most duplicated images are those that models give away first.
"""

import dataclasses
from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.metrics import intervals
from jaxdiff.nearest import index as index_lib
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import multihost, preemption, progress

PAPER_ALPHA = 0.5
PAPER_NEIGHBOURS = 50
# Numbers of neighbours that `chosen` chooses from.
_CHOICES = (5, 10, 20, PAPER_NEIGHBOURS)
# What counts as a neighbour of its own.
NEIGHBOURS = ('distinct', 'images')
_GALLERY = 6
_GALLERY_NEIGHBOURS = 4

NEIGHBOUR_ARRAYS = tuple(
  f'{half}_{what}' for half in hits_lib.HALVES for what in ('distance', 'index')
)


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
  """All that extraction needs; made by `plans`.

  Attributes:
    images: uint8 [N, H, W, C], every example of the run.
    keep: bool [K, N].
    left_out: int [K]; alpha for a model is chosen on models of other numbers.
    num_samples: of each model.
    block_size: samples a file.
    flip: count mirror images as the image.
    target_precision: what `chosen` must keep on the other models.
    groups: int [N], equal for near-duplicates, which count as one image.
    eidetic_distance: training images at most this far apart are copies.
    eidetic_shift: pixels that copies may be moved by (`eidetic`).
    classes: that samples were drawn with; None is unconditional.
    other: a run on the same images to compare with (`findings`); None is none.
    neighbours: one of NEIGHBOURS.
  """

  images: np.ndarray
  keep: np.ndarray
  left_out: np.ndarray
  num_samples: int
  block_size: int
  flip: bool
  target_precision: float
  groups: np.ndarray
  eidetic_distance: float = 0.1
  eidetic_shift: int = 0
  classes: tuple[int, ...] | None = None
  other: layout.Run | None = None
  neighbours: str = 'distinct'

  @property
  def settings(self) -> dict[str, tuple[int, ...]]:
    """Setting -> the n of equation (1) that it may take."""
    smallest = int(self.num_images.min())
    most = max(2, smallest // 4)
    return {
      'chosen': tuple(n for n in _CHOICES if n <= most) or (most,),
      'paper': (min(PAPER_NEIGHBOURS, smallest),),
    }

  @property
  def most_neighbours(self) -> int:
    """Neighbours that are stored."""
    return max(map(max, self.settings.values()))

  @property
  def num_images(self) -> np.ndarray:
    """Distinct images that each model trained on, and others: int [K, 2]."""
    return np.array(
      [
        [len(np.unique(self.groups[mask])) for mask in (keep, ~keep)]
        for keep in self.keep
      ]
    )


def nearest_images(
  queries: np.ndarray,
  references: index_lib.Index,
  chosen: np.ndarray,
  k: int,
  flip: bool,
  groups: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Neighbours of samples among chosen images, mirrored or not.

  Args:
    queries: uint8 [S, H, W, C].
    references: of the chosen images.
    chosen: int [n] their rows in all images.
    k: neighbours; there are as many distinct images.
    flip: an image is as near as the nearer of itself and its mirror image.
    groups: int [N] of all images: of one group the nearest alone is a
      neighbour. None: every image is.

  Returns:
    distance float32 [S, k], rising, and index int32 [S, k] into all
    images; each group appears once.
  """
  if groups is None:
    groups = np.arange(chosen.max() + 1)
  group = groups[chosen]
  out = (
    np.empty((len(queries), k), np.float32),
    np.empty((len(queries), k), np.int32),
  )
  left, number = np.arange(len(queries)), k
  while len(left):
    found, index = references.nearest(queries[left], number)
    reach = found[:, -1]
    if flip:
      mirrored, index_m = references.nearest(queries[left][:, :, ::-1], number)
      reach = np.minimum(reach, mirrored[:, -1])
      found = np.concatenate([found, mirrored], axis=1)
      index = np.concatenate([index, index_m], axis=1)
    found, index = _first_of_group(found, index, group)
    # Too few groups among so many images, or nearer ones beyond: look farther.
    enough = found[:, k - 1] <= reach
    if number == len(chosen):
      enough[:] = True
    out[0][left[enough]] = found[enough, :k]
    out[1][left[enough]] = chosen[index[enough, :k]]
    left, number = left[~enough], min(2 * number, len(chosen))
  return out


def _first_of_group(
  found: np.ndarray, index: np.ndarray, group: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The nearest of each group, nearest first; then infinite distances.

  Args:
    found: [S, m] distances.
    index: int [S, m] of images.
    group: int [n] of all images.
  """
  # By group, distance and number: all but the first of a group are farther.
  order = np.lexsort((index, found, group[index]), axis=1)
  index = np.take_along_axis(index, order, axis=1)
  found = np.take_along_axis(found, order, axis=1)
  sorted_group = group[index]
  again = np.pad(sorted_group[:, 1:] == sorted_group[:, :-1], ((0, 0), (1, 0)))
  found = np.where(again, np.inf, found)
  order = np.lexsort((index, found), axis=1)
  return (
    np.take_along_axis(found, order, axis=1),
    np.take_along_axis(index, order, axis=1),
  )


def find_neighbours(plan: ExtractionPlan, run: layout.Run) -> None:
  """Writes neighbours of every block of samples that lacks them."""
  k = plan.most_neighbours
  starts = range(0, plan.num_samples, plan.block_size)
  pieces = [
    (model, start) for model in range(len(plan.keep)) for start in starts
  ]
  rows = {
    start: np.arange(start, min(start + plan.block_size, plan.num_samples))
    for start in starts
  }
  missing = sorted(
    blocks.absent(run, pieces, run.neighbours, NEIGHBOUR_ARRAYS, rows)
  )
  missing = missing[multihost.share(len(missing))]
  total = len(plan.keep) * plan.num_samples
  done = total - len(missing) * plan.block_size
  indexed, halves = None, {}
  with progress.track('neighbours', total, 'images', done) as advance:
    for model, start in missing:
      if indexed != model:
        indexed = model
        masks = (plan.keep[model], ~plan.keep[model])
        halves = {
          half: (index_lib.Index(plan.images[mask]), np.flatnonzero(mask))
          for half, mask in zip(hits_lib.HALVES, masks, strict=True)
        }
      block = layout.read_block(
        run.samples(model, start), run.identity, model, rows[start], 'images'
      )
      if block is None:
        raise inputs.InputError(
          f'{run.samples(model, start)} is missing or torn: run the sample '
          'stage again'
        )
      arrays = {}
      for half, (references, chosen) in halves.items():
        arrays[f'{half}_distance'], arrays[f'{half}_index'] = nearest_images(
          block['images'],
          references,
          chosen,
          k,
          plan.flip,
          plan.groups if plan.neighbours == 'distinct' else None,
        )
      layout.write_block(
        run.neighbours(model, start),
        run.identity,
        model,
        indices=rows[start],
        **arrays,
      )
      advance(plan.block_size)
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()


def matches(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  num_neighbours: int,
  alpha: float,
) -> pd.DataFrame:
  """One row a distinct image that some sample hits, training and control.

  Columns: half, index (image), sample (its nearest), distance (RMSE), ratio
  (equation 1), hits (samples that hit it or a duplicate); most convincing
  first. By the rules of `counting`: as many rows as it counts.
  """
  tables = []
  ratios = hits_lib.compete(neighbours, num_neighbours)
  hits = hits_lib.hit_by_sample(neighbours, groups, num_neighbours, alpha)
  for half, group in hits.items():
    found = neighbours[f'{half}_distance']
    table = pd.DataFrame(
      {
        'half': half,
        'index': neighbours[f'{half}_index'][:, 0],
        'sample': np.arange(len(found)),
        'distance': found[:, 0],
        'ratio': ratios[half],
        'group': group,
      }
    )[group >= 0].sort_values(['ratio', 'sample'], kind='stable')
    table['hits'] = table.groupby('group')['group'].transform('size')
    tables.append(table.drop_duplicates('group').drop(columns='group'))
  return pd.concat(tables, ignore_index=True)


def gallery(
  neighbours: dict[str, np.ndarray], num_neighbours: int, alpha: float
) -> pd.DataFrame:
  """Samples that hit nothing, for the eye (paper, figures 2 and 6).

  near_miss: smallest distances to a training image without a hit: near, but
  near to many. novel: largest ratios, about equally far from all neighbours.

  Columns: kind, sample, rank (0 is the nearest), index (image), distance,
  ratio; the _GALLERY_NEIGHBOURS nearest of _GALLERY samples a kind, of
  different nearest images.
  """
  found, index = neighbours['training_distance'], neighbours['training_index']
  # Of either half: what is nearer to the control is no hit.
  ratio = np.minimum(*hits_lib.compete(neighbours, num_neighbours).values())
  own = hits_lib.compete(neighbours, num_neighbours)['training']
  misses = np.flatnonzero(own >= np.float32(alpha))
  rows = []
  for kind, order in (
    ('near_miss', misses[np.argsort(found[misses, 0], kind='stable')]),
    ('novel', misses[np.argsort(-ratio[misses], kind='stable')]),
  ):
    first = np.sort(np.unique(index[order, 0], return_index=True)[1])
    rows += [
      (kind, sample, rank, index[sample, rank], found[sample, rank],
       ratio[sample])
      for sample in order[first[:_GALLERY]]
      for rank in range(min(_GALLERY_NEIGHBOURS, found.shape[1]))
    ]  # fmt: skip
  return pd.DataFrame(
    rows, columns=['kind', 'sample', 'rank', 'index', 'distance', 'ratio']
  )


class Rule(NamedTuple):
  """What counts as a hit of one target."""

  num_neighbours: int
  alpha: float


def analyse(plan: ExtractionPlan, run: layout.Run) -> None:
  """Reads stored neighbours; writes matches, summary, curve and gallery."""
  groups = plan.groups
  match_tables, summary_tables, curve_tables, galleries = [], [], [], []
  for setting, choices in plan.settings.items():
    # One target at a time: all at once may not fit.
    counts = np.zeros(
      (len(choices), len(plan.keep), 2, len(hits_lib.ALPHAS)), int
    )
    for model, keep in enumerate(plan.keep):
      found = neighbours_of(plan, run, model)
      for place, n in enumerate(choices):
        hits = hits_lib.collect_hits(found, groups, keep, n)
        counts[place, model] = hits.counts(hits_lib.ALPHAS)
    rules = _rules(plan, setting, counts)
    if rules is None:
      continue
    tallies, hit = [], []
    for model, (keep, rule) in enumerate(zip(plan.keep, rules, strict=True)):
      found = neighbours_of(plan, run, model)
      hits = hits_lib.collect_hits(found, groups, keep, rule.num_neighbours)
      tallies.append(hits_lib.tally(hits, rule.alpha))
      hit.append(hits.training < np.float32(rule.alpha))
      own = counts[choices.index(rule.num_neighbours), model]
      for tables, table in (
        (match_tables, matches(found, groups, *rule)),
        (galleries, gallery(found, *rule)),
        (
          curve_tables,
          pd.DataFrame(
            {
              'num_neighbours': rule.num_neighbours,
              'alpha': hits_lib.ALPHAS,
              'extracted': own[0],
              'control_hits': own[1],
            }
          ),
        ),
      ):
        table.insert(0, 'setting', setting)
        table.insert(1, 'model', model)
        tables.append(table)
    trained_on = plan.keep.any(axis=0)
    union = hits_lib.union(hit, len(np.unique(groups[trained_on])))
    summary = _summary(plan, rules, tallies, union)
    summary.insert(1, 'setting', setting)
    summary_tables.append(summary)
  for path, tables in (
    (run.extraction_matches, match_tables),
    (run.extraction_summary, summary_tables),
    (run.extraction_curve, curve_tables),
    (run.extraction_gallery, galleries),
  ):
    layout.write_csv(path, pd.concat(tables, ignore_index=True))


def neighbours_of(
  plan: ExtractionPlan, run: layout.Run, model: int
) -> dict[str, np.ndarray]:
  """Stored neighbours of all samples of a model."""
  return layout.read_rows(
    run,
    run.neighbours,
    model,
    plan.num_samples,
    plan.block_size,
    NEIGHBOUR_ARRAYS,
  )


def rules_of(run: layout.Run) -> dict[tuple[str, int], Rule]:
  """The rule of each setting and target, by the run's summary."""
  summary = layout.read_csv(run.extraction_summary)
  return {
    (row.setting, int(row.target.removeprefix('model-'))): Rule(
      int(row.num_neighbours), row.alpha
    )
    for row in summary.itertuples()
    if row.target.startswith('model-')
  }


def _rules(
  plan: ExtractionPlan, setting: str, counts: np.ndarray
) -> list[Rule] | None:
  """The rule of each target; None when there is no other model to choose on.

  Args:
    plan: whose settings.
    setting: one of them.
    counts: int [n, K, 2, A] at each n that it may take.
  """
  choices, num_images = plan.settings[setting], plan.num_images
  if setting == 'paper':
    return [Rule(choices[0], PAPER_ALPHA)] * len(plan.keep)
  rules = [Rule(choices[-1], 0.0)] * len(plan.keep)
  for number in np.unique(plan.left_out):
    others = plan.left_out != number
    if not others.any():
      return None
    most = 0
    for n, on_others in zip(
      choices, counts[:, others].sum(axis=1), strict=True
    ):
      alpha = hits_lib.choose_alpha(
        on_others,
        *num_images[others].sum(axis=0).tolist(),
        plan.target_precision,
      )
      extracted = on_others[0][alpha == hits_lib.ALPHAS].sum()
      if extracted > most:
        most = extracted
        for model in np.flatnonzero(~others):
          rules[model] = Rule(n, alpha)
  return rules


def _over_models(
  value: float, low: float, high: float, groups: np.ndarray
) -> tuple[float, float]:
  """Interval of newly trained models: Student's over groups of models.

  Groups differ in everything that training and sampling differ in, so that
  nothing is to be added to it; it is no narrower than that of these models.
  """
  _, lowest, highest = intervals.student(groups, 0.0, 1.0)
  if np.isnan(lowest):
    return np.nan, np.nan
  return min(low, lowest, value), max(high, highest, value)


def _summary(
  plan: ExtractionPlan,
  rules: list[Rule],
  tallies: list[hits_lib.Tally],
  union: hits_lib.Tally,
) -> pd.DataFrame:
  """Rows for each target, pooled, their union, and the median target."""
  common = [
    values[0] if len(set(values)) == 1 else np.nan
    for values in zip(*rules, strict=True)
  ]
  every = plan.num_samples * len(tallies)
  targets = [
    (f'model-{model:03d}', rule, one, plan.num_samples)
    for model, (rule, one) in enumerate(zip(rules, tallies, strict=True))
  ]
  targets.append(('pooled', common, hits_lib.add(tallies), every))
  targets.append(('union', common, union, every))
  table = pd.DataFrame(
    [
      {
        'target': target, 'num_neighbours': rule[0], 'alpha': rule[1],
        'metric': metric, 'value': value,
        'low': low, 'high': high, 'num_training': one.num_training,
        'num_control': one.num_control, 'num_samples': num_samples,
      }
      for target, rule, one, num_samples in targets
      for metric, (value, low, high) in hits_lib.with_intervals(one).items()
      if target != 'union' or metric.startswith('extracted')
    ]
  )  # fmt: skip
  table = table.assign(low_models=np.nan, high_models=np.nan)
  by_group = [
    hits_lib.with_intervals(hits_lib.add([tallies[k] for k in models]))
    for models in (
      np.flatnonzero(plan.left_out == name) for name in np.unique(plan.left_out)
    )
  ]
  for metric in ('extracted_fraction', 'precision'):
    row = (table['target'] == 'pooled') & (table['metric'] == metric)
    table.loc[row, ['low_models', 'high_models']] = _over_models(
      *table.loc[row, ['value', 'low', 'high']].to_numpy()[0],
      np.array([one[metric][0] for one in by_group]),
    )
  # A target without hits has no precision and no say in its median.
  single = table[table['target'].str.startswith('model-')]
  median = (
    single.groupby('metric', sort=False)
    .agg(
      num_neighbours=('num_neighbours', 'median'),
      alpha=('alpha', 'median'),
      value=('value', 'median'),
      low=('value', 'min'),
      high=('value', 'max'),
      num_training=('num_training', 'median'),
      num_control=('num_control', 'median'),
      num_samples=('num_samples', 'first'),
    )
    .reset_index()
    .assign(target='median', low_models=np.nan, high_models=np.nan)
  )
  return pd.concat([table, median[table.columns]], ignore_index=True)
