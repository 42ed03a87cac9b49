"""Stage: membership from samples alone."""

import math

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import nearest_sample, registry
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need, need_whole_numbers
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 2.5
WORDS = 'membership from samples alone'
NEEDS = ('examples', 'samples', 'non_members')


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  return '' if c.nearest_sample.neighbours else 'nearest_sample.neighbours is 0'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  if c.nearest_sample.choices:
    need_whole_numbers('nearest_sample.choices', c.nearest_sample.choices)
    need(
      max(c.nearest_sample.choices) <= 1024,
      f'nearest_sample.choices: {max(c.nearest_sample.choices)} is above 1024',
    )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  examples = subjects.given(subject.examples)
  samples = subjects.given(subject.samples)
  wanted = {c.nearest_sample.neighbours}
  if examples.attacked.all() and examples.num_models > 1:
    wanted |= set(c.nearest_sample.choices)
  # No more neighbours than there are samples.
  fewest = min(samples.count(k) for k in range(examples.num_models))
  plan = nearest_sample.NearestSamplePlan(
    scores=membership_evaluate.MembershipPlan(
      examples=examples,
      timestep=min(c.nearest_sample.neighbours, fewest),
      transform='none',
      variance='pooled',
      num_resamples=c.membership.num_resamples,
      seed=c.seed,
    ),
    samples=samples,
    neighbours=tuple(sorted({min(m, fewest) for m in wanted})),
  )

  def run(folder: layout.Run) -> None:
    nearest_sample.measure(plan, folder)
    if multihost.is_first():
      nearest_sample.analyse(plan, folder)

  def cost(units: stage_lib.Units) -> stage_lib.Cost:
    del units
    drawn = sum(samples.count(k) for k in range(examples.num_models))
    compared = drawn * len(examples) * (2 if examples.flip else 1)
    return stage_lib.Cost(
      flops=2.0 * compared * math.prod(examples.shape),
      disk=4.0 * examples.num_models * len(examples) * max(plan.neighbours),
    )

  return stage_lib.Stage(
    run=run,
    cost=cost,
    plan=plan,
    programs=lambda devices: nearest_sample.programs_of(plan, devices),
    files=nearest_sample.Paths.reported(),
    fields=registry.fields(registry.on_signal(nearest_sample.NAME), examples),
  )
