"""Stage: draw samples from every model."""

import ml_collections

from jaxdiff import subjects
from jaxdiff.plans import stage as stage_lib
from jaxdiff.sampling import generate

VERB = 'sample'
WORDS = 'samples'
NEEDS = ('sampling',)


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  del c
  plan = subjects.given(subject.sample)
  return stage_lib.Stage(
    run=lambda run: generate.generate(plan, run),
    cost=lambda units: cost(plan, units),
    plan=plan,
    smaller=('sample.batch_size',),
    programs=lambda devices: generate.programs_of(plan, devices),
    batch_sizes={'sample.batch_size': plan.batch_size},
  )


def cost(plan: generate.SamplePlan, units: stage_lib.Units) -> stage_lib.Cost:
  """Of drawing samples, and of keeping them."""
  drawn = plan.ensemble.num_models * plan.num_samples
  return stage_lib.Cost(
    flops=drawn * plan.num_steps * units.network_flops,
    disk=float(drawn * units.image_bytes),
  )
