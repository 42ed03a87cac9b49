"""Stage: what fills the hidden part of an image?"""

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.inpainting import draw, masks, paths
from jaxdiff.attacks.inpainting import evaluate as inpainting_evaluate
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.diffusion import repaint
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 4
WORDS = 'inpainting'
NEEDS = ('examples', 'noise_predictor', 'pairs')
GROUP = 'inpainting'


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  return '' if c.inpainting.num_images else 'inpainting.num_images is 0'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  steps = c.diffusion.num_train_timesteps
  names = tuple(c.inpainting.masks)
  need(
    bool(names)
    and len(set(names)) == len(names)
    and not set(names) - set(masks.MASKS),
    f'inpainting.masks: {names}; name some of {", ".join(masks.MASKS)}',
  )
  if left_out(c):
    return
  need(
    c.inpainting.timestep < steps,
    f'inpainting.timestep: {c.inpainting.timestep} must lie in 0 .. '
    f'{steps - 1}',
  )
  need(
    c.inpainting.num_steps <= steps,
    f'inpainting.num_steps: {c.inpainting.num_steps} is more than the {steps} '
    'of diffusion.num_train_timesteps',
  )


def make_plan(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> inpainting_attack.InpaintingPlan:
  """How inpaintings are drawn and judged.

  Raises:
    InputError: if the subject's models cannot be attacked this way.
  """
  names = ('num_steps', 'jump_length', 'jump_n_sample', 'eta')
  settings = {name: c.inpainting[name] for name in names}
  judged = base.Settings(
    (c.inpainting.timestep,), c.inpainting.loss_draws, flip=False
  )

  eps_fn_of = subjects.given(subject.eps_fn_of)
  schedule = subjects.given(subject.schedule)

  def inpaint_fn(params, x0, known, cond, keys):
    return repaint.inpaint(
      eps_fn_of(params),
      keys,
      x0,
      known,
      cond,
      schedule=schedule,
      clip_sample=c.sample.clip_sample,
      **settings,
    )

  def loss_fn(params, x0, cond, keys):
    judge = loss.make(eps_fn_of(params), schedule, judged)
    return judge(x0, cond, keys).mean(axis=1)

  plan = inpainting_attack.InpaintingPlan(
    inpaint_fn=inpaint_fn,
    loss_fn=loss_fn,
    examples=subjects.given(subject.examples),
    ensemble=subjects.given(subject.ensemble),
    num_images=c.inpainting.num_images,
    masks=tuple(c.inpainting.masks),
    draws=c.inpainting.draws,
    kept=c.inpainting.kept,
    batch_size=c.inpainting.batch_size,
    settings=settings
    | {'t': c.inpainting.timestep, 'loss_draws': c.inpainting.loss_draws},
  )
  inpainting_attack.check(plan)
  return plan


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = make_plan(c, subject)
  num_models = plan.examples.num_models

  def run(folder: layout.Run) -> None:
    draw.measure(plan, folder)
    if multihost.is_first():
      inpainting_evaluate.analyse(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    drawn = num_models * plan.rows
    names = ('num_steps', 'jump_length', 'jump_n_sample')
    steps = len(repaint.walk(*(plan.settings[name] for name in names)))
    calls = steps + num_models * plan.settings['loss_draws']
    return stage_lib.Cost(
      flops=drawn * calls * units.network_flops,
      disk=drawn * (units.image_bytes + 4.0 * num_models),
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    smaller=('inpainting.batch_size',),
    programs=lambda devices: draw.programs_of(plan, devices),
    files=paths.Paths.reported(),
  )
