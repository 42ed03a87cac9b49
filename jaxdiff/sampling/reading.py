"""Samples that a user brings, decoded into the run folder in resumable blocks.

From there on they are samples like any other: every attack on samples runs on
them unchanged.
"""

import dataclasses

import numpy as np

from jaxdiff.data import image_sets
from jaxdiff.runs import blocks, layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import multihost, preemption, progress


@dataclasses.dataclass(frozen=True)
class ReadPlan:
  """All that reading needs; made by `plans`.

  Attributes:
    generated: files of every model.
    samples: how many they are, and how many go in a block.
    shape: (H, W, C) of what is written; H and W are equal.
  """

  generated: tuple[image_sets.ImageSet, ...]
  samples: samples_lib.Samples
  shape: tuple[int, int, int]


def read(plan: ReadPlan, run: layout.Run) -> None:
  """Writes every block of samples that is absent or torn.

  Raises:
    InputError: naming a file that cannot be read; whole blocks stay.
  """
  size, _, channels = plan.shape
  missing = []
  for model, files_of in enumerate(plan.generated):
    starts = range(0, len(files_of), plan.samples.block_size)
    rows = {start: _rows(plan, model, start) for start in starts}
    pieces = [(model, start) for start in starts]
    missing += sorted(
      blocks.absent(run, pieces, run.samples, ('images', 'indices'), rows)
    )
  total = sum(map(len, plan.generated))
  left = sum(len(_rows(plan, *piece)) for piece in missing)
  missing = missing[multihost.share(len(missing))]
  with progress.track('read', total, 'images', total - left) as advance:
    for model, start in missing:
      rows = _rows(plan, model, start)
      images = np.empty((len(rows), size, size, channels), np.uint8)
      for place, image in enumerate(
        plan.generated[model].decoded(rows.tolist(), size, channels)
      ):
        images[place] = image
        advance(1)
      blocks.write_block(
        run.samples(model, start),
        run.identity,
        model,
        indices=rows,
        images=images,
      )
      if preemption.asked():
        break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier('read')


def _rows(plan: ReadPlan, model: int, start: int) -> np.ndarray:
  """Numbers of the images of a block."""
  end = min(start + plan.samples.block_size, len(plan.generated[model]))
  return np.arange(start, end)
