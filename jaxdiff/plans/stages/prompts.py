"""Stage: which prompts are their generations copies of each other for?"""

import ml_collections

from jaxdiff import inputs, subjects
from jaxdiff.attacks.extraction import by_prompt
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout

VERB = 'attack'
PLACE = 2.2
WORDS = 'cliques of generated images by prompt'
NEEDS = ('generated', 'prompts')
ALONE = True

# Sides of images that are compared: larger ones say no more.
_MOST_SIZE = 512


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
    channels=channels,
  )
  largest = max(map(len, plan.rows().values()))
  inputs.check_size('prompts.of', 2 * largest * size * size * channels)

  def run(folder: layout.Run) -> None:
    by_prompt.find(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    del units
    pairs = sum(len(rows) ** 2 for rows in plan.rows().values())
    return stage_lib.Cost(flops=float(pairs * size * size * channels))

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    files=by_prompt.Paths.reported(),
    fields=('flagged', 'flagged_fraction'),
  )
