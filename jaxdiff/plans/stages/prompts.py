"""Stage: which prompts are their generations copies of each other for?"""

import ml_collections

from jaxdiff import inputs, subjects
from jaxdiff.attacks.extraction import by_prompt
from jaxdiff.metrics import tiled_distance
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import programs

VERB = 'attack'
PLACE = 2.2
WORDS = 'cliques of generated images by prompt'
NEEDS = ('generated', 'prompts')
ALONE = True

# Sides of images that are compared: larger ones say no more.
_MOST_SIZE = 512

# Of a pair of images in the graph, at most.
_PAIR_BYTES = 40


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need(
    c.prompts.image_size % c.prompts.grid == 0,
    f'prompts.image_size: {c.prompts.image_size} must be a multiple of '
    f'prompts.grid, {c.prompts.grid}',
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  generated = subjects.given(subject.generated)[0]
  side, channels = generated.first_shape()
  size = c.prompts.image_size or min(side, _MOST_SIZE)
  size -= size % c.prompts.grid
  need(
    size > 0,
    f'prompts.grid: {c.prompts.grid} tiles leave nothing of images of {side} '
    'pixels',
  )
  plan = by_prompt.PromptPlan(
    generated=generated,
    prompts=subjects.given(subject.prompts),
    tau=c.prompts.tau,
    min_size=c.prompts.min_size,
    grid=c.prompts.grid,
    size=size,
    channels=c.channels or channels,
  )
  rows = plan.rows()
  need(
    bool(rows),
    f'prompts.min_size: no prompt has {c.prompts.min_size} images; the largest '
    'clique of fewer cannot be so large',
  )
  largest = max(map(len, rows.values()))
  inputs.check_size(
    f'prompts.of: a prompt of {largest:,} images',
    2 * largest * size * size * plan.channels + _PAIR_BYTES * largest**2,
  )

  def run(folder: layout.Run) -> None:
    by_prompt.find(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    del units
    pairs = sum(len(x) ** 2 for x in rows.values())
    return stage_lib.Cost(flops=float(pairs * size * size * plan.channels))

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    # Most prompts have smaller components, and none of them more images.
    programs=lambda devices: tiled_distance.programs_of(
      'tiles of a prompt',
      largest,
      (size, size, plan.channels),
      plan.grid,
      programs.of_one_process(devices),
      len(rows) / programs.num_processes(devices),
    ),
    files=by_prompt.Paths.reported(),
    fields=('flagged', 'flagged_fraction'),
  )
