"""What the values of a config may be, said before any long work."""

import functools

import ml_collections
import numpy as np

from jaxdiff.attacks import (
  extraction,
  inpainting,
  kinds,
  membership,
  scoring,
)
from jaxdiff.data import datasets
from jaxdiff.diffusion import losses, processes, samplers
from jaxdiff.models import layers, unet

_INF = float('inf')
# Smallest and largest value of each number.
_RANGES = {
  'seed': (0, 2**31 - 1),
  'num_models': (1, _INF),
  'num_samples': (1, _INF),
  'data.device_megabytes': (0, _INF),
  'data.image_size': (1, 4096),
  'model.layers_per_block': (1, _INF),
  'model.norm_num_groups': (1, _INF),
  'model.attention_head_dim': (0, _INF),
  'model.dropout': (0, 0.99),
  'diffusion.num_train_timesteps': (1, _INF),
  'diffusion.beta_start': (0, 1),
  'diffusion.beta_end': (0, 1),
  'train.num_steps': (1, _INF),
  'train.batch_size': (1, _INF),
  'train.learning_rate': (0, _INF),
  'train.warmup_steps': (0, _INF),
  'train.weight_decay': (0, _INF),
  'train.clip_norm': (0, _INF),
  'train.ema_decay': (0, 1),
  'train.label_dropout': (0, 1),
  'train.models_per_block': (1, _INF),
  'train.log_every': (1, _INF),
  'train.checkpoint_every': (1, _INF),
  'train.max_to_keep': (0, _INF),
  'train.devices_per_model': (0, _INF),
  'train.profile_steps': (0, _INF),
  'sample.eta': (0, 1),
  'sample.batch_size': (1, _INF),
  'sample.block_size': (1, _INF),
  'signals.draws': (1, 1000),
  'signals.stride': (1, _INF),
  'signals.variation_stride': (1, _INF),
  'signals.variations': (1, 1000),
  'signals.batch_size': (1, _INF),
  'signals.block_size': (1, _INF),
  'membership.num_resamples': (1, _INF),
  'extraction.target_precision': (0, 1),
  'extraction.duplicate_distance': (0, 1),
  'extraction.eidetic_distance': (0, 1),
  'extraction.eidetic_shift': (0, _INF),
  'inpainting.num_images': (0, _INF),
  'inpainting.draws': (1, 2**20),
  'inpainting.kept': (1, _INF),
  'inpainting.loss_draws': (1, 1000),
  'inpainting.num_steps': (1, _INF),
  'inpainting.jump_length': (1, _INF),
  'inpainting.jump_n_sample': (1, _INF),
  'inpainting.eta': (0, 1),
  'inpainting.batch_size': (1, _INF),
  'guidance.num_samples': (0, _INF),
  'guidance.num_learned': (2, _INF),
  'guidance.num_clusters': (1, _INF),
  'guidance.cohesion': (-1, 1),
  'guidance.scale': (0, _INF),
  'guidance.num_steps': (1, _INF),
  'guidance.batch_size': (1, _INF),
  'guidance.learning_rate': (0, _INF),
  'canaries.num_models': (0, _INF),
  'canaries.per_count': (1, _INF),
  'canaries.coins': (2, _INF),
  'canaries.pool': (1, _INF),
  'canaries.draws': (1, 1000),
}


def check_ranges(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a number outside _RANGES."""
  for key, (low, high) in _RANGES.items():
    value = functools.reduce(getattr, key.split('.'), c)
    if not low <= value <= high:
      span = f'at least {low}' if high == _INF else f'within {low} .. {high}'
      raise ValueError(f'{key}: {value} must be {span}')


def need(holds: bool, message: str) -> None:
  """Raises ValueError unless something holds."""
  if not holds:
    raise ValueError(message)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense, alone or together."""

  def one_of(key: str, known) -> None:
    value = functools.reduce(getattr, key.split('.'), c)
    need(value in known, f'{key}: no {value!r}; there is {", ".join(known)}')

  one_of('diffusion.prediction_type', processes.PREDICTION_TYPES)
  one_of('train.weighting', losses.WEIGHTINGS)
  one_of('train.decay', ('constant', 'cosine'))
  one_of('model.dtype', ('float32', 'bfloat16'))
  one_of('model.resnet_time_scale_shift', unet.TIME_SCALE_SHIFTS)
  one_of('model.downsample_type', unet.RESAMPLE_TYPES)
  one_of('model.upsample_type', unet.RESAMPLE_TYPES)
  one_of('model.act_fn', layers.ACTIVATIONS)
  one_of('sample.sampler', samplers.SAMPLERS)
  one_of('sample.variance', samplers.VARIANCES)
  one_of('membership.transform', scoring.TRANSFORMS)
  one_of('membership.variance', membership.VARIANCES)
  one_of('extraction.neighbours', extraction.NEIGHBOURS)
  for key in ('model.block_out_channels', 'signals.timesteps'):
    value = functools.reduce(getattr, key.split('.'), c)
    need(
      len(value) > 0 and all(isinstance(number, int) for number in value),
      f'{key}: {value!r} must be whole numbers like (16, 32)',
    )
  need(
    c.num_samples % c.sample.block_size == 0,
    f'num_samples: {c.num_samples} must be a multiple of sample.block_size, '
    f'{c.sample.block_size}',
  )
  need(
    c.sample.block_size % c.sample.batch_size == 0,
    f'sample.block_size: {c.sample.block_size} must be a multiple of '
    f'sample.batch_size, {c.sample.batch_size}',
  )
  need(
    c.train.checkpoint_every % c.train.log_every == 0,
    f'train.checkpoint_every: {c.train.checkpoint_every} must be a multiple '
    f'of train.log_every, {c.train.log_every}',
  )
  need(
    c.train.num_steps * c.train.batch_size < 2**32,
    'train.num_steps x train.batch_size must stay below 2^32',
  )
  need(
    c.train.max_to_keep != 1,
    'train.max_to_keep: 1 would leave no checkpoint to fall back on; at least '
    '2, or 0 for all',
  )
  steps = c.diffusion.num_train_timesteps
  samplers.spaced_timesteps(
    steps, c.sample.num_steps, c.sample.timestep_spacing
  )
  need(
    all(0 <= t < steps for t in c.signals.timesteps),
    f'signals.timesteps: {tuple(c.signals.timesteps)} must lie in 0 .. '
    f'{steps - 1}',
  )
  known = (*kinds.KINDS, kinds.GSA)
  unknown = set(c.signals.kinds) - set(known)
  need(
    not unknown and 'loss' in c.signals.kinds,
    f'signals.kinds: {tuple(c.signals.kinds)} must have loss, and may have '
    f'{", ".join(known[1:])}',
  )
  for kind, key in (('secmi', 'stride'), ('rediffuse', 'variation_stride')):
    stride = c.signals[key]
    need(
      kind not in c.signals.kinds
      or (
        any(t and t % stride == 0 for t in c.signals.timesteps)
        and max(c.signals.timesteps) + stride < steps
      ),
      f'signals.{key}: {kind} needs signals.timesteps that divide by {stride}, '
      f'the largest below {steps - stride}',
    )
  need(
    c.membership.timestep in c.signals.timesteps,
    f'membership.timestep: {c.membership.timestep} is not among '
    f'signals.timesteps {tuple(c.signals.timesteps)}',
  )
  need(
    c.train.label_dropout == 0.0 or c.model.class_conditional,
    'train.label_dropout: only a class-conditional net has labels to drop '
    '(model.class_conditional)',
  )
  need(
    c.sample.variance != 'learned_range' or c.model.learned_variance,
    'sample.variance: learned_range needs a net trained with '
    'model.learned_variance',
  )
  need(
    c.sample.guidance_scale == 1.0 or c.train.label_dropout > 0.0,
    'sample.guidance_scale: guidance needs a net trained with '
    'train.label_dropout above 0',
  )
  _check_further(c)
  channels = tuple(c.model.block_out_channels)
  for width in channels:
    need(
      width % c.model.norm_num_groups == 0,
      f'model.norm_num_groups: {c.model.norm_num_groups} does not divide '
      f'{width} of model.block_out_channels',
    )
    need(
      not c.model.attention_head_dim or width % c.model.attention_head_dim == 0,
      f'model.attention_head_dim: {c.model.attention_head_dim} does not '
      f'divide {width} of model.block_out_channels',
    )
  for key, known in (
    ('down_block_types', unet.DOWN_BLOCKS),
    ('up_block_types', unet.UP_BLOCKS),
  ):
    types = tuple(c.model[key])
    need(
      len(types) == len(channels) and not set(types) - set(known),
      f'model.{key}: {types}; name one of {", ".join(known)} for each of the '
      f'{len(channels)} block_out_channels',
    )


def _check_further(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for attacks that a run may leave out."""
  steps = c.diffusion.num_train_timesteps
  for name in ('inpainting', 'canaries'):
    t = c[name].timestep
    need(0 <= t < steps, f'{name}.timestep: {t} must lie in 0 .. {steps - 1}')
  masks = tuple(c.inpainting.masks)
  need(
    masks
    and len(set(masks)) == len(masks)
    and not set(masks) - set(inpainting.MASKS),
    f'inpainting.masks: {masks}; name some of {", ".join(inpainting.MASKS)}',
  )
  need(
    c.inpainting.num_steps <= steps,
    f'inpainting.num_steps: {c.inpainting.num_steps} is more than the {steps} '
    'of diffusion.num_train_timesteps',
  )
  for key in ('num_samples', 'num_learned'):
    need(
      not c.guidance.num_samples or c.guidance[key] % c.sample.block_size == 0,
      f'guidance.{key}: {c.guidance[key]} must be a multiple of '
      f'sample.block_size, {c.sample.block_size}',
    )
  need(
    not c.guidance.num_samples
    or c.guidance.num_learned + c.guidance.num_samples <= c.num_samples,
    'guidance.num_samples: with guidance.num_learned it must not be above '
    f'num_samples, {c.num_samples}: as many plain ones are compared with it',
  )
  for key, least in (('guidance.channels', 1), ('canaries.counts', 1)):
    value = functools.reduce(getattr, key.split('.'), c)
    need(
      len(value) > 0
      and all(isinstance(number, int) and number >= least for number in value),
      f'{key}: {value!r} must be whole numbers from {least}, like (1, 2)',
    )
  need(
    c.sample.classes == () or c.model.class_conditional,
    'sample.classes: only a class-conditional net has labels to draw with '
    '(model.class_conditional)',
  )


# Groups that a split needs: two on each side leave nothing to compare.
_FEWEST_GROUPS = 8


def check_size(c: ml_collections.ConfigDict, dataset: datasets.Dataset) -> None:
  """Raises ValueError for images that nothing can be learned from."""
  need(
    len(dataset) >= _FEWEST_GROUPS,
    f'data.num_examples: {len(dataset)} examples are too few; at least '
    f'{_FEWEST_GROUPS}',
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the rest of the config cannot take."""
  check_size(c, dataset)
  groups = np.bincount(dataset.group)
  groups = groups[groups > 0]
  joined = len(dataset) - len(np.unique(dataset.image))
  need(
    len(groups) >= _FEWEST_GROUPS and groups.max() <= len(dataset) / 2,
    f'data.name: {len(dataset)} examples form {len(groups)} groups, the '
    f'largest of {groups.max()} ({joined} are near-duplicates of others, by '
    'extraction.duplicate_distance); groups stay together, and a split needs '
    f'{_FEWEST_GROUPS} of them, none with more than half of the examples',
  )
  wrong = [x for x in c.sample.classes if not 0 <= x < dataset.num_classes]
  need(
    not wrong,
    f'sample.classes: no label {wrong[:1]}; {c.data.name} has '
    f'0 .. {dataset.num_classes - 1}',
  )
  need(
    c.extraction.eidetic_shift < min(dataset.images.shape[1:3]),
    f'extraction.eidetic_shift: {c.extraction.eidetic_shift} leaves nothing of '
    f'images of {dataset.images.shape[1:3]} pixels',
  )
  levels = len(c.model.block_out_channels)
  scale = 2 ** (levels - 1)
  height, width = dataset.images.shape[1:3]
  need(
    height % scale == 0 and width % scale == 0,
    f'model.block_out_channels: {levels} levels need images whose '
    f'sides divide by {scale}; {c.data.name} has {height} x {width}',
  )
