"""Stage: how exposed are canaries that models of their own trained on?"""

import dataclasses
import functools

import ml_collections
import numpy as np

from jaxdiff import subjects
from jaxdiff.attacks.canaries import exposure, insertion, paths
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.membership import signals as signals_lib
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.plans import privacy
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need, need_whole_numbers
from jaxdiff.plans.stages import train as train_stage
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost
from jaxdiff.training import block_states, loop
from jaxdiff.training import plan as training_plan

VERB = 'attack'
PLACE = 6
WORDS = 'canaries'
NEEDS = ('examples', 'noise_predictor', 'training')
GROUP = 'canaries'


@dataclasses.dataclass(frozen=True)
class CanaryAudit:
  """Models that train on canaries, and what their losses say."""

  train: training_plan.TrainPlan
  exposure: exposure.CanaryPlan


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  return '' if c.canaries.num_models else 'canaries.num_models is 0'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need_whole_numbers('canaries.counts', c.canaries.counts)
  steps = c.diffusion.num_train_timesteps
  need(
    bool(left_out(c)) or c.canaries.timestep < steps,
    f'canaries.timestep: {c.canaries.timestep} must lie in 0 .. {steps - 1}',
  )


def make_plan(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> CanaryAudit:
  """Models train on every example of the run and on their own canaries."""
  count, data = c.canaries.num_models, subjects.given(subject.examples)
  eps_fn_of = subjects.given(subject.eps_fn_of)
  schedule = subjects.given(subject.schedule)
  trained = subjects.given(subject.train)
  canaries = insertion.make(
    c.seed,
    count,
    data.shape,
    data.num_classes,
    counts=tuple(c.canaries.counts),
    per_count=c.canaries.per_count,
    coins=c.canaries.coins,
    pool=c.canaries.pool,
  )
  copies, labels, owner = canaries.inserted()
  planted = owner[None] == np.arange(count)[:, None]
  everyone = np.ones((count, len(data)), bool)
  # Copies of a canary are images of their own to whoever counts images.
  beyond = np.arange(len(copies)) + 1
  train = dataclasses.replace(
    trained,
    examples=dataclasses.replace(
      data,
      images=np.concatenate([data.images, copies]),
      labels=np.concatenate([data.labels, labels]),
      cond=None if data.cond is None else np.concatenate([data.cond, labels]),
      group=np.concatenate([data.group, data.group.max() + beyond]),
      image=np.concatenate([data.image, data.image.max() + beyond]),
      keep=np.concatenate([everyone, planted], axis=1),
      left_out=np.arange(count),
      paired=False,
    ),
    ensemble=dataclasses.replace(
      trained.ensemble, num_models=count, devices_per_model=0
    ),
    profile_steps=0,
  )
  if train.private is not None:
    # Noise of its own: twice the same would take itself away.
    seed = (c.seed + 2**30) % 2**31
    train = dataclasses.replace(
      train,
      ensemble=dataclasses.replace(train.ensemble, seed=seed),
      private=privacy.of_all(
        c,
        subjects.given(subject.guarantee),
        train.private,
        train.examples,
        seed,
      ),
    )
  measured = base.Settings(
    (c.canaries.timestep,), c.canaries.draws, flip=c.flip
  )

  def signal_fn(params, x0, cond, keys):
    return loss.make(eps_fn_of(params), schedule, measured)(x0, cond, keys)

  return CanaryAudit(
    train,
    exposure.CanaryPlan(
      canaries=canaries,
      signals=measure.SignalPlan(
        signal_fn=signal_fn,
        queries=loss.queries(measured),
        ensemble=dataclasses.replace(
          train.ensemble,
          restore=functools.partial(block_states.restore_ema, train),
        ),
        images=canaries.images.reshape(-1, *data.shape),
        cond=None if data.cond is None else canaries.labels.reshape(-1),
        block_size=c.signals.block_size,
        batch_size=c.signals.batch_size,
      ),
      seed=c.seed,
    ),
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = make_plan(c, subject)
  signals = plan.exposure.signals

  def planted(folder: layout.Run) -> layout.Run:
    return paths.Paths(folder).planted

  def run(folder: layout.Run) -> None:
    loop.fit(plan.train, planted(folder))
    multihost.barrier('canaries')
    measure.measure(signals, planted(folder))
    if multihost.is_first():
      exposure.analyse(plan.exposure, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    trained = train_stage.cost(plan.train, units)
    calls = signals_lib.calls(signals.queries)
    asked = plan.train.ensemble.num_models * len(signals.images) * calls
    return dataclasses.replace(
      trained, flops=trained.flops + asked * units.network_flops
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    smaller=('signals.batch_size', 'train.models_per_block'),
    programs=lambda devices: (
      loop.programs_of(plan.train, devices, 'canaries')
      + measure.programs_of(signals, devices, 'canaries: losses')
    ),
    files=paths.Paths.reported(),
    trained=((plan.train, planted),),
  )
