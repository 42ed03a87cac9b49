"""Stage: are prompts that were called memorised copies of training images?"""

import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.prompts import paths, verify
from jaxdiff.data import datasets
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need
from jaxdiff.plans.stages import screen, stream
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

VERB = 'attack'
PLACE = 2.15
WORDS = 'cliques of prompts against training images'
NEEDS = ('prompting', 'captions')
ALONE = True
GROUP = 'verify'


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the config leaves it out; '' if it does not."""
  return stream.left_out(c)


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the config cannot take."""
  sides = dataset.images.shape[1:3]
  need(
    not len(dataset) or c.verify.eidetic_shift < min(sides),
    f'verify.eidetic_shift: {c.verify.eidetic_shift} leaves nothing of images '
    f'of {sides} pixels',
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  screened = screen.make_plan(c, subject)
  plan = verify.VerifyPlan(
    examples=subjects.given(subject.captions).of_targets(),
    stream=subjects.given(stream.make_plan(c, subject, screened)),
    ids=subjects.given(subject.known).ids,
    distance=c.verify.distance,
    eidetic_distance=c.verify.eidetic_distance,
    eidetic_shift=c.verify.eidetic_shift,
  )

  def run(folder: layout.Run) -> None:
    if multihost.is_first():
      verify.verify(plan, folder)

  return stage_lib.Stage(
    run=run,
    cost=lambda units: stage_lib.Cost(),
    plan=plan,
    files=(paths.Paths.verified, paths.Paths.precision),
    fields=('extracted', 'control_hits', 'precision'),
    check=lambda folder: verify.check(plan, folder),
  )
