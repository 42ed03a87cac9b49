"""Stage: which training images do the samples give away?"""

import math

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.extraction import annotations, followups, neighbours, paths
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.data import datasets
from jaxdiff.nearest import tiled
from jaxdiff.plans import outside
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 2
WORDS = 'untargeted extraction from samples'
NEEDS = ('examples', 'samples')


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need(
    c.extraction.neighbours in neighbours.NEIGHBOURS,
    f'extraction.neighbours: no {c.extraction.neighbours!r}; there is '
    f'{", ".join(neighbours.NEIGHBOURS)}',
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the config cannot take."""
  need(
    c.extraction.shift < min(dataset.images.shape[1:3]),
    f'extraction.shift: {c.extraction.shift} leaves nothing of images of '
    f'{dataset.images.shape[1:3]} pixels',
  )
  need(
    c.extraction.eidetic_shift < min(dataset.images.shape[1:3]),
    f'extraction.eidetic_shift: {c.extraction.eidetic_shift} leaves nothing of '
    f'images of {dataset.images.shape[1:3]} pixels',
  )
  check_tiles(c, dataset.images.shape[1:])


def check_tiles(c: ml_collections.ConfigDict, shape: tuple[int, ...]) -> None:
  """Raises ValueError for images [H, W, C] that are not cut into such tiles."""
  if c.extraction.tiles:
    try:
      tiled.check_shape(shape, c.extraction.tiles)
    except ValueError as error:
      raise ValueError(
        f'extraction.tiles: {c.extraction.tiles}: {error}'
      ) from error


def make_plan(
  c: ml_collections.ConfigDict, subject: subjects.Subject, other: str = ''
) -> neighbours.ExtractionPlan:
  """How hits among the samples are found and counted.

  Args:
    c: the config.
    subject: whose samples.
    other: folder of a finished run to compare with; '' is none.
  """
  samples = subjects.given(subject.samples)
  examples = subjects.given(subject.examples).of_targets()
  return neighbours.ExtractionPlan(
    examples=examples,
    samples=samples,
    target_precision=c.extraction.target_precision,
    neighbours=c.extraction.neighbours,
    shift=c.extraction.shift,
    near=c.extraction.duplicate_distance,
    tiles=c.extraction.tiles,
    eidetic_distance=c.extraction.eidetic_distance,
    eidetic_shift=c.extraction.eidetic_shift,
    other=outside.other_run(other, examples),
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = make_plan(c, subject, c.extraction.other_run)

  def run(folder: layout.Run) -> None:
    neighbours.find_neighbours(plan, folder)
    if multihost.is_first():
      extraction_evaluate.analyse(plan, folder)
      followups.analyse(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    compared = plan.examples.num_models * plan.num_samples
    pairs = compared * len(plan.examples) * (2 if plan.examples.flip else 1)
    pairs *= (2 * plan.shift + 1) ** 2
    # Of each tile a largest so far, and the nearest of all.
    reduced = 8 * plan.tiles**2
    return stage_lib.Cost(
      flops=pairs * (2.0 * math.prod(plan.examples.shape) + reduced),
      disk=16.0 * compared * plan.most_neighbours,
    )

  def check_folder(folder: layout.Run) -> None:
    if paths.Paths(folder).annotations.exists():
      annotations.read_annotations(
        folder, plan.examples.num_models, plan.num_samples
      )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    programs=lambda devices: neighbours.programs_of(plan, devices),
    files=paths.Paths.reported(),
    fields=('extracted', 'extracted_fraction', 'control_hits', 'precision'),
    check=check_folder,
  )
