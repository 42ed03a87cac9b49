"""Stage: draw images from prompts."""

import math

import ml_collections

from jaxdiff import subjects
from jaxdiff.plans import stage as stage_lib
from jaxdiff.sampling import prompted

VERB = 'sample'
PLACE = 100.5
WORDS = 'images by prompt'
NEEDS = ('prompting', 'kept')


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  del c
  plan = subjects.given(subject.prompted)
  drawn = plan.ensemble.num_models * plan.num_samples
  return stage_lib.Stage(
    run=lambda run: prompted.generate(plan, run),
    cost=lambda units: stage_lib.Cost(
      flops=drawn
      * (plan.rows * plan.num_steps * units.network_flops + units.decode_flops),
      disk=float(drawn * math.prod(plan.image_shape)),
    ),
    plan=plan,
    smaller=('sample.batch_size', 'sample.decode_batch_size'),
    programs=lambda devices: prompted.programs_of(plan, devices),
    files=prompted.Paths.reported(),
  )
