"""The nearest training images of every sample: the evidence of extraction."""

from collections.abc import Iterator, Sequence
import dataclasses
import itertools

import jax
import numpy as np

from jaxdiff.attacks.extraction import duplicates, paths
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import blocks, layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import multihost, preemption, programs, progress

PAPER_ALPHA = hits_lib.PAPER_ALPHA

PAPER_NEIGHBOURS = 50

# Numbers of neighbours that `chosen` chooses from.
_CHOICES = (5, 10, 20, PAPER_NEIGHBOURS)

# What counts as a neighbour of its own.
NEIGHBOURS = ('distinct', 'images')

NEIGHBOUR_ARRAYS = tuple(
  f'{half}_{what}' for half in hits_lib.HALVES for what in ('distance', 'index')
)


@dataclasses.dataclass(frozen=True)
class ExtractionPlan:
  """All that extraction needs; made by `plans`.

  alpha for a model is chosen on models of other numbers in the examples'
  `left_out`.

  Attributes:
    examples: the images, which model trained on which, and what counts as one.
    samples: how many there are of each model, and with what classes.
    target_precision: what `chosen` must keep on the other models.
    eidetic_distance: training images at most this far apart are copies.
    eidetic_shift: pixels that copies may be moved by (`eidetic`).
    other: a run on the same images to compare with (`followups`); None is none.
    neighbours: one of NEIGHBOURS.
    shift: pixels that samples may be moved by.
    near: distance of near-duplicates, for setting `controlled`.
    tiles: as of `duplicates.index_of`.
  """

  examples: examples_lib.Examples
  samples: samples_lib.Samples
  target_precision: float
  eidetic_distance: float = 0.1
  eidetic_shift: int = 0
  other: layout.Run | None = None
  neighbours: str = 'distinct'
  shift: int = 0
  near: float = 0.0
  tiles: int = 0

  @property
  def num_samples(self) -> int:
    """Of each model."""
    return self.samples.num_samples

  @property
  def block_size(self) -> int:
    """Samples a file."""
    return self.samples.block_size

  @property
  def classes(self) -> tuple[int, ...] | None:
    """That samples were drawn with; None is unconditional."""
    return self.samples.classes

  @property
  def settings(self) -> dict[str, tuple[int, ...]]:
    """Setting -> the n (hits.py, equation 1) that it may take."""
    sizes = self.num_images if self.has_control else self.num_images[:, :1]
    smallest = int(sizes.min())
    most = max(2, smallest // 4)
    choices = tuple(n for n in _CHOICES if n <= most) or (most,)
    paper = (min(PAPER_NEIGHBOURS, smallest),)
    if not self.has_control:
      return {'paper': paper}
    if len(np.unique(self.examples.left_out)) == 1:
      return {'controlled': choices[-1:], 'paper': paper}
    return {'chosen': choices, 'paper': paper}

  @property
  def has_control(self) -> bool:
    """Whether some images were not trained on."""
    return bool((self.num_images[:, 1] > 0).all())

  def near_of(self, setting: str) -> float:
    """`near` of a setting: the others look at ratios alone."""
    return self.near if setting == 'controlled' else 0.0

  @property
  def most_neighbours(self) -> int:
    """Neighbours that are stored."""
    return max(map(max, self.settings.values()))

  @property
  def num_images(self) -> np.ndarray:
    """Distinct images that each model trained on, and others: int [K, 2]."""
    return np.array(
      [
        [len(np.unique(self.examples.image[mask])) for mask in (keep, ~keep)]
        for keep in self.examples.keep
      ]
    )


def nearest_images(
  queries: np.ndarray,
  references: duplicates.AnyIndex,
  chosen: np.ndarray,
  k: int,
  flip: bool,
  groups: np.ndarray | None = None,
  shift: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
  """Neighbours of samples among chosen images, mirrored and moved or not.

  Args:
    queries: uint8 [S, H, W, C].
    references: of the chosen images.
    chosen: int [n] their rows in all images.
    k: neighbours; there are as many distinct images.
    flip: an image is as near as the nearer of itself and its mirror image.
    groups: int [N] of all images: of one group the nearest alone is a
      neighbour. None: every image is.
    shift: pixels that a sample may be moved by; what comes in at an edge
      repeats it.

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
    parts = [
      references.nearest(version, number)
      for version in versions(queries[left], flip, shift)
    ]
    reach = np.min([distance[:, -1] for distance, _ in parts], axis=0)
    found, index = _first_of_group(
      np.concatenate([distance for distance, _ in parts], axis=1),
      np.concatenate([rows for _, rows in parts], axis=1),
      group,
    )
    # Too few groups among so many images, or nearer ones beyond: look farther.
    enough = found[:, k - 1] <= reach
    if number == len(chosen):
      enough[:] = True
    out[0][left[enough]] = found[enough, :k]
    out[1][left[enough]] = chosen[index[enough, :k]]
    left, number = left[~enough], min(2 * number, len(chosen))
  return out


def versions(
  images: np.ndarray, flip: bool, shift: int
) -> Iterator[np.ndarray]:
  """Images as they are, mirrored, and moved: uint8 [S, H, W, C] each."""
  height, width = images.shape[1:3]
  for image in (images, images[:, :, ::-1])[: 2 if flip else 1]:
    if not shift:
      yield np.ascontiguousarray(image)
      continue
    edge = (shift, shift)
    wide = np.pad(image, ((0, 0), edge, edge, (0, 0)), 'edge')
    # Unmoved first: of equally near images it is what people see.
    moves = list(itertools.product(range(-shift, shift + 1), repeat=2))
    for down, right in sorted(moves, key=lambda m: m[0] ** 2 + m[1] ** 2):
      rows = slice(shift + down, shift + down + height)
      columns = slice(shift + right, shift + right + width)
      yield np.ascontiguousarray(wide[:, rows, columns])


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
    (model, start)
    for model in range(plan.examples.num_models)
    for start in starts
  ]
  rows = {
    start: np.arange(start, min(start + plan.block_size, plan.num_samples))
    for start in starts
  }
  missing = sorted(
    blocks.absent(
      run, pieces, paths.Paths(run).neighbours, NEIGHBOUR_ARRAYS, rows
    )
  )
  missing = missing[multihost.share(len(missing))]
  total = plan.examples.num_models * plan.num_samples
  done = total - len(missing) * plan.block_size
  indexed, halves = None, {}
  with progress.track('neighbours', total, 'images', done) as advance:
    for model, start in missing:
      if indexed != model:
        indexed = model
        masks = (plan.examples.keep[model], ~plan.examples.keep[model])
        halves = {
          half: (
            duplicates.index_of(plan.examples.images[mask], plan.tiles),
            np.flatnonzero(mask),
          )
          for half, mask in zip(hits_lib.HALVES, masks, strict=True)
          if mask.any()
        }
      images = plan.samples.read(run, model, start)
      arrays = {}
      for half in hits_lib.HALVES:
        if half not in halves:
          # No image is held out: as if all of them were infinitely far away.
          nowhere = (len(images), k)
          arrays[f'{half}_distance'] = np.full(nowhere, np.inf, np.float32)
          arrays[f'{half}_index'] = np.zeros(nowhere, np.int32)
          continue
        references, chosen = halves[half]
        arrays[f'{half}_distance'], arrays[f'{half}_index'] = nearest_images(
          images,
          references,
          chosen,
          k,
          plan.examples.flip,
          plan.examples.image if plan.neighbours == 'distinct' else None,
          plan.shift,
        )
      blocks.write_block(
        paths.Paths(run).neighbours(model, start),
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


def programs_of(
  plan: ExtractionPlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What the search compiles, in the larger of each half of the images.

  Processes share the models and blocks; each searches on its own devices.
  """
  own = programs.of_one_process(devices)
  blocks_of = plan.examples.num_models * (plan.num_samples // plan.block_size)
  asked = 2 if plan.examples.flip else 1
  asked *= (2 * plan.shift + 1) ** 2
  processes = programs.num_processes(devices)
  calls = blocks_of * asked / processes
  found = []
  for half, mask in zip(
    hits_lib.HALVES, (plan.examples.keep, ~plan.examples.keep), strict=True
  ):
    count = int(mask.sum(axis=1).max())
    if count:
      shape = (plan.block_size, count, plan.examples.shape)
      found += duplicates.programs_of(
        f'neighbours, {half}', *shape, plan.most_neighbours, own, calls,
        plan.tiles, plan.examples.num_models / processes,
      )  # fmt: skip
  return found


def neighbours_of(
  plan: ExtractionPlan, run: layout.Run, model: int
) -> dict[str, np.ndarray]:
  """Stored neighbours of all samples of a model."""
  return blocks.read_rows(
    run,
    paths.Paths(run).neighbours,
    model,
    plan.num_samples,
    plan.block_size,
    NEIGHBOUR_ARRAYS,
  )
