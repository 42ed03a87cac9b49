"""Prompts whose generations are copies of each other (paper, section 4.2).

Neither training images nor the model are needed: the attack on closed models,
Imagen in the paper. Parts of some prompts are files of their own, so that a
stopped run goes on.
"""

import dataclasses

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import cliques
from jaxdiff.data import image_sets
from jaxdiff.runs import files, layout
from jaxdiff.runtime import multihost, preemption, progress

# Prompts a file.
_PART = 16


class Paths(layout.Part):
  """Tables of the prompts."""

  prompts = layout.File('prompts/prompts.csv')

  def part(self, number: int) -> epath.Path:
    return self.path / 'prompts' / 'parts' / f'{number:06d}.csv'


@dataclasses.dataclass(frozen=True)
class PromptPlan:
  """All that cliques by prompt need; made by `plans`.

  Attributes:
    generated: the images.
    prompts: of each image; '' is none.
    tau: largest tiled distance of an edge, RMSE.
    min_size: of a clique that counts.
    grid: tiles along each side.
    size: sides that images are compared at, a multiple of grid.
    channels: 1 or 3.
  """

  generated: image_sets.ImageSet
  prompts: tuple[str, ...]
  tau: float
  min_size: int
  grid: int
  size: int
  channels: int

  def rows(self) -> dict[str, np.ndarray]:
    """Numbers of the images of every prompt, prompts in order of their text."""
    order = np.array(self.prompts, dtype=object)
    numbers, names = pd.factorize(order, sort=True)
    place = np.argsort(numbers, kind='stable')
    parts = np.split(
      place, np.searchsorted(numbers[place], range(1, len(names)))
    )
    return {
      name: part
      for name, part in zip(names, parts, strict=True)
      if name and len(part) > 1
    }


def find(plan: PromptPlan, run: layout.Run) -> None:
  """Finds the largest clique of every prompt, and writes prompts.csv."""
  rows = list(plan.rows().values())
  paths = Paths(run)
  parts = range(-(-len(rows) // _PART))
  missing = [part for part in parts if not paths.part(part).exists()]
  done = len(rows) - sum(len(rows[_part(part)]) for part in missing)
  missing = missing[multihost.share(len(missing))]
  with progress.track('prompts', len(rows), 'prompts', done) as advance:
    for part in missing:
      found = []
      for of_prompt in rows[_part(part)]:
        images = plan.generated.decoded(
          of_prompt.tolist(), plan.size, plan.channels
        )
        row = cliques.scan_prompt(
          np.stack(list(images)), plan.tau, plan.grid, plan.min_size
        )
        medoid = of_prompt[row['medoid']] if row['medoid'] >= 0 else -1
        found.append(row | {'medoid': medoid})
        advance(1)
      files.write_csv(paths.part(part), pd.DataFrame(found))
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier('prompts')
  if multihost.is_first():
    tables = [files.read_csv(paths.part(part)) for part in parts]
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, 'prompt', list(plan.rows()))
    names = plan.generated.names
    table['image'] = ['' if k < 0 else names[k] for k in table['medoid']]
    files.write_csv(
      paths.prompts,
      table.sort_values(['mean_distance', 'prompt'], kind='stable'),
    )


def _part(number: int) -> slice:
  """Prompts of one file."""
  return slice(number * _PART, (number + 1) * _PART)
