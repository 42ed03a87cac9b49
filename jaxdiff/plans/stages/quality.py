"""Stage: how good the samples are."""

from collections.abc import Sequence

import jax
import ml_collections

from jaxdiff import subjects
from jaxdiff.interop import inception
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost, programs
from jaxdiff.sampling import quality

VERB = 'attack'
PLACE = 3
WORDS = 'quality of the samples'
NEEDS = ('examples', 'non_members', 'samples')


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  samples = subjects.given(subject.samples)
  features = inception.load(c.quality.inception)
  plan = quality.QualityPlan(
    examples=subjects.given(subject.examples).of_targets(),
    num_samples=samples.num_samples,
    block_size=samples.block_size,
    num_resamples=min(c.membership.num_resamples, 100),
    seed=c.seed,
    inception=features,
    labelled=samples.classes is not None,
  )

  def programs_of(devices: Sequence[jax.Device]) -> list[programs.Program]:
    if features is None:
      return []
    sizes = [len(plan.examples), *[plan.num_samples] * len(plan.examples.keep)]
    return [features.program(sizes, plan.examples.shape, devices)]

  def run(folder: layout.Run) -> None:
    if multihost.is_first():
      quality.measure(plan, folder)

  return stage_lib.Stage(
    run=run,
    cost=lambda units: stage_lib.Cost(),
    plan=plan,
    programs=programs_of,
    files=quality.Paths.reported(),
  )
