"""Model folders of Hugging Face's diffusers, read and written without torch.

A folder holds `config.json` and `diffusion_pytorch_model.safetensors` of a
`UNet2DModel` (by themselves, or in `unet/`), and `scheduler_config.json` (or
in `scheduler/`). Our U-Net carries diffusers' names, so weights are exchanged
by renaming and transposing alone:

    down_blocks_0_resnets_1/conv1/kernel [3, 3, in, out]
    down_blocks.0.resnets.1.conv1.weight [out, in, 3, 3]

What a U-Net or a scheduler here does not have is refused by name.
"""

from collections.abc import Mapping
import dataclasses
import json
import re
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from jaxdiff import runs
from jaxdiff.diffusion import processes, samplers, schedules
from jaxdiff.models import layers, unet

WEIGHTS = 'diffusion_pytorch_model.safetensors'

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
# Names of attention layers before diffusers 0.12.
_LEGACY = {
  'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0',
}  # fmt: skip
_VARIANCES = {
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


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """A folder's content.

  Attributes:
    net: the U-Net.
    params: its weights, float32, as `net.apply` takes them.
    image_shape: (H, W, C) of the images.
    diffusion: `beta_schedule`, `num_train_timesteps`, `beta_start`, `beta_end`
      and `prediction_type`, as in configs; None without a scheduler.
    sample: `timestep_spacing`, `variance` and `clip_sample`, likewise.
  """

  net: unet.UNet
  params: Any
  image_shape: tuple[int, int, int]
  diffusion: dict[str, Any] | None
  sample: dict[str, Any] | None


def read(folder: str) -> Pretrained:
  """Reads a folder.

  Raises:
    InputError: naming the file and what is missing, broken or unsupported.
  """
  root = epath.Path(folder)
  home = root / 'unet' if (root / 'unet').exists() else root
  net, image_shape = _read_net(home / 'config.json')
  params = _read_weights(home / WEIGHTS, net, image_shape)
  for place in (root / 'scheduler', root):
    if (place / 'scheduler_config.json').exists():
      diffusion, sample = _read_scheduler(place / 'scheduler_config.json')
      return Pretrained(net, params, image_shape, diffusion, sample)
  return Pretrained(net, params, image_shape, None, None)


def write(folder: str, model: Pretrained) -> None:
  """Writes a folder that `DDPMPipeline` or `DDIMPipeline` loads.

  Raises:
    InputError: if the folder exists.
  """
  done = epath.Path(folder)
  if done.exists():
    raise runs.InputError(f'{folder} exists: name a new folder')
  # All of it, or nothing under that name.
  root = done.parent / f'{done.name}.tmp'
  if root.exists():
    root.rmtree()
  (root / 'unet').mkdir(parents=True)
  config = {
    field.name: getattr(model.net, field.name)
    for field in dataclasses.fields(unet.UNet)
    if field.name not in ('dtype', 'parent', 'name')
  }
  config |= {
    '_class_name': 'UNet2DModel',
    'sample_size': list(model.image_shape[:2]),
    'in_channels': model.image_shape[2],
  }
  runs.write_json(root / 'unet' / 'config.json', config)
  state = to_state_dict(model.params)
  runs.write(
    root / 'unet' / WEIGHTS,
    safetensors_numpy.save(state, metadata={'format': 'pt'}),
  )
  index = {
    '_class_name': 'DDPMPipeline', 'unet': ['diffusers', 'UNet2DModel'],
  }  # fmt: skip
  if model.diffusion is not None:
    (root / 'scheduler').mkdir()
    index['scheduler'] = ['diffusers', 'DDPMScheduler']
    names = {ours: theirs for theirs, ours in reversed(_VARIANCES.items())}
    scheduler = {
      '_class_name': 'DDPMScheduler', **model.diffusion, **model.sample,
    }  # fmt: skip
    scheduler['variance_type'] = names[scheduler.pop('variance')]
    runs.write_json(root / 'scheduler' / 'scheduler_config.json', scheduler)
  runs.write_json(root / 'model_index.json', index)
  root.rename(done)


def to_state_dict(params: Any) -> dict[str, np.ndarray]:
  """Our parameters under diffusers' names and in its layout."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(params['params'])
  state = {}
  for path, leaf in leaves:
    names = tuple(entry.key for entry in path)
    leaf = np.asarray(leaf, np.float32).transpose(_axes(names, leaf.ndim))
    state[_key(names)] = np.ascontiguousarray(leaf)
  return state


def from_state_dict(
  state: Mapping[str, np.ndarray],
  net: unet.UNet,
  image_shape: tuple[int, int, int],
  source: str = 'weights',
) -> Any:
  """diffusers' weights as parameters of `net`, float32.

  Args:
    state: by diffusers' names, today's or those before version 0.12.
    net: whose parameters they are.
    image_shape: (H, W, C).
    source: named in errors.

  Raises:
    InputError: naming the first tensor that is missing, left over or of
      another shape.
  """
  state = {_modern(key): value for key, value in state.items()}
  leaves, tree = _abstract(net, image_shape)
  filled = []
  for names, leaf in leaves:
    key, axes = _key(names), _axes(names, leaf.ndim)
    if key not in state:
      raise runs.InputError(
        f'{source}: no tensor {key!r}, which its config.json asks for'
      )
    value = state.pop(key)
    want = tuple(leaf.shape[axis] for axis in axes)
    if value.ndim == 4 and leaf.ndim == 2:
      value = value[:, :, 0, 0]  # 1 x 1 convolutions of old attention
    if value.shape != want:
      raise runs.InputError(
        f'{source}: {key!r} has shape {value.shape}; config.json asks for '
        f'{want}'
      )
    value = np.asarray(value, np.float32).transpose(np.argsort(axes))
    filled.append(np.ascontiguousarray(value))
  if state:
    raise runs.InputError(
      f'{source}: {len(state)} tensors that its config.json knows nothing of, '
      f'like {min(state)!r}'
    )
  return {'params': jax.tree.unflatten(tree, filled)}


def shapes(
  net: unet.UNet, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
  """Every tensor of a net's safetensors file, by diffusers' name."""
  return {
    _key(names): tuple(leaf.shape[axis] for axis in _axes(names, leaf.ndim))
    for names, leaf in _abstract(net, image_shape)[0]
  }


def _abstract(
  net: unet.UNet, image_shape: tuple[int, int, int]
) -> tuple[list[tuple[tuple[str, ...], jax.ShapeDtypeStruct]], Any]:
  """(path, leaf) of all parameters, and their tree."""
  x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  number = jax.ShapeDtypeStruct((1,), jnp.int32)
  conditional = net.num_class_embeds is not None or net.class_embed_type
  params = jax.eval_shape(
    net.init, jax.random.key(0), x, number, number if conditional else None
  )['params']
  leaves, tree = jax.tree_util.tree_flatten_with_path(params)
  return [
    (tuple(entry.key for entry in path), leaf) for path, leaf in leaves
  ], tree


def _key(path: tuple[str, ...]) -> str:
  """('mid_block_resnets_0', 'conv1', 'kernel') -> its name in diffusers."""
  *modules, leaf = path
  name = '.'.join(modules)
  name = re.sub(
    r'^(down_blocks|up_blocks)_(\d+)_([a-z]+)_(\d+)', r'\1.\2.\3.\4', name
  )
  name = re.sub(r'^mid_block_([a-z]+)_(\d+)', r'mid_block.\1.\2', name)
  name = name.replace('to_out_0', 'to_out.0')
  return f'{name}.{"bias" if leaf == "bias" else "weight"}'


def _axes(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
  """The transposition of a leaf of ours to torch's layout."""
  if path[-1] != 'kernel':
    return tuple(range(ndim))
  return (3, 2, 0, 1) if ndim == 4 else (1, 0)


def _modern(key: str) -> str:
  *path, leaf = key.split('.')
  if path and path[-1] in _LEGACY and 'attentions' in path:
    path[-1] = _LEGACY[path[-1]]
  return '.'.join([*path, leaf])


def _read_json(path: epath.Path) -> dict[str, Any]:
  if not path.exists():
    raise runs.InputError(
      f'no {path}: a diffusers folder holds config.json and {WEIGHTS} '
      '(of safetensors; save_pretrained writes both)'
    )
  try:
    content = json.loads(path.read_text())
  except ValueError as error:
    raise runs.InputError(f'{path}: no JSON: {error}') from error
  if not isinstance(content, dict):
    raise runs.InputError(f'{path}: no JSON object')
  return content


def _one_of(path: epath.Path, key: str, value: Any, known) -> None:
  if value not in known:
    raise runs.InputError(
      f'{path}: {key} {value!r} is not supported; there is '
      f'{", ".join(map(str, known))}'
    )


def _read_net(path: epath.Path) -> tuple[unet.UNet, tuple[int, int, int]]:
  config = _read_json(path)
  kind = config.get('_class_name', 'UNet2DModel')
  if kind != 'UNet2DModel':
    raise runs.InputError(f'{path}: is of a {kind}; UNet2DModel is supported')
  config = {k: v for k, v in config.items() if not k.startswith('_')}
  size = config.pop('sample_size', None)
  if size is None:
    raise runs.InputError(f'{path}: sample_size is missing')
  height, width = size if isinstance(size, list) else (size, size)
  image_shape = (height, width, config.pop('in_channels', 3))
  known = {field.name for field in dataclasses.fields(unet.UNet)}
  fields = dict(_DEFAULTS)
  for key, value in config.items():
    if key not in known - {'dtype', 'parent', 'name'}:
      if value is not None:
        raise runs.InputError(f'{path}: {key} = {value!r} is not supported')
      continue
    if isinstance(value, list):
      value = tuple(value)
    if key in ('down_block_types', 'up_block_types'):
      value = tuple(kind.removeprefix('UNetRes') for kind in value)
    for one in value if key.endswith('_block_types') else (value,):
      if key in _CHOICES:
        _one_of(path, key, one, _CHOICES[key])
    fields[key] = value
  if fields.get('class_embed_type') == 'timestep':
    fields['num_class_embeds'] = None
  return unet.UNet(**fields), image_shape


def _read_weights(
  path: epath.Path, net: unet.UNet, image_shape: tuple[int, int, int]
) -> Any:
  if not path.exists():
    raise runs.InputError(
      f'no {path}: weights are read from safetensors alone (in diffusers: '
      'save_pretrained(folder, safe_serialization=True))'
    )
  try:
    state = safetensors_numpy.load(path.read_bytes())
  except (safetensors.SafetensorError, KeyError) as error:
    raise runs.InputError(f'{path}: no whole safetensors: {error}') from error
  return from_state_dict(state, net, image_shape, str(path))


def _read_scheduler(
  path: epath.Path,
) -> tuple[dict[str, Any], dict[str, Any]]:
  config = _read_json(path)
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
  for key, value in config.items():
    if key in _FIXED and value != _FIXED[key]:
      raise runs.InputError(
        f'{path}: {key} = {value!r} is not supported, only {_FIXED[key]!r}'
      )
    if key not in defaults and key not in _FIXED and key not in _IGNORED:
      raise runs.InputError(f'{path}: {key} = {value!r} is not supported')
  read_in = defaults | {k: v for k, v in config.items() if k in defaults}
  for key, known in (
    ('beta_schedule', schedules.BETA_SCHEDULES),
    ('prediction_type', processes.PREDICTION_TYPES),
    ('timestep_spacing', samplers.TIMESTEP_SPACINGS),
    ('variance_type', _VARIANCES),
  ):
    _one_of(path, key, read_in[key], known)
  sample = {
    'timestep_spacing': read_in.pop('timestep_spacing'),
    'variance': _VARIANCES[read_in.pop('variance_type')],
    'clip_sample': read_in.pop('clip_sample'),
  }
  return read_in, sample
