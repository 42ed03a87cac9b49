"""The JSON of a diffusers folder: what its keys may be, and what they mean."""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

from jaxdiff import inputs
from jaxdiff.diffusion import processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import diffusers_weights, values
from jaxdiff.models import layers, unet

_FOLDER = (
  'a diffusers folder holds config.json and '
  f'{diffusers_weights.WEIGHTS} (of safetensors; save_pretrained writes both)'
)

# UNet2DModel's defaults where they differ from ours.
_DEFAULTS = {
  'down_block_types': ('DownBlock2D',) + ('AttnDownBlock2D',) * 3,
  'up_block_types': ('AttnUpBlock2D',) * 3 + ('UpBlock2D',),
  'block_out_channels': (224, 448, 672, 896),
}

_CHOICES = {
  'down_block_types': unet.DOWN_BLOCKS,
  'up_block_types': unet.UP_BLOCKS,
  'mid_block_type': unet.MID_BLOCKS,
  'downsample_type': unet.RESAMPLE_TYPES,
  'upsample_type': unet.RESAMPLE_TYPES,
  'time_embedding_type': unet.TIME_EMBEDDINGS,
  'resnet_time_scale_shift': unet.TIME_SCALE_SHIFTS,
  'class_embed_type': unet.CLASS_EMBEDDINGS,
  'act_fn': tuple(layers.ACTIVATIONS),
}

VARIANCES = {
  'fixed_small': 'small',
  'fixed_small_log': 'small',
  'fixed_large': 'large',
  'fixed_large_log': 'large',
  'learned_range': 'learned_range',
}

# A scheduler's options that must be as here.
_FIXED = {
  'trained_betas': None,
  'set_alpha_to_one': True,
  'steps_offset': 0,
  'thresholding': False,
  'rescale_betas_zero_snr': False,
  'clip_sample_range': 1.0,
}

# They matter only where `thresholding` is on.
_IGNORED = ('dynamic_thresholding_ratio', 'sample_max_value')

# Schedulers whose sampler is taken unasked; and others, of which the noise that
# nets were trained with is read: they are drawn by DDIM if no other is asked
# for.
_SAMPLERS = {'DDPMScheduler': 'ddpm', 'DDIMScheduler': 'ddim'}
_OTHERS = (
  'DPMSolverMultistepScheduler', 'DPMSolverSinglestepScheduler',
  'EulerDiscreteScheduler', 'EulerAncestralDiscreteScheduler',
  'HeunDiscreteScheduler', 'LMSDiscreteScheduler', 'PNDMScheduler',
  'UniPCMultistepScheduler', 'DEISMultistepScheduler',
)  # fmt: skip
# How those solve, which says nothing of how nets were trained.
_SOLVING = (
  'algorithm_type', 'solver_order', 'solver_type', 'lower_order_final',
  'euler_at_final', 'use_karras_sigmas', 'use_exponential_sigmas',
  'use_beta_sigmas', 'use_lu_lambdas', 'final_sigmas_type',
  'lambda_min_clipped', 'timestep_type', 'sigma_min', 'sigma_max',
  'interpolation_type', 'skip_prk_steps', 'predict_x0', 'disable_corrector',
  'solver_p', 'flow_shift', 'use_dynamic_shifting', 'time_shift_type',
  'steps_offset', 'set_alpha_to_one', 'variance_type',
)  # fmt: skip


_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {
  'sample_size': (
    lambda x: values.whole(1, values.MOST_SIDE)(x)
    or (
      isinstance(x, list)
      and len(x) == 2
      and all(values.whole(1, values.MOST_SIDE)(side) for side in x)
    ),
    f'a whole number up to {values.MOST_SIDE}, or two',
  ),
  'in_channels': (values.whole(1, 4), 'a whole number from 1 to 4'),
  'out_channels': (values.whole(1, 8), 'a whole number from 1 to 8'),
  'block_out_channels': (
    lambda x: (
      isinstance(x, list)
      and 0 < len(x) <= values.MOST_LEVELS
      and all(values.count(width) for width in x)
    ),
    f'up to {values.MOST_LEVELS} whole numbers up to {values.MOST_CHANNELS}',
  ),
  'down_block_types': (values.words, 'words'),
  'up_block_types': (values.words, 'words'),
  'mid_block_type': (values.optional(values.word), 'a word'),
  'layers_per_block': (
    values.whole(1, values.MOST_LAYERS),
    f'a whole number up to {values.MOST_LAYERS}',
  ),
  'norm_num_groups': (values.count, 'a whole number above 0'),
  'attn_norm_num_groups': (
    values.optional(values.count), 'a whole number above 0'
  ),
  'attention_head_dim': (
    values.optional(values.count), 'a whole number above 0'
  ),
  'num_class_embeds': (
    values.optional(values.whole(1, 2**20)), 'a whole number above 0'
  ),
  'num_train_timesteps': (
    values.optional(values.whole(1, 2**20)), 'a whole number above 0'
  ),
  'norm_eps': (values.real(1e-12, 1.0), 'a number above 0'),
  'mid_block_scale_factor': (values.real(1e-6, 1e6), 'a number above 0'),
  'freq_shift': (values.real(-1e6, 1e6), 'a number'),
  'dropout': (values.real(0.0, 1.0), 'a number from 0 to 1'),
  'downsample_padding': (values.whole(0, 8), 'a whole number'),
  'add_attention': (values.flag, 'true or false'),
  'center_input_sample': (values.flag, 'true or false'),
  'flip_sin_to_cos': (values.flag, 'true or false'),
  'clip_sample': (values.flag, 'true or false'),
  'beta_start': (values.real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  'beta_end': (values.real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  **dict.fromkeys(
    (
      'act_fn', 'time_embedding_type', 'resnet_time_scale_shift',
      'downsample_type', 'upsample_type', 'beta_schedule', 'prediction_type',
      'timestep_spacing', 'variance_type',
    ),
    (values.word, 'a word'),
  ),
  'class_embed_type': (values.optional(values.word), 'a word'),
}  # fmt: skip


def read_net(path: pathlib.Path) -> tuple[unet.UNet, tuple[int, int, int]]:
  """The net of a config.json, and the shape of its images."""
  config = values.read_json(path, _FOLDER)
  kind = config.get('_class_name', 'UNet2DModel')
  if kind != 'UNet2DModel':
    raise inputs.InputError(f'{path}: is of a {kind}; UNet2DModel is supported')
  config = {k: v for k, v in config.items() if not k.startswith('_')}
  # What diffusers writes into the config of averaged weights (EMAModel).
  for name in diffusers_weights.EMA_KEYS:
    config.pop(name, None)
  kinds = {k: v for k, v in config.items() if k != 'sample_size'}
  values.check_kinds(path, kinds, _SCHEMA)
  size = config.pop('sample_size', None)
  if size is None:
    raise inputs.InputError(f'{path}: sample_size is missing')
  values.check_kinds(path, {'sample_size': size}, _SCHEMA)
  height, width = size if isinstance(size, list) else (size, size)
  image_shape = (height, width, config.pop('in_channels', 3))
  known = {field.name for field in dataclasses.fields(unet.UNet)}
  fields: dict[str, Any] = dict(_DEFAULTS)
  for key, value in config.items():
    if key not in known - {'dtype', 'parent', 'name'}:
      if value is not None:
        raise inputs.InputError(
          f'{inputs.name_of(path)}: {inputs.one_line(key)} = '
          f'{inputs.one_line(repr(value), 60)} is not supported'
        )
      continue
    if isinstance(value, list):
      value = tuple(value)
    if key in ('down_block_types', 'up_block_types'):
      value = tuple(kind.removeprefix('UNetRes') for kind in value)
    for value_of_list in value if key.endswith('_block_types') else (value,):
      if key in _CHOICES:
        values.one_of(path, key, value_of_list, _CHOICES[key])
    fields[key] = value
  if fields.get('class_embed_type') == 'timestep':
    fields['num_class_embeds'] = None
  return unet.UNet(**fields), image_shape


def read_scheduler(
  path: pathlib.Path,
) -> tuple[dict[str, Any], dict[str, Any], str]:
  """Keys `diffusion` and `sample` of a scheduler_config.json, and its class.

  Of schedulers other than DDPM's and DDIM's, what concerns the solver is left
  aside (`sampler_of` is how they are drawn unasked); what says that nets were
  trained otherwise is refused.
  """
  config = values.read_json(path, _FOLDER)
  kind = config.get('_class_name', 'DDPMScheduler')
  values.one_of(path, '_class_name', kind, (*_SAMPLERS, *_OTHERS))
  defaults = {
    'beta_schedule': 'linear',
    'num_train_timesteps': 1000,
    'beta_start': 1e-4,
    'beta_end': 0.02,
    'prediction_type': 'epsilon',
    'timestep_spacing': 'leading',
    'variance_type': 'fixed_small',
    'clip_sample': True,
  }
  config = {k: v for k, v in config.items() if not k.startswith('_')}
  if kind in _OTHERS:
    defaults |= {'timestep_spacing': 'linspace', 'clip_sample': False}
    config = {k: v for k, v in config.items() if k not in _SOLVING}
    if config.pop('use_flow_sigmas', False):
      raise inputs.InputError(
        f'{inputs.name_of(path)}: flow matching is not supported'
      )
  values.check_kinds(path, config, _SCHEMA)
  for key, value in config.items():
    if key in _FIXED and value != _FIXED[key]:
      raise inputs.InputError(
        f'{path}: {key} = {value!r} is not supported, only {_FIXED[key]!r}'
      )
    if key not in defaults and key not in _FIXED and key not in _IGNORED:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {inputs.one_line(key)} = '
        f'{inputs.one_line(repr(value), 60)} is not supported'
      )
  read_in: dict[str, Any] = defaults | {
    k: v for k, v in config.items() if k in defaults
  }
  if read_in['num_train_timesteps'] is None:
    raise inputs.InputError(f'{inputs.name_of(path)}: no num_train_timesteps')
  for key, known in (
    ('beta_schedule', schedules.BETA_SCHEDULES),
    ('prediction_type', processes.PREDICTION_TYPES),
    ('timestep_spacing', steps_lib.TIMESTEP_SPACINGS),
    ('variance_type', VARIANCES),
  ):
    values.one_of(path, key, read_in[key], known)
  sample = {
    'timestep_spacing': read_in.pop('timestep_spacing'),
    'variance': VARIANCES[read_in.pop('variance_type')],
    'clip_sample': read_in.pop('clip_sample'),
  }
  return read_in, sample, kind


def sampler_of(scheduler: str) -> str:
  """The sampler that a scheduler is drawn by unasked."""
  return _SAMPLERS.get(scheduler, 'ddim')
