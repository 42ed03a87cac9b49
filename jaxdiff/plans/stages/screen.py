"""Stage: which prompts does a model know by heart, at a few calls each?"""

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.prompts import evaluate, paths, screen, screens
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 2.05
WORDS = 'screens of prompts'
NEEDS = ('prompting',)
ALONE = True
GROUP = 'screen'

# Sides of images that are compared: larger ones say no more.
_MOST_SIZE = 512


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the config leaves it out; '' if it does not."""
  return '' if c.screen.kinds else 'screen.kinds is empty'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  kinds = list(c.screen.kinds)
  unknown = [str(x) for x in kinds if x not in screens.SCREENS]
  need(
    not unknown,
    f'screen.kinds: no {", ".join(unknown)}; there is '
    f'{", ".join(screens.SCREENS)}',
  )
  need(len(set(kinds)) == len(kinds), 'screen.kinds: names one twice')


def compared_size(
  c: ml_collections.ConfigDict, side: int, group: str = 'cliques'
) -> int:
  """Sides that generations are compared at.

  Args:
    c: the config.
    side: the shorter one, of a generation.
    group: of the keys.

  Raises:
    ValueError: if no tile of them is left.
  """
  grid = c[group].grid
  size = c[group].image_size or min(side, _MOST_SIZE)
  size -= size % grid
  need(
    size > 0,
    f'{group}.grid: {grid} tiles leave nothing of images of {side} pixels',
  )
  return size


def make_plan(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> screen.ScreenPlan | None:
  """How prompts are screened; None if they are not."""
  if not c.screen.kinds:
    return None
  drawn = subjects.given(subject.prompted)
  plan = screen.ScreenPlan(
    prompted=drawn,
    kinds=tuple(c.screen.kinds),
    draws=c.screen.draws,
    num_seeds=c.screen.num_seeds,
    num_steps=c.screen.num_steps,
    guidance_scale=c.sample.guidance_scale,
    size=compared_size(c, min(drawn.image_shape[:2])),
    grid=c.cliques.grid,
    block_size=c.screen.block_size,
  )
  try:
    plan.steps(c.screen.num_steps)
  except ValueError as error:
    raise ValueError(f'screen.num_steps: {error}') from error
  return plan


def evaluate_plan(
  c: ml_collections.ConfigDict,
  subject: subjects.Subject,
  screened: screen.ScreenPlan | None,
  streamed=None,
) -> evaluate.EvaluatePlan:
  """What tables are made of."""
  drawn, known = subjects.given(subject.prompted), subjects.given(subject.known)
  fewest = evaluate.fewest_held_out(c.cliques.false_alarm)
  held_out = int((known.trained == 0).sum())
  need(
    held_out >= fewest,
    f'cliques.false_alarm: {c.cliques.false_alarm:g} needs {fewest} held-out '
    f'prompts, there are {held_out}; 0 leaves tau as it is',
  )
  return evaluate.EvaluatePlan(
    texts=drawn.texts,
    known=known,
    num_models=drawn.ensemble.num_models,
    screen=screened,
    stream=streamed,
    seed=c.seed,
    num_resamples=c.membership.num_resamples,
    false_alarm=c.cliques.false_alarm,
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = subjects.given(make_plan(c, subject))
  tables = evaluate_plan(c, subject, plan)

  def run(folder: layout.Run) -> None:
    screen.measure(plan, folder)
    # Where prompts are drawn next, tables are made of both.
    if multihost.is_first() and not c.stream.num_seeds:
      evaluate.tables(tables, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    drawn = plan.prompted
    prompts = drawn.ensemble.num_models * len(drawn.texts)
    return stage_lib.Cost(
      flops=prompts
      * (
        plan.rows() * units.network_flops
        + plan.decoded() * units.decode_flops
        + units.encode_flops
      ),
      disk=4.0 * prompts * len(plan.kinds),
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    smaller=('sample.batch_size', 'sample.decode_batch_size'),
    programs=lambda devices: screen.programs_of(plan, devices),
    files=(paths.Paths.screens, paths.Paths.summary),
  )
