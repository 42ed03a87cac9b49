"""Stage: does what was measured keep below what was proven?"""

import math

import ml_collections
import numpy as np

from jaxdiff import subjects
from jaxdiff.defences import guarantee
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 1.5
WORDS = 'the guarantee of private training'
NEEDS = ('examples', 'non_members', 'noise_predictor', 'training')
ALONE = True
GROUP = 'private'


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  if c.private.epsilon or c.split == 'bernoulli':
    return ''
  return 'private.epsilon is 0, and split is not bernoulli'


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  kept_to, examples = subject.guarantee, subjects.given(subject.examples)
  alone = len(np.unique(examples.group)) == len(examples)
  plan = guarantee.GuaranteePlan(
    mechanism=kept_to.mechanism if kept_to else None,
    epsilon=kept_to.epsilon if kept_to else math.inf,
    delta=c.private.delta,
    warm_epsilon=kept_to.warm_epsilon if kept_to else 0.0,
    clip_norm=c.private.clip_norm,
    multiplicity=c.private.multiplicity,
    # Images that are kept together are several examples.
    proven=c.split == 'bernoulli' and alone,
  )

  def run(folder: layout.Run) -> None:
    if multihost.is_first():
      guarantee.analyse(plan, folder)

  return stage_lib.Stage(
    run=run,
    cost=lambda units: stage_lib.Cost(),
    plan=plan,
    files=guarantee.Paths.reported(),
    fields=('epsilon', 'lower_bound', 'above'),
  )
