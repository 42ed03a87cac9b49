"""Stage: read the samples that a user brings into the run folder."""

import ml_collections

from jaxdiff import subjects
from jaxdiff.plans import stage as stage_lib
from jaxdiff.sampling import reading

VERB = 'sample'
PLACE = 200
WORDS = 'reading samples'
NEEDS = ('examples', 'generated')


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  del c
  plan = reading.ReadPlan(
    generated=tuple(subjects.given(subject.generated)),
    samples=subjects.given(subject.samples),
    shape=subjects.given(subject.examples).shape,
  )
  total = sum(map(len, plan.generated))
  return stage_lib.Stage(
    run=lambda run: reading.read(plan, run),
    cost=lambda units: stage_lib.Cost(disk=float(total * units.image_bytes)),
    plan=plan,
  )
