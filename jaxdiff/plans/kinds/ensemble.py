"""An ensemble that the run trains itself: the kind that most configs are of."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from jax.sharding import Mesh
import ml_collections
import numpy as np

from jaxdiff import subjects
from jaxdiff.data import datasets
from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import diffusers
from jaxdiff.models import layers, unet
from jaxdiff.plans import checks, images, outside, privacy, training
from jaxdiff.plans import model as plans_model
from jaxdiff.plans.kinds import base
from jaxdiff.runs import layout
from jaxdiff.subjects import models
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import block_states

GIVES = tuple(
  name
  for name in subjects.GIVES
  if name not in ('generated', 'pictures', 'prompting')
)


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  return checks.trained_devices(c)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense, alone or together."""
  checks.one_of(c, 'model.resnet_time_scale_shift', unet.TIME_SCALE_SHIFTS)
  checks.one_of(c, 'model.downsample_type', unet.RESAMPLE_TYPES)
  checks.one_of(c, 'model.upsample_type', unet.RESAMPLE_TYPES)
  checks.one_of(c, 'model.act_fn', layers.ACTIVATIONS)
  checks.one_of(c, 'sample.variance', samplers.VARIANCES)
  checks.check_levels(c, unet.DOWN_BLOCKS, unet.UP_BLOCKS)
  checks.need(
    c.data.channels in (1, 3), f'data.channels: {c.data.channels}; 1 or 3'
  )
  checks.one_of(c, 'sample.timestep_spacing', steps_lib.TIMESTEP_SPACINGS)
  checks.check_blocks(c)
  checks.check_training(c)
  privacy.check(c)
  steps = c.diffusion.num_train_timesteps
  samplers.check_steps(
    c.sample.sampler, c.sample.num_steps, steps, c.sample.timestep_spacing
  )
  checks.need(
    c.train.label_dropout == 0.0 or c.model.class_conditional,
    'train.label_dropout: only a class-conditional net has labels to drop '
    '(model.class_conditional)',
  )
  checks.need(
    c.train.label_noise == 0.0 or c.model.class_conditional,
    'train.label_noise: only a class-conditional net has labels to replace '
    '(model.class_conditional)',
  )
  checks.need(
    c.train.ambient_timestep < steps,
    f'train.ambient_timestep: {c.train.ambient_timestep} must be below '
    f'diffusion.num_train_timesteps, {steps}',
  )
  checks.need(
    not (c.train.ambient_timestep and c.model.learned_variance),
    'train.ambient_timestep: images that carry noise say nothing of '
    'model.learned_variance',
  )
  checks.need(
    c.sample.variance != 'learned_range' or c.model.learned_variance,
    'sample.variance: learned_range needs a net trained with '
    'model.learned_variance',
  )
  checks.need(
    c.sample.classes == () or c.model.class_conditional,
    'sample.classes: only a class-conditional net has labels to draw with '
    '(model.class_conditional)',
  )
  channels = tuple(c.model.block_out_channels)
  groups = c.model.attn_norm_num_groups
  checks.need(
    not groups or channels[-1] % groups == 0,
    f'model.attn_norm_num_groups: {groups} does not divide {channels[-1]}, the '
    'last of model.block_out_channels',
  )
  checks.need(
    c.model.freq_shift < channels[0] // 2,
    f'model.freq_shift: {c.model.freq_shift} must be below {channels[0] // 2}, '
    'half of the first of model.block_out_channels',
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the rest of the config cannot take."""
  checks.check_size(c, dataset)
  checks.check_groups(dataset)
  checks.labels_of(c.sample.classes, dataset)
  checks.need(
    not c.model.class_conditional or dataset.num_classes <= 2**20,
    f'model.class_conditional: {dataset.num_classes} classes are too many',
  )
  levels = len(c.model.block_out_channels)
  scale = 2 ** (levels - 1)
  height, width = dataset.images.shape[1:3]
  checks.need(
    height % scale == 0 and width % scale == 0,
    f'model.block_out_channels: {levels} levels need images whose '
    f'sides divide by {scale}; {c.data.name} has {height} x {width}',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The images that models train on halves of, and noise that is settled."""
  noise = privacy.recorded_noise(run) if c.private.epsilon else None
  return base.Read(images.read_images(c, run), noise)


def tell(
  c: ml_collections.ConfigDict, examples: examples_lib.Examples
) -> told_lib.Told:
  """What reports say of the ensemble."""
  num_training = int(np.median(examples.keep.sum(axis=1)))
  return told_lib.Told(
    short='what the models memorised',
    title=f'What the models of “{c.name}” memorised',
    subject=(
      f'{examples.num_models} models, each trained for {training.last_step(c)} '
      f'steps on {num_training} of {len(examples)} images ({c.data.name}); '
      f'{c.num_samples} samples of each.'
    ),
    limits=(
      'The numbers hold for these models, this data and these attacks: a '
      'stronger attack, more samples or longer training can find more, and '
      'finding nothing would not be a guarantee.'
    ),
    methods=(
      'Models come in pairs on complementary halves; when one is attacked, '
      "both are left out of the shadow statistics, so that the other models' "
      'counts do not betray it.'
      if c.split == 'paired'
      else 'Every model draws its training images by fair coins; when it is '
      'attacked, it is left out of the shadow statistics.'
      if c.split == 'bernoulli'
      else 'Every model draws a half of its own; when it is attacked, it is '
      'left out of the shadow statistics.',
    ),
    not_tested=('text prompts',),
  )


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The ensemble of a config.

  Args:
    c: the config.
    read: the images that its models train on halves of.
    step: a checkpoint in the midst of training; None is its end.
  """
  dataset = read.dataset
  conditional = c.model.class_conditional
  examples = examples_lib.split(
    dataset,
    c.seed,
    c.num_models,
    rule=c.split,
    conditional=conditional,
    flip=c.flip,
  )
  schedule = schedules.make(
    c.diffusion.beta_schedule,
    c.diffusion.num_train_timesteps,
    c.diffusion.beta_start,
    c.diffusion.beta_end,
  )
  net = plans_model.make_net(c, examples.shape, dataset.num_classes)
  null_label = dataset.num_classes if c.train.label_dropout > 0 else None
  classes = None
  if conditional:
    classes = checks.labels_of(c.sample.classes, dataset) or tuple(
      range(dataset.num_classes)
    )
  kept_to = privacy.guarantee(c, examples, read.more)
  train = training.make_train(c, net, schedule, examples, null_label, kept_to)

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return block_states.restore_ema(train, block, mesh, step)

  subject = models.make(
    kind='an ensemble trained by the run',
    told=tell(c, examples),
    examples=examples,
    ensemble=dataclasses.replace(train.ensemble, restore=restore),
    train=train,
    guarantee=kept_to,
    apply=net.apply,
    schedule=schedule,
    prediction_type=c.diffusion.prediction_type,
    with_variance=c.sample.sampler == 'ddpm'
    and c.sample.variance == 'learned_range',
    null_label=null_label,
    guidance_scale=c.sample.guidance_scale,
    draw=functools.partial(
      samplers.sample,
      schedule=schedule,
      image_shape=examples.shape,
      sampler=c.sample.sampler,
      num_steps=c.sample.num_steps,
      timestep_spacing=c.sample.timestep_spacing,
      eta=c.sample.eta,
      variance=c.sample.variance,
      clip_sample=c.sample.clip_sample,
    ),
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    batch_size=c.sample.batch_size,
    classes=classes,
    num_steps=samplers.evaluations(c.sample.sampler, c.sample.num_steps),
  )
  return base.Made(
    subject=subject,
    inputs=outside.digests(c),
    looked_at=outside.looked_at(c),
    export=lambda params, folder: diffusers.write(
      folder, plans_model.as_pretrained(c, net, examples.shape, params)
    ),
  )
