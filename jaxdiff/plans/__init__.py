"""From a config to plans; the only module that reads a ConfigDict.

A plan is a frozen dataclass of plain values, arrays and functions, one a
stage. What crosses packages is injected here: the loss into the training step,
restored weights into sampling and signals.
"""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import optax
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates, neighbours
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.membership import signals as signals_lib
from jaxdiff.attacks.membership.signals import base as signal_base
from jaxdiff.data import datasets, registry, splits
from jaxdiff.diffusion import processes, samplers, schedules
from jaxdiff.interop import diffusers, inception
from jaxdiff.plans import checks, optional, outside
from jaxdiff.plans import model as plans_model
from jaxdiff.plans.optional import CanaryAudit, Guided
from jaxdiff.runs import files, layout
from jaxdiff.sampling import generate, quality
from jaxdiff.training import loop, train_step


@dataclasses.dataclass(frozen=True)
class Plans:
  """One plan a stage, and the examples that all of them are about.

  `inputs` has the SHA-256 of whatever else results depend on, by config key,
  `looked_at` of what they are compared with or judged by.
  """

  name: str
  dataset: datasets.Dataset
  train: loop.TrainPlan
  sample: generate.SamplePlan
  signals: measure.SignalPlan
  extraction: neighbours.ExtractionPlan
  membership: membership_evaluate.MembershipPlan
  quality: quality.QualityPlan
  inpainting: inpainting_attack.InpaintingPlan | None
  guided: Guided | None
  canaries: CanaryAudit | None
  sampler_steps: int
  inputs: dict[str, str]
  looked_at: dict[str, str]
  pretrained: Callable[[Any], diffusers.Pretrained]

  def examples(self) -> pd.DataFrame:
    """The table examples.csv."""
    return pd.DataFrame(
      {
        'index': np.arange(len(self.dataset)),
        'source': self.dataset.source,
        'label': self.dataset.labels,
        'group': self.dataset.group,
        'image': self.dataset.image,
      }
    )


def make(
  config: ml_collections.ConfigDict,
  dataset: datasets.Dataset | None = None,
  run: layout.Run | None = None,
) -> Plans:
  """Plans of all stages; checks the config before any long work.

  Args:
    config: of the run.
    dataset: in place of what `config.data` names, without near-duplicates.
    run: whose folder may know the near-duplicates among the images already.

  Raises:
    InputError: naming the key and what it may be.
  """
  try:
    return _make(config, dataset, run)
  except ValueError as error:
    raise inputs.InputError(str(error)) from error


def check(config: ml_collections.ConfigDict) -> None:
  """All that can be known of a config without its images.

  Raises:
    InputError: naming the key and what it may be.
  """
  try:
    checks.check_keys(config)
    checks.check_ranges(config)
    checks.check(config)
  except ValueError as error:
    raise inputs.InputError(str(error)) from error


def _make(
  c: ml_collections.ConfigDict,
  dataset: datasets.Dataset | None,
  run: layout.Run | None,
) -> Plans:
  checks.check_keys(c)
  checks.check_ranges(c)
  checks.check(c)
  source = registry.Source(
    **{
      field.name: c.data[field.name]
      for field in dataclasses.fields(registry.Source)
    }
  )
  if dataset is None:
    dataset = datasets.choose(
      registry.load(source), c.data.num_examples, c.seed
    )
    checks.check_size(c, dataset)
    dataset = join_duplicates(
      dataset, c.extraction.duplicate_distance, c.flip, run
    )
  checks.check_images(c, dataset)
  schedule = schedules.make(
    c.diffusion.beta_schedule,
    c.diffusion.num_train_timesteps,
    c.diffusion.beta_start,
    c.diffusion.beta_end,
  )
  image_shape = dataset.images.shape[1:]
  labels = dataset.labels if c.model.class_conditional else None
  null_label = dataset.num_classes if c.train.label_dropout > 0 else None
  net = plans_model.make_net(c, image_shape, dataset.num_classes)
  init_fn = plans_model.make_init_fn(net, image_shape, labels is not None)
  if c.model.init_from:
    init_fn = plans_model.start_from(
      c.model.init_from, net, image_shape, c.diffusion.to_dict()
    )
  keep_fn = functools.partial(
    _keep, c.seed, group=dataset.group, image=dataset.image, split=c.split
  )
  keep = keep_fn(range(c.num_models))
  left_out = splits.left_out_together(c.num_models, c.split)

  train = loop.TrainPlan(
    init_fn=init_fn,
    grad_fn=train_step.make_grad_fn(
      plans_model.make_loss_fn(
        net,
        schedule,
        prediction_type=c.diffusion.prediction_type,
        weighting=c.train.weighting,
        label_dropout=c.train.label_dropout,
        null_label=null_label,
      )
    ),
    tx=make_tx(c.train),
    ema_decay=c.train.ema_decay,
    images=dataset.images,
    labels=labels,
    keep_fn=keep_fn,
    seed=c.seed,
    num_models=c.num_models,
    models_per_block=c.train.models_per_block,
    num_steps=c.train.num_steps,
    batch_size=c.train.batch_size,
    flip=c.flip,
    device_bytes=c.data.device_megabytes * 2**20,
    log_every=c.train.log_every,
    checkpoint_every=c.train.checkpoint_every,
    max_to_keep=c.train.max_to_keep or None,
    devices_per_model=c.train.devices_per_model,
    profile_steps=c.train.profile_steps,
  )

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return loop.restore_ema(train, block, mesh)

  def eps_fn_of(params: Any, with_variance: bool = False) -> processes.EpsFn:
    return processes.make_eps_fn(
      functools.partial(net.apply, params),
      schedule,
      c.diffusion.prediction_type,
      with_variance=with_variance,
    )

  sample_eps_fn = functools.partial(
    eps_fn_of,
    with_variance=c.sample.sampler == 'ddpm'
    and c.sample.variance == 'learned_range',
  )
  draw = functools.partial(
    samplers.sample,
    schedule=schedule,
    image_shape=image_shape,
    sampler=c.sample.sampler,
    num_steps=c.sample.num_steps,
    timestep_spacing=c.sample.timestep_spacing,
    eta=c.sample.eta,
    variance=c.sample.variance,
    clip_sample=c.sample.clip_sample,
  )

  def conditional_eps_fn(params):
    eps_fn = sample_eps_fn(params)
    if c.sample.guidance_scale != 1.0:
      eps_fn = processes.guide(eps_fn, null_label, c.sample.guidance_scale)
    return eps_fn

  def sample_fn(params, key, indices, cond):
    return draw(conditional_eps_fn(params), key, indices, cond)

  settings = signal_base.Settings(
    timesteps=tuple(sorted(set(c.signals.timesteps))),
    draws=c.signals.draws,
    flip=c.flip,
    stride=c.signals.stride,
    variations=c.signals.variations,
    variation_stride=c.signals.variation_stride,
  )
  asked = [signals_lib.SIGNALS[name] for name in c.signals.kinds]
  if c.signals.published:
    asked += [x for x in signals_lib.SIGNALS.values() if x.published]
  asked.sort(key=lambda signal: signal.learned)
  shapes = jax.eval_shape(init_fn, jax.random.key(0))
  queries = [signal.queries(settings, shapes) for signal in asked]

  def signal_fn(params, x0, cond, keys):
    columns = [
      signal.make(eps_fn_of, schedule, settings)(params, x0, cond, keys)
      for signal in asked
    ]
    return jnp.concatenate(columns, axis=1)

  common = {
    'restore': restore,
    'seed': c.seed,
    'num_models': c.num_models,
    'models_per_block': c.train.models_per_block,
    'devices_per_model': c.train.devices_per_model,
  }
  classes = None
  if labels is not None:
    classes = checks.labels_of(c.sample.classes, dataset) or tuple(
      range(dataset.num_classes)
    )
  sample = generate.SamplePlan(
    sample_fn=sample_fn,
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    batch_size=c.sample.batch_size,
    classes=classes,
    **common,
  )
  extract = neighbours.ExtractionPlan(
    images=dataset.images,
    keep=keep,
    left_out=left_out,
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    flip=c.flip,
    target_precision=c.extraction.target_precision,
    groups=dataset.image,
    neighbours=c.extraction.neighbours,
    eidetic_distance=c.extraction.eidetic_distance,
    eidetic_shift=c.extraction.eidetic_shift,
    classes=classes,
    other=outside.other_run(c.extraction.other_run, dataset),
  )
  shared = optional.Shared(
    dataset=dataset,
    labels=labels,
    keep=keep,
    schedule=schedule,
    eps_fn_of=eps_fn_of,
    sample_eps_fn=conditional_eps_fn,
    draw=draw,
    restore=restore,
    train=train,
    sample=sample,
    extraction=extract,
  )
  return Plans(
    name=c.name,
    dataset=dataset,
    train=train,
    sample=sample,
    signals=measure.SignalPlan(
      signal_fn=signal_fn,
      queries=pd.concat(queries, ignore_index=True),
      images=dataset.images,
      labels=labels,
      block_size=c.signals.block_size,
      batch_size=c.signals.batch_size,
      **common,
    ),
    extraction=extract,
    inpainting=optional.make_inpainting(c, shared),
    guided=optional.make_guided(c, shared),
    canaries=optional.make_canaries(c, shared),
    quality=quality.QualityPlan(
      images=dataset.images,
      labels=dataset.labels,
      keep=keep,
      num_samples=c.num_samples,
      block_size=c.sample.block_size,
      num_resamples=min(c.membership.num_resamples, 100),
      seed=c.seed,
      inception=inception.load(c.quality.inception),
    ),
    sampler_steps=c.sample.num_steps,
    inputs=outside.digests(c),
    looked_at=outside.looked_at(c),
    pretrained=functools.partial(
      plans_model.as_pretrained, c, net, image_shape
    ),
    membership=membership_evaluate.MembershipPlan(
      images=dataset.images,
      group=dataset.group,
      keep=keep,
      left_out=left_out,
      paired=c.split == 'paired',
      timestep=c.membership.timestep,
      transform=c.membership.transform,
      variance=c.membership.variance,
      num_resamples=c.membership.num_resamples,
      seed=c.seed,
    ),
  )


def join_duplicates(
  dataset: datasets.Dataset,
  threshold: float,
  flip: bool,
  run: layout.Run | None = None,
) -> datasets.Dataset:
  """The set with near-duplicates joined into its groups.

  Args:
    dataset: as it was read.
    threshold: largest RMSE of near-duplicates.
    flip: mirror images are duplicates too.
    run: whose folder may know them; what it knows of other images is not used.
  """
  made_of = f'{dataset.fingerprint()} {threshold!r} {flip}'
  known = None
  if run is not None:
    known = files.read_npz(run.duplicates, 'image', 'made_of')
  if known is not None and str(known['made_of']) == made_of:
    image = known['image']
  else:
    image = duplicates.groups(dataset.images, threshold, flip)
  return dataclasses.replace(
    dataset,
    image=image.astype(np.int32),
    group=duplicates.join(dataset.group, image).astype(np.int32),
    duplicates_of=made_of,
  )


def _keep(
  seed: int,
  models: range,
  *,
  group: np.ndarray,
  image: np.ndarray,
  split: str,
) -> np.ndarray:
  return splits.keep_matrix(seed, models, group, split, image)


def make_tx(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """AdamW (Adam without decay) after clipping, with warm-up."""
  warmup = min(train.warmup_steps, train.num_steps - 1)
  if train.decay == 'cosine':
    rate = optax.warmup_cosine_decay_schedule(
      0.0, train.learning_rate, warmup, train.num_steps
    )
  else:
    rate = optax.linear_schedule(0.0, train.learning_rate, warmup)
    if warmup == 0:
      rate = optax.constant_schedule(train.learning_rate)
  clip = (
    optax.clip_by_global_norm(train.clip_norm)
    if train.clip_norm > 0
    else optax.identity()
  )
  return optax.chain(clip, optax.adamw(rate, weight_decay=train.weight_decay))
