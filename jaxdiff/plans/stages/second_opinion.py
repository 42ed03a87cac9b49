"""Stage: copies by PDQ hashes, or by embeddings that a user brings."""

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.extraction import second_opinion
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import layout

VERB = 'attack'
PLACE = 2.3
WORDS = 'copies by PDQ hashes or embeddings'
NEEDS = ('examples', 'generated', 'descriptors')
ALONE = True

# Bytes of a hash in the run folder; embeddings are about as long.
_BITS = 256.0


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  asked = c.second_opinion.pdq or c.second_opinion.embeddings
  return '' if asked else 'second_opinion names neither pdq nor embeddings'


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = second_opinion.OpinionPlan(
    descriptors=tuple(subjects.given(subject.descriptors)),
    examples=subjects.given(subject.examples).of_targets(),
    names=subjects.given(subject.generated)[0].names,
    background=c.second_opinion.background,
  )

  def run(folder: layout.Run) -> None:
    second_opinion.find(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    del units
    compared = len(plan.names) + len(plan.examples)
    return stage_lib.Cost(
      flops=2.0 * _BITS * compared * len(plan.examples) * len(plan.descriptors),
      disk=_BITS
      * compared
      * sum(descriptor.slow for descriptor in plan.descriptors),
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    files=second_opinion.Paths.reported(),
    fields=tuple(
      f'{descriptor.name.lower()}.{field}'
      for descriptor in plan.descriptors
      for field in ('precision', 'copied')
    ),
  )
