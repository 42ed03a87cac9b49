"""Plans of the attacks that a run may leave out."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxdiff.attacks.canaries import exposure, insertion
from jaxdiff.attacks.extraction import neighbours
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.data import datasets
from jaxdiff.diffusion import processes, repaint, schedules
from jaxdiff.models import classifier
from jaxdiff.sampling import generate
from jaxdiff.training import loop


@dataclasses.dataclass(frozen=True)
class Shared:
  """What these plans have in common with those that every run has.

  Attributes:
    dataset: every example of the run.
    labels: int32 [N], or None for unconditional nets.
    keep: bool [K, N].
    schedule: noise schedule.
    eps_fn_of: params -> noise predictor.
    sample_eps_fn: params -> that which samples are drawn with.
    draw: (eps_fn, key, indices, cond) -> x0.
    restore: (block, mesh) -> params of a block.
    train: of the run's own models.
    sample: likewise.
    extraction: likewise.
  """

  dataset: datasets.Dataset
  labels: np.ndarray | None
  keep: np.ndarray
  schedule: schedules.Schedule
  eps_fn_of: Callable[[Any], processes.EpsFn]
  sample_eps_fn: Callable[[Any], processes.EpsFn]
  draw: Callable[..., Any]
  restore: Callable[..., Any]
  train: loop.TrainPlan
  sample: generate.SamplePlan
  extraction: neighbours.ExtractionPlan


@dataclasses.dataclass(frozen=True)
class Guided:
  """Surrogates, the samples that they guide, and their neighbours."""

  plan: side_attack.GuidancePlan
  sample: generate.SamplePlan
  extraction: neighbours.ExtractionPlan


@dataclasses.dataclass(frozen=True)
class CanaryAudit:
  """Models that train on canaries, and what their losses say."""

  train: loop.TrainPlan
  plan: exposure.CanaryPlan


def make_inpainting(
  c: ml_collections.ConfigDict, shared: Shared
) -> inpainting_attack.InpaintingPlan | None:
  """None if the run leaves it out.

  Raises:
    InputError: if the run's models cannot be attacked this way.
  """
  if not c.inpainting.num_images:
    return None
  names = ('num_steps', 'jump_length', 'jump_n_sample', 'eta')
  settings = {name: c.inpainting[name] for name in names}
  judged = base.Settings(
    (c.inpainting.timestep,), c.inpainting.loss_draws, flip=False
  )

  def inpaint_fn(params, x0, known, labels, keys):
    return repaint.inpaint(
      shared.eps_fn_of(params),
      keys,
      x0,
      known,
      labels,
      schedule=shared.schedule,
      clip_sample=c.sample.clip_sample,
      **settings,
    )

  def loss_fn(params, x0, labels, keys):
    judge = loss.make(shared.eps_fn_of(params), shared.schedule, judged)
    return judge(x0, labels, keys).mean(axis=1)

  plan = inpainting_attack.InpaintingPlan(
    inpaint_fn=inpaint_fn,
    loss_fn=loss_fn,
    restore=shared.restore,
    images=shared.dataset.images,
    labels=shared.labels,
    keep=shared.keep,
    seed=c.seed,
    models_per_block=c.train.models_per_block,
    num_images=c.inpainting.num_images,
    masks=tuple(c.inpainting.masks),
    draws=c.inpainting.draws,
    kept=c.inpainting.kept,
    batch_size=c.inpainting.batch_size,
    settings=settings
    | {'t': c.inpainting.timestep, 'loss_draws': c.inpainting.loss_draws},
    devices_per_model=c.train.devices_per_model,
  )
  inpainting_attack.check(plan)
  return plan


def make_guided(c: ml_collections.ConfigDict, shared: Shared) -> Guided | None:
  """None if the run leaves it out."""
  if not c.guidance.num_samples:
    return None
  net = classifier.Surrogate(
    c.guidance.num_clusters, tuple(c.guidance.channels)
  )

  def init_fn(key):
    x = jnp.zeros((1, *shared.dataset.images.shape[1:]))
    return net.init(key, x, jnp.zeros((1,), jnp.int32))

  def sample_fn(params, key, indices, labels):
    eps_fn = side_attack.guide(
      shared.sample_eps_fn(params['net']),
      functools.partial(net.apply, params['surrogate']),
      shared.schedule,
      c.guidance.scale,
    )
    # Clusters take turns.
    clusters = params['kept'][indices % params['num_kept']]
    return shared.draw(eps_fn, key, indices, (labels, clusters))

  return Guided(
    plan=side_attack.GuidancePlan(
      init_fn=init_fn,
      logits_fn=net.apply,
      schedule=shared.schedule,
      images=shared.dataset.images,
      keep=shared.keep,
      seed=c.seed,
      models_per_block=c.train.models_per_block,
      block_size=c.sample.block_size,
      num_learned=c.guidance.num_learned,
      num_samples=c.guidance.num_samples,
      num_clusters=c.guidance.num_clusters,
      cohesion=c.guidance.cohesion,
      num_steps=c.guidance.num_steps,
      batch_size=c.guidance.batch_size,
      learning_rate=c.guidance.learning_rate,
      settings=tuple(shared.extraction.settings),
      groups=shared.extraction.groups,
      scale=c.guidance.scale,
      devices_per_model=c.train.devices_per_model,
    ),
    sample=dataclasses.replace(
      shared.sample,
      sample_fn=sample_fn,
      num_samples=c.guidance.num_samples,
      purpose='guidance',
    ),
    extraction=dataclasses.replace(
      shared.extraction, num_samples=c.guidance.num_samples
    ),
  )


def make_canaries(
  c: ml_collections.ConfigDict, shared: Shared
) -> CanaryAudit | None:
  """None if the run leaves them out.

  Models train on every example of the run and on their own canaries.
  """
  count = c.canaries.num_models
  if not count:
    return None
  data = shared.dataset
  made = insertion.make(
    c.seed,
    count,
    data.images.shape[1:],
    data.num_classes,
    counts=tuple(c.canaries.counts),
    per_count=c.canaries.per_count,
    coins=c.canaries.coins,
    pool=c.canaries.pool,
  )
  copies, copy_labels, owner = made.inserted()
  conditional = shared.labels is not None

  def keep_fn(models: range) -> np.ndarray:
    own = owner[None] == np.asarray(models)[:, None]
    return np.concatenate([np.ones((len(models), len(data)), bool), own], 1)

  train = dataclasses.replace(
    shared.train,
    images=np.concatenate([data.images, copies]),
    labels=np.concatenate([data.labels, copy_labels]) if conditional else None,
    keep_fn=keep_fn,
    num_models=count,
    devices_per_model=0,
    profile_steps=0,
  )
  measured = base.Settings(
    (c.canaries.timestep,), c.canaries.draws, flip=c.flip
  )

  def signal_fn(params, x0, labels, keys):
    eps_fn = shared.eps_fn_of(params)
    return loss.make(eps_fn, shared.schedule, measured)(x0, labels, keys)

  plan = exposure.CanaryPlan(
    canaries=made,
    signals=measure.SignalPlan(
      signal_fn=signal_fn,
      queries=loss.queries(measured),
      restore=functools.partial(loop.restore_ema, train),
      images=made.images.reshape(-1, *data.images.shape[1:]),
      labels=made.labels.reshape(-1) if conditional else None,
      seed=c.seed,
      num_models=count,
      models_per_block=c.train.models_per_block,
      block_size=c.signals.block_size,
      batch_size=c.signals.batch_size,
    ),
    seed=c.seed,
  )
  return CanaryAudit(train, plan)
