"""What the values of a config may be, said before any long work.

What concerns one stage alone is beside its plan, in `plans/stages/`.
"""

import difflib
import functools
import math

import ml_collections
import numpy as np

from jaxdiff import inputs, schema
from jaxdiff.data import datasets, splits
from jaxdiff.diffusion import losses, processes, samplers, schedules
from jaxdiff.models import layers, unet

# Members of a tuple that anybody needs.
_LONGEST = 4096


def check_keys(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a key that is missing, unknown or of another kind."""
  given = schema.flat(c)
  for name in given.keys() - schema.KEYS.keys():
    near = difflib.get_close_matches(name, schema.KEYS, n=1, cutoff=0.5)
    hint = f'; did you mean {near[0]}?' if near else ''
    raise ValueError(f'{name}: no such key{hint}')
  for name, key in schema.KEYS.items():
    need(name in given, f'{name}: is missing from the config')
    value, kind = given[name], type(key.default)
    shown = inputs.one_line(repr(value), 60)
    if kind is int:
      need(type(value) is int, f'{name}: {shown} must be a whole number')
    elif kind is float:
      need(
        type(value) in (int, float) and math.isfinite(value),
        f'{name}: {shown} must be a finite number',
      )
    elif kind is tuple:
      need(
        isinstance(value, tuple | list) and len(value) <= _LONGEST,
        f'{name}: {shown} must be a tuple, like (1, 2), of at most {_LONGEST}',
      )
    else:
      words = {str: 'text', bool: 'True or False'}[kind]
      need(type(value) is kind, f'{name}: {shown} must be {words}')


def check_ranges(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for a number outside its range."""
  given = schema.flat(c)
  for name, key in schema.KEYS.items():
    if key.low is not None and not key.low <= given[name] <= key.high:
      raise ValueError(
        f'{name}: {given[name]} must be within {key.low} .. {key.high}'
      )


def need(holds: bool, message: str) -> None:
  """Raises ValueError unless something holds."""
  if not holds:
    raise ValueError(message)


def need_whole_numbers(key: str, value) -> None:
  """Raises ValueError unless it is a tuple of whole numbers from 1."""
  need(
    len(value) > 0
    and all(type(number) is int and 1 <= number <= 16384 for number in value),
    f'{key}: {value!r} must be whole numbers from 1, like (16, 32)',
  )


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
  need_whole_numbers('model.block_out_channels', c.model.block_out_channels)
  need(
    len(c.model.block_out_channels) <= 16,
    f'model.block_out_channels: {len(c.model.block_out_channels)} levels are '
    'more than any image has',
  )
  need(c.data.channels in (1, 3), f'data.channels: {c.data.channels}; 1 or 3')
  need(
    c.diffusion.beta_start <= c.diffusion.beta_end,
    f'diffusion.beta_start: {c.diffusion.beta_start} is above diffusion.'
    f'beta_end, {c.diffusion.beta_end}',
  )
  one_of('split', splits.SPLITS)
  one_of('diffusion.beta_schedule', schedules.BETA_SCHEDULES)
  one_of('sample.timestep_spacing', samplers.TIMESTEP_SPACINGS)
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
  need(
    1 <= c.sample.num_steps <= steps,
    f'sample.num_steps: {c.sample.num_steps} is not within 1 .. {steps}',
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
  need(
    c.sample.classes == () or c.model.class_conditional,
    'sample.classes: only a class-conditional net has labels to draw with '
    '(model.class_conditional)',
  )
  channels = tuple(c.model.block_out_channels)
  groups = c.model.attn_norm_num_groups
  need(
    not groups or channels[-1] % groups == 0,
    f'model.attn_norm_num_groups: {groups} does not divide {channels[-1]}, the '
    'last of model.block_out_channels',
  )
  need(
    c.model.freq_shift < channels[0] // 2,
    f'model.freq_shift: {c.model.freq_shift} must be below {channels[0] // 2}, '
    'half of the first of model.block_out_channels',
  )
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
  labels_of(c.sample.classes, dataset)
  need(
    not c.model.class_conditional or dataset.num_classes <= 2**20,
    f'model.class_conditional: {dataset.num_classes} classes are too many',
  )
  levels = len(c.model.block_out_channels)
  scale = 2 ** (levels - 1)
  height, width = dataset.images.shape[1:3]
  need(
    height % scale == 0 and width % scale == 0,
    f'model.block_out_channels: {levels} levels need images whose '
    f'sides divide by {scale}; {c.data.name} has {height} x {width}',
  )


def labels_of(wanted, dataset: datasets.Dataset) -> tuple[int, ...]:
  """Labels of classes that are asked for by name or number.

  Where all names are whole numbers, a number is a name.

  Raises:
    ValueError: for a class that there is not.
  """
  names = dataset.class_names
  out = []
  for one in wanted:
    need(
      type(one) in (int, str),
      f'sample.classes: {one!r} is neither a name nor a number',
    )
    known = str(one) in names
    if (
      not known
      and type(one) is int
      and not all(name.lstrip('-').isdigit() for name in names)
    ):
      need(
        0 <= one < len(names),
        f'sample.classes: no label {one}; there are 0 .. {len(names) - 1}',
      )
      out.append(one)
      continue
    shown = ', '.join(names[:10]) + (', ...' if len(names) > 10 else '')
    need(
      known,
      f'sample.classes: no class {one!r}; there is {inputs.one_line(shown)}',
    )
    out.append(names.index(str(one)))
  return tuple(out)
