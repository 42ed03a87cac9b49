"""Stage: surrogate guidance, SIDE."""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import ml_collections

from jaxdiff import subjects
from jaxdiff.attacks.extraction import neighbours
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.attacks.side import evaluate as side_evaluate
from jaxdiff.attacks.side import paths
from jaxdiff.attacks.side import train as side_train
from jaxdiff.data import datasets
from jaxdiff.models import classifier
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans.checks import need, need_whole_numbers
from jaxdiff.plans.stages import extraction as extraction_stage
from jaxdiff.plans.stages import sample as sample_stage
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost, programs
from jaxdiff.sampling import generate

VERB = 'attack'
PLACE = 5
WORDS = 'surrogate guidance'
NEEDS = ('examples', 'noise_predictor', 'sampling', 'sampler')


@dataclasses.dataclass(frozen=True)
class Side:
  """Surrogates, the samples that they guide, and how these are counted."""

  surrogates: side_attack.SidePlan
  sample: generate.SamplePlan
  extraction: neighbours.ExtractionPlan


def left_out(c: ml_collections.ConfigDict) -> str:
  """Why the run has none."""
  return '' if c.side.num_samples else 'side.num_samples is 0'


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need_whole_numbers('side.channels', c.side.channels)
  if left_out(c):
    return
  for key in ('num_samples', 'num_learned'):
    need(
      c.side[key] % c.sample.block_size == 0,
      f'side.{key}: {c.side[key]} must be a multiple of sample.block_size, '
      f'{c.sample.block_size}',
    )
  need(
    c.side.num_learned + c.side.num_samples <= c.num_samples,
    'side.num_samples: with side.num_learned it must not be above num_samples, '
    f'{c.num_samples}: as many plain ones are compared with it',
  )
  for key in ('num_clusters', 'batch_size'):
    need(
      c.side[key] <= c.side.num_learned,
      f'side.{key}: {c.side[key]} is more than side.num_learned, '
      f'{c.side.num_learned}',
    )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the config cannot take."""
  if left_out(c):
    return
  need(
    2 ** (len(c.side.channels) - 1) <= min(dataset.images.shape[1:3]),
    f'side.channels: {len(c.side.channels)} levels leave nothing of images of '
    f'{dataset.images.shape[1:3]} pixels',
  )


def make_plan(c: ml_collections.ConfigDict, subject: subjects.Subject) -> Side:
  """Of surrogates, guided samples and their neighbours."""
  examples = subjects.given(subject.examples)
  schedule = subjects.given(subject.schedule)
  eps_fn_of = subjects.given(subject.drawing_eps_fn_of)
  draw = subjects.given(subject.draw)
  net = classifier.Surrogate(c.side.num_clusters, tuple(c.side.channels))

  def init_fn(key):
    x = jnp.zeros((1, *examples.shape))
    return net.init(key, x, jnp.zeros((1,), jnp.int32))

  def sample_fn(params, key, indices, cond):
    eps_fn = side_attack.guide(
      eps_fn_of(params['net']),
      functools.partial(net.apply, params['surrogate']),
      schedule,
      c.side.scale,
    )
    # Clusters take turns.
    clusters = params['kept'][indices % params['num_kept']]
    return draw(eps_fn, key, indices, (cond, clusters))

  counted = extraction_stage.make_plan(c, subject)
  return Side(
    surrogates=side_attack.SidePlan(
      init_fn=init_fn,
      logits_fn=net.apply,
      schedule=schedule,
      examples=examples,
      ensemble=subjects.given(subject.ensemble),
      block_size=c.sample.block_size,
      num_learned=c.side.num_learned,
      num_samples=c.side.num_samples,
      num_clusters=c.side.num_clusters,
      cohesion=c.side.cohesion,
      num_steps=c.side.num_steps,
      batch_size=c.side.batch_size,
      learning_rate=c.side.learning_rate,
      settings=tuple(counted.settings),
      scale=c.side.scale,
      near=counted.near,
    ),
    sample=dataclasses.replace(
      subjects.given(subject.sample),
      sample_fn=sample_fn,
      num_samples=c.side.num_samples,
      purpose='guidance',
    ),
    extraction=dataclasses.replace(
      counted,
      samples=dataclasses.replace(
        counted.samples, num_samples=c.side.num_samples
      ),
    ),
  )


def make(
  c: ml_collections.ConfigDict, subject: subjects.Subject
) -> stage_lib.Stage:
  """The stage."""
  plan = make_plan(c, subject)

  def run(folder: layout.Run) -> None:
    side_train.train_surrogates(plan.surrogates, folder)
    ensemble = plan.sample.ensemble
    restore = functools.partial(
      side_train.restore, plan.surrogates, folder, ensemble.restore
    )
    sample = dataclasses.replace(
      plan.sample, ensemble=dataclasses.replace(ensemble, restore=restore)
    )
    guided = paths.Paths(folder).guided
    generate.generate(sample, guided)
    neighbours.find_neighbours(plan.extraction, guided)
    if multihost.is_first():
      side_evaluate.analyse(plan.surrogates, folder, guided)

  def programs_of(devices: Sequence[jax.Device]) -> list[programs.Program]:
    ensemble = plan.sample.ensemble
    guided = dataclasses.replace(
      plan.sample,
      ensemble=dataclasses.replace(
        ensemble,
        shapes=lambda: side_train.shapes(plan.surrogates, ensemble.shapes()),
      ),
    )
    return (
      side_train.programs_of(plan.surrogates, devices)
      + generate.programs_of(guided, devices, 'guided sampler')
      + neighbours.programs_of(plan.extraction, devices)
    )

  return stage_lib.Stage(
    run=run,
    smaller=('sample.batch_size',),
    programs=programs_of,
    # Of the nets alone, without the surrogates.
    cost=functools.partial(sample_stage.cost, plan.sample),
    plan=plan,
    files=paths.Paths.reported(),
  )
