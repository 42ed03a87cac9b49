"""Copies by another descriptor than pixels, with a threshold of its own.

A threshold that somebody else found, on other images, says nothing here. What
two different images of this source are like is known: the distance of every
training image to the nearest other. Of n such distances the k-th smallest is
the threshold, which a new image of the source is below with a chance of
k / (n + 1): k is the largest number for which that is at most `background`, 1
where there are too few. Held-out images tell whether it is so: they are hit by
the same rule, and precision is estimated from both counts (`precision`).
"""

import dataclasses
from typing import Any

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import precision
from jaxdiff.data import descriptors
from jaxdiff.data import examples as examples_lib
from jaxdiff.nearest import index as index_lib
from jaxdiff.runs import files, layout
from jaxdiff.runtime import multihost, preemption, progress

# Descriptors a file.
_PART = 4096


class Paths(layout.Part):
  """Tables of second opinions."""

  summary = layout.File('second_opinion/summary.csv')
  matches = layout.File('second_opinion/matches.csv')

  def part(self, name: str, which: int, start: int) -> epath.Path:
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
    generated, examples = (
      _described(descriptor, run, which, count)
      for which, count in enumerate(counts)
    )
    row, table = judge(
      generated,
      examples,
      plan.examples.keep[0],
      plan.examples.image,
      plan.background,
      descriptor.limit,
    )
    cut = float(descriptor.in_units(np.array(row['threshold'])))
    row |= {'descriptor': descriptor.name, 'unit': descriptor.unit}
    rows.append(row | {'threshold': cut})
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
) -> tuple[dict[str, Any], pd.DataFrame]:
  """Which examples are near to generated images, by their descriptors?

  Args:
    generated: [M, D], as `Descriptor.describe` gives them.
    examples: [N, D].
    member: bool [N]: trained on, or held out.
    image: int [N], equal for near-duplicates, which count once.
    background: share of new images that may be called copies.
    limit: RMSE above which nothing is a copy.

  Returns:
    A row: threshold (RMSE; what is nearer is a hit), background (share of new
    images that the distances between training images let below it, before the
    limit), extracted, control_hits
    (distinct images), precision, low, high, num_training, num_control; and a
    table of hits, nearest first: half, index, sample, distance, an image once.
  """
  cut, share = threshold(examples, member, image, background)
  cut = min(cut, limit)
  sides, nearest = {'training': member, 'control': ~member}, {}
  for half, side in sides.items():
    own = np.flatnonzero(side)
    if len(own):
      distance, index = index_lib.nearest(generated, examples[own], 1)
      nearest[half] = distance[:, 0], own[index[:, 0]]
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
  examples: np.ndarray, member: np.ndarray, image: np.ndarray, share: float
) -> tuple[float, float]:
  """RMSE that new images are seldom below, and how seldom; see the module.

  Args:
    examples: [N, D].
    member: bool [N].
    image: int [N]: near-duplicates are one image.
    share: of new images that may be below it.
  """
  rows = np.flatnonzero(member)
  _, first = np.unique(image[rows], return_index=True)
  own = examples[rows[first]]
  distance, _ = index_lib.nearest(own, own, 2)
  place = max(1, int(share * (len(own) + 1) + 1e-9))
  return float(np.sort(distance[:, 1])[place - 1]), place / (len(own) + 1)


def _keep(
  plan: OpinionPlan, descriptor: descriptors.Descriptor, run: layout.Run
) -> None:
  """Writes every part of the descriptors that is absent or torn."""
  counts = (len(plan.names), len(plan.examples))
  paths = Paths(run)
  missing = [
    (which, start)
    for which, count in enumerate(counts)
    for start in range(0, count, _PART)
    if files.read_npz(paths.part(descriptor.name, which, start), 'rows') is None
  ]
  size = lambda piece: min(_PART, counts[piece[0]] - piece[1])
  left = sum(map(size, missing))
  total = sum(counts)
  missing = missing[multihost.share(len(missing))]
  with progress.track(descriptor.name, total, 'images', total - left) as done:
    for which, start in missing:
      rows = np.arange(start, start + size((which, start)))
      files.write_npz(
        paths.part(descriptor.name, which, start),
        rows=descriptor.describe(which, rows),
      )
      done(len(rows))
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier(descriptor.name)


def _described(
  descriptor: descriptors.Descriptor, run: layout.Run, which: int, count: int
) -> np.ndarray:
  """Descriptors of all images of a kind."""
  if not descriptor.slow:
    return descriptor.describe(which, np.arange(count))
  parts = []
  for start in range(0, count, _PART):
    path = Paths(run).part(descriptor.name, which, start)
    part = files.read_npz(path, 'rows')
    if part is None:
      raise OSError(f'{path} is gone')
    parts.append(part['rows'])
  return np.concatenate(parts)
