"""Stage: train every model."""

import ml_collections

from jaxdiff import subjects
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import layout
from jaxdiff.training import loop
from jaxdiff.training import plan as training_plan

VERB = 'train'
WORDS = 'training'
NEEDS = ('training',)


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  del c
  plan = subjects.given(subject.train)
  return stage_lib.Stage(
    run=lambda run: loop.fit(plan, run),
    cost=lambda units: cost(plan, units),
    plan=plan,
    smaller=('train.devices_per_model', 'train.models_per_block'),
    programs=lambda devices: loop.programs_of(plan, devices),
    files=(layout.Run.metrics,),
    batch_sizes={'train.batch_size': plan.rows},
    trained=((plan, lambda run: run),),
  )


def cost(
  plan: training_plan.TrainPlan, units: stage_lib.Units
) -> stage_lib.Cost:
  """Of training models, and of the checkpoints that are kept."""
  seen = plan.ensemble.num_models * plan.num_steps * plan.batch_size
  kept = plan.max_to_keep or -(-plan.num_steps // plan.checkpoint_every)
  return stage_lib.Cost(
    flops=seen * units.train_flops,
    disk=float(plan.ensemble.num_models * kept * units.state_bytes),
  )
