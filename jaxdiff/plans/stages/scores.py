"""Stage: tables of scores that were measured elsewhere."""

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import given_signals, registry
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost, programs

VERB = 'attack'
PLACE = 0
WORDS = 'scores that were measured elsewhere'
NEEDS = ('examples', 'signals')
# Other subjects do not miss it.
ALONE = True


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = given_signals.GivenPlan(
    scores=membership_evaluate.MembershipPlan(
      examples=subjects.given(subject.examples),
      timestep=0,
      transform='none',
      variance=c.membership.variance,
      num_resamples=c.membership.num_resamples,
      seed=c.seed,
      resolved=False,
    ),
    given=subjects.given(subject.signals),
  )

  def run(folder: layout.Run) -> None:
    if multihost.is_first():
      given_signals.analyse(plan, folder)

  return stage_lib.Stage(
    run=run,
    cost=lambda units: stage_lib.Cost(),
    plan=plan,
    programs=lambda devices: registry.programs_of(
      given_signals.attacks(plan.given),
      given_signals.queries_of(plan.given),
      plan.scores.examples,
      0,
      programs.of_one_process(devices),
    ),
    files=given_signals.Paths.reported(),
    fields=registry.fields(
      given_signals.attacks(plan.given), plan.scores.examples
    ),
  )
