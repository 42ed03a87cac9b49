"""Stage: which prompts are their generations copies of each other for?"""

import ml_collections

from jaxdiff import inputs, subjects
from jaxdiff.attacks.extraction import by_prompt
from jaxdiff.metrics import tiled_distance
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.plans.stages import screen
from jaxdiff.runs import layout
from jaxdiff.runtime import programs

VERB = 'attack'
PLACE = 2.2
WORDS = 'cliques of generated images by prompt'
NEEDS = ('pictures',)
ALONE = True

# Of a pair of images in the graph, at most.
_PAIR_BYTES = 40


def _group(c: ml_collections.ConfigDict) -> str:
  """Of its keys: where prompts are a file that is drawn, they are cliques'."""
  return 'cliques' if 'cliques' in c else 'prompts'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  group = _group(c)
  need(
    c[group].image_size % c[group].grid == 0,
    f'{group}.image_size: {c[group].image_size} must be a multiple of '
    f'{group}.grid, {c[group].grid}',
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  pictured, group = subjects.given(subject.pictured), _group(c)
  side, channels = pictured.first_shape()
  size = screen.compared_size(c, side, group)
  plan = by_prompt.PromptPlan(
    images_of=pictured.images_of,
    prompts=pictured.prompts,
    tau=c[group].tau,
    min_size=c[group].min_size,
    grid=c[group].grid,
    size=size,
    channels=c.get('channels', 0) or channels,
    grown=f'-{c.num_seeds}' if 'num_seeds' in c else '',
  )
  rows = plan.rows()
  need(
    bool(rows),
    f'{group}.min_size: no prompt has {c[group].min_size} images; the largest '
    'clique of fewer cannot be so large',
  )
  largest = max(map(len, rows.values()))
  inputs.check_size(
    f'{group}.image_size: a prompt of {largest:,} images',
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
