"""Stage: generate and filter, of each prompt in one pass."""

import math

import ml_collections
import numpy as np

from jaxdiff import inputs, subjects
from jaxdiff.attacks.prompts import evaluate, paths, screens, stream
from jaxdiff.attacks.prompts import screen as screen_lib
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.plans.stages import screen
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 2.1
WORDS = 'prompts whose generations are copies of each other'
NEEDS = ('prompting',)
ALONE = True
GROUP = 'stream'

# Of a pair of images in the graph, at most.
_PAIR_BYTES = 40


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the config leaves it out; '' if it does not."""
  return '' if c.stream.num_seeds else 'stream.num_seeds is 0'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  if not c.stream.num_seeds:
    return
  need(
    c.cliques.min_size <= c.stream.num_seeds,
    f'stream.num_seeds: {c.stream.num_seeds} generations hold no clique of '
    f'{c.cliques.min_size} (cliques.min_size)',
  )
  need(
    not c.stream.first or 2 <= c.stream.first < c.stream.num_seeds,
    f'stream.first: {c.stream.first} is not within 2 .. '
    f'{c.stream.num_seeds - 1}, below stream.num_seeds',
  )
  known = [kind for kind in screens.SCREENS if kind in c.screen.kinds]
  need(
    not c.stream.by or c.stream.by in known,
    f'stream.by: no {c.stream.by!r} is among screen.kinds; there is '
    f'{", ".join(known) or "none"}',
  )
  need(
    not c.stream.by or c.stream.top > 0.0,
    'stream.top: 0 chooses no prompt',
  )


def make_plan(
  c: ml_collections.ConfigDict,
  subject: subjects.Subject,
  screened: screen_lib.ScreenPlan | None,
) -> stream.StreamPlan | None:
  """How prompts are drawn and filtered; None if they are not."""
  if not c.stream.num_seeds:
    return None
  drawn = subjects.given(subject.prompted)
  count = len(drawn.texts)
  chosen = math.ceil(c.stream.top * count) if c.stream.by else count

  def choose(run: layout.Run) -> np.ndarray:
    if not c.stream.by:
      return np.arange(count)
    assert screened is not None
    return stream.best(
      [
        screen_lib.read(screened, run, model)[c.stream.by]
        for model in range(drawn.ensemble.num_models)
      ],
      drawn.texts,
      chosen,
    )

  size = screen.compared_size(c, min(drawn.image_shape[:2]))
  channels = drawn.image_shape[2]
  inputs.check_size(
    f'stream.num_seeds: a prompt of {c.stream.num_seeds:,} images',
    c.stream.num_seeds * (math.prod(drawn.image_shape) + 2 * size**2 * channels)
    + _PAIR_BYTES * c.stream.num_seeds**2,
  )
  return stream.StreamPlan(
    prompted=drawn,
    num_seeds=c.stream.num_seeds,
    first=c.stream.first,
    tau=c.cliques.tau,
    min_size=c.cliques.min_size,
    grid=c.cliques.grid,
    size=size,
    kept=c.stream.kept,
    block_size=c.stream.block_size,
    chosen=choose,
    num_chosen=chosen,
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  screened = screen.make_plan(c, subject)
  plan = subjects.given(make_plan(c, subject, screened))
  tables = screen.evaluate_plan(c, subject, screened, plan)
  known = subjects.given(subject.known)

  def run(folder: layout.Run) -> None:
    stream.generate(plan, folder)
    if multihost.is_first():
      evaluate.tables(tables, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    drawn = plan.prompted
    prompts = drawn.ensemble.num_models * plan.num_chosen
    pixels = plan.size**2 * drawn.image_shape[2]
    return stage_lib.Cost(
      flops=prompts
      * (
        plan.rows() * units.network_flops
        + plan.num_seeds * units.decode_flops
        + units.encode_flops
        # Half of all products of a Gram matrix, on pixels.
        + 1.5 * plan.num_seeds**2 * pixels
      ),
      disk=float(prompts * 8 * len(stream.COLUMNS)),
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    smaller=('sample.batch_size', 'sample.decode_batch_size'),
    programs=lambda devices: stream.programs_of(plan, devices),
    files=(
      paths.Paths.table,
      paths.Paths.totals,
      *((paths.Paths.screens, paths.Paths.summary) if screened else ()),
    ),
    fields=(
      'found',
      'found_fraction',
      *(('held_out_fraction',) if (known.trained == 0).any() else ()),
    ),
  )
