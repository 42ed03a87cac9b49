"""Copies by another descriptor than pixels, with a threshold of its own.

A threshold that somebody else found, on other images, says nothing here. What
two different images of this source are like is known: the distance of every
training image to the nearest other. Of n such distances the k-th smallest is
the threshold, k even: the two images of a pair that are each other's nearest
have the same distance, so that a new image of the source is below it with a
chance of about k / (n + 1). k is the largest for which that is at most
`background`, 2 where there are too few. Training images that the descriptor
cannot tell apart are one. Held-out images tell whether it is so: they are hit
by the same rule, and precision is estimated from both counts (`precision`).
"""

import dataclasses
import functools
from typing import Any

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import precision
from jaxdiff.data import descriptors
from jaxdiff.data import examples as examples_lib
from jaxdiff.nearest import index as index_lib
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import multihost, preemption, progress

# Descriptors a file, and its arrays.
_PART = 4096
_ARRAYS = ('values', 'says')


class Paths(layout.Part):
  """Tables of second opinions."""

  summary = layout.File('second_opinion/summary.csv')
  matches = layout.File('second_opinion/matches.csv')

  def part(self, name: str, which: int, start: int) -> epath.Path:
    """Descriptors of generated images (0) or examples (1)."""
    folder = self.path / 'second_opinion' / name.lower()
    return folder / f'{("generated", "examples")[which]}-{start:08d}.npz'


@dataclasses.dataclass(frozen=True)
class OpinionPlan:
  """All that second opinions need; made by `plans`.

  Attributes:
    descriptors: whose opinions.
    examples: of one target.
    names: of the samples.
    background: share of new images that may be called copies.
  """

  descriptors: tuple[descriptors.Descriptor, ...]
  examples: examples_lib.Examples
  names: tuple[str, ...]
  background: float


def find(plan: OpinionPlan, run: layout.Run) -> None:
  """Describes all images, and writes summary.csv and matches.csv."""
  for descriptor in plan.descriptors:
    if descriptor.slow:
      _keep(plan, descriptor, run)
  if not multihost.is_first():
    return
  source = files.read_csv(run.examples, dtype={'source': str})['source']
  rows, tables = [], []
  for descriptor in plan.descriptors:
    counts = (len(plan.names), len(plan.examples))
    (generated, drawn), (examples, known) = (
      _described(descriptor, run, which, count)
      for which, count in enumerate(counts)
    )
    row, table = judge(
      generated[drawn],
      examples[known],
      plan.examples.keep[0][known],
      plan.examples.image[known],
      plan.background,
      descriptor.limit,
      descriptor.same,
    )
    table['sample'] = np.flatnonzero(drawn)[table['sample']]
    table['index'] = np.flatnonzero(known)[table['index']]
    rows.append(
      row
      | {
        'descriptor': descriptor.name,
        'threshold': float(descriptor.in_units(np.array(row['threshold']))),
        'unit': descriptor.unit,
        'nearer': descriptor.nearer,
        'num_samples': int(drawn.sum()),
        'plain': int((~drawn).sum() + (~known).sum()),
      }
    )
    names = np.array(plan.names, dtype=object)
    tables.append(
      pd.DataFrame(
        {
          'descriptor': descriptor.name,
          'half': table['half'],
          'rank': table.groupby('half').cumcount() + 1,
          'image': source.to_numpy()[table['index']],
          'sample': names[table['sample']],
          'index': table['index'],
          'number': table['sample'],
          'distance': descriptor.in_units(table['distance'].to_numpy()),
        }
      )
    )
  files.write_csv(Paths(run).summary, pd.DataFrame(rows))
  files.write_csv(Paths(run).matches, pd.concat(tables, ignore_index=True))


def judge(
  generated: np.ndarray,
  examples: np.ndarray,
  member: np.ndarray,
  image: np.ndarray,
  background: float,
  limit: float = np.inf,
  same: float = 0.0,
) -> tuple[dict[str, Any], pd.DataFrame]:
  """Which examples are near to generated images, by their descriptors?

  Args:
    generated: [M, D], as `Descriptor.describe` gives them.
    examples: [N, D].
    member: bool [N]: trained on, or held out.
    image: int [N], equal for near-duplicates, which count once.
    background: share of new images that may be called copies.
    limit: RMSE above which nothing is a copy.
    same: RMSE below which two descriptors are one.

  Returns:
    A row: threshold (RMSE; what is nearer is a hit), background (share of new
    images that is below it, by the distances between training images; NaN
    where these say nothing, and nothing is hit), extracted, control_hits
    (distinct images), precision, low, high, num_training, num_control; and a
    table of hits, nearest first: half, index, sample, distance, an image once.
  """
  cut, share = threshold(examples, member, image, background, limit, same)
  sides, nearest = {'training': member, 'control': ~member}, {}
  for half, side in sides.items():
    of_half = np.flatnonzero(side)
    if len(of_half):
      distance, index = index_lib.nearest(generated, examples[of_half], 1)
      nearest[half] = distance[:, 0], of_half[index[:, 0]]
    else:
      nearest[half] = np.full(len(generated), np.inf), np.zeros(0, int)
  # A sample counts on the side of its nearest image, on both if they tie.
  best = np.minimum(nearest['training'][0], nearest['control'][0])
  tables = []
  for half, (distance, index) in nearest.items():
    hit = np.flatnonzero((distance < cut) & (distance == best))
    table = pd.DataFrame(
      {
        'half': half,
        'index': index[hit] if len(index) else hit,
        'sample': hit,
        'distance': distance[hit],
      }
    ).sort_values(['distance', 'sample'], kind='stable')
    again = pd.Series(image[table['index']], index=table.index).duplicated()
    tables.append(table[~again])
  hits = pd.concat(tables, ignore_index=True)
  count = lambda side: len(np.unique(image[side]))
  extracted, control = (int((hits['half'] == half).sum()) for half in sides)
  counts = precision.Counts(extracted, control, count(member), count(~member))
  low, high = precision.precision_interval(counts)
  return {
    'threshold': float(cut),
    'background': share,
    'extracted': counts.extracted,
    'control_hits': counts.control,
    'precision': precision.precision(counts),
    'low': low,
    'high': high,
    'num_training': counts.num_training,
    'num_control': counts.num_control,
  }, hits


def threshold(
  examples: np.ndarray,
  member: np.ndarray,
  image: np.ndarray,
  share: float,
  limit: float = np.inf,
  same: float = 0.0,
) -> tuple[float, float]:
  """RMSE that new images are seldom below, and how seldom; see the module.

  It is 0, which nothing is below, where there are no two different images.

  Args:
    examples: [N, D].
    member: bool [N].
    image: int [N]: near-duplicates are one image.
    share: of new images that may be below it.
    limit: largest that it may be.
    same: RMSE below which two descriptors are one.
  """
  rows = np.flatnonzero(member)
  _, first = np.unique(image[rows], return_index=True)
  values = np.unique(examples[rows[first]], axis=0)
  while True:
    if len(values) < 2:
      return 0.0, np.nan
    distance, index = index_lib.nearest(values, values, 2)
    # Rounding may put the other first, where the two are one.
    other = np.where(index[:, 1] == np.arange(len(values)), *index.T)
    known = (distance[:, 1] < same) & (other < np.arange(len(values)))
    if not known.any():
      break
    values = values[~known]
  place = max(2, 2 * int(share * (len(values) + 1) / 2 + 1e-9))
  nearest = np.sort(distance[:, 1])
  cut = float(nearest[place - 1])
  if cut > limit:
    cut, place = limit, int((nearest < limit).sum())
  return cut, place / (len(values) + 1)


def _keep(
  plan: OpinionPlan, descriptor: descriptors.Descriptor, run: layout.Run
) -> None:
  """Writes every part of the descriptors that is absent, torn or another's."""
  counts = (len(plan.names), len(plan.examples))
  missing: list[tuple[int, int]] = []
  for which, count in enumerate(counts):
    parts = _parts(count)
    missing += sorted(
      blocks.absent(
        run,
        [(which, start) for start in parts],
        functools.partial(Paths(run).part, descriptor.name),
        _ARRAYS,
        parts,
      )
    )
  rows_of = lambda piece: _parts(counts[piece[0]])[piece[1]]
  left = sum(len(rows_of(piece)) for piece in missing)
  total = sum(counts)
  missing = missing[multihost.share(len(missing))]
  with progress.track(descriptor.name, total, 'images', total - left) as done:
    for which, start in missing:
      rows = rows_of((which, start))
      values, says = descriptor.describe(which, rows)
      blocks.write_block(
        Paths(run).part(descriptor.name, which, start),
        run.identity,
        which,
        indices=rows,
        values=values,
        says=says,
      )
      done(len(rows))
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier(descriptor.name)


def _parts(count: int) -> dict[int, np.ndarray]:
  """Rows of every part, by its first."""
  return {
    start: np.arange(start, min(start + _PART, count))
    for start in range(0, count, _PART)
  }


def _described(
  descriptor: descriptors.Descriptor, run: layout.Run, which: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
  """Descriptors of all images of a kind, and whether they say anything."""
  if not descriptor.slow:
    return descriptor.describe(which, np.arange(count))
  values, says = [], []
  for start, rows in _parts(count).items():
    path = Paths(run).part(descriptor.name, which, start)
    part = blocks.read_block(path, run.identity, which, rows, *_ARRAYS)
    if part is None:
      raise OSError(f'{path} is gone')
    values.append(part['values'])
    says.append(part['says'])
  return np.concatenate(values), np.concatenate(says)
