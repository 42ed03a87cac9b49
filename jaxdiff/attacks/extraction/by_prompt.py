"""Prompts whose generations are copies of each other (paper, section 4.2).

Neither training images nor the model are needed: the attack on closed models,
Imagen in the paper. Parts of some prompts are files of their own, so that a
stopped run goes on.
"""

from collections.abc import Callable, Sequence
import dataclasses

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import cliques
from jaxdiff.data import image_sets
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import multihost, preemption, progress

# Prompts a file.
_PART = 16


class Paths(layout.Part):
  """Tables of the prompts."""

  prompts = layout.File('prompts/prompts.csv')

  def part(self, start: int, of: str = '') -> epath.Path:
    """Of some prompts; `of` names what may grow in a run."""
    return self.path / 'prompts' / f'parts{of}' / f'{start:08d}.npz'


@dataclasses.dataclass(frozen=True)
class PromptPlan:
  """All that cliques by prompt need; made by `plans`.

  Attributes:
    images_of: run -> the images.
    prompts: of each image; '' is none.
    tau: largest tiled distance of an edge, RMSE.
    min_size: of a clique that counts.
    grid: tiles along each side.
    size: sides that images are compared at, a multiple of grid.
    channels: 1 or 3.
    grown: what may grow in a run, in a word: parts of another are no use.
  """

  images_of: Callable[[layout.Run], image_sets.ImageSet]
  prompts: Sequence[str]
  tau: float
  min_size: int
  grid: int
  size: int
  channels: int
  grown: str = ''

  def rows(self) -> dict[str, np.ndarray]:
    """Numbers of the images of every prompt that has enough, by its text."""
    numbers, names = pd.factorize(
      np.array(self.prompts, dtype=object), sort=True
    )
    place = np.argsort(numbers, kind='stable')
    starts = np.searchsorted(numbers[place], range(1, len(names)))
    parts = dict(zip(names, np.split(place, starts), strict=True))
    return {
      name: part
      for name, part in parts.items()
      if name and len(part) >= self.min_size
    }


def find(plan: PromptPlan, run: layout.Run) -> None:
  """Finds the largest clique of every prompt, and writes prompts.csv."""
  prompts, generated = plan.rows(), plan.images_of(run)
  images_of = list(prompts.values())
  paths = Paths(run)

  def part_of(model: int, start: int) -> epath.Path:
    del model  # of one generator
    return paths.part(start, plan.grown)

  parts = {
    start: np.arange(start, min(start + _PART, len(images_of)))
    for start in range(0, len(images_of), _PART)
  }
  missing = sorted(
    blocks.absent(
      run,
      [(0, start) for start in parts],
      part_of,
      cliques.COLUMNS,
      parts,
    )
  )
  done = len(images_of) - sum(len(parts[start]) for _, start in missing)
  missing = missing[multihost.share(len(missing))]
  with progress.track('prompts', len(images_of), 'prompts', done) as advance:
    for _, start in missing:
      found = []
      for number in parts[start]:
        images = generated.decoded(
          images_of[number].tolist(), plan.size, plan.channels
        )
        row = cliques.scan_prompt(
          np.stack(list(images)), plan.tau, plan.grid, plan.min_size
        )
        if row['medoid'] >= 0:
          row['medoid'] = images_of[number][row['medoid']]
        found.append(row)
        advance(1)
      columns = {
        name: np.array([row[name] for row in found]) for name in cliques.COLUMNS
      }
      blocks.write_block(
        part_of(0, start), run.identity, 0, indices=parts[start], **columns
      )
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier('prompts')
  if not multihost.is_first():
    return
  tables = []
  for start, rows in parts.items():
    part = blocks.read_block(
      part_of(0, start), run.identity, 0, rows, *cliques.COLUMNS
    )
    if part is None:
      raise OSError(f'{part_of(0, start)} is gone')
    tables.append(pd.DataFrame({name: part[name] for name in cliques.COLUMNS}))
  table = pd.concat(tables, ignore_index=True)
  table.insert(0, 'prompt', list(prompts))
  names = generated.names
  table['image'] = ['' if k < 0 else names[k] for k in table['medoid']]
  files.write_csv(
    paths.prompts,
    table.sort_values(['mean_distance', 'prompt'], kind='stable'),
  )
