"""Model folders of Hugging Face's diffusers, read and written without torch.

A folder holds `config.json` and `diffusion_pytorch_model.safetensors` of a
`UNet2DModel` (by themselves, or in `unet/`), and `scheduler_config.json` (or
in `scheduler/`). Our U-Net carries diffusers' names, so weights are exchanged
by renaming and transposing alone:

    down_blocks_0_resnets_1/conv1/kernel [3, 3, in, out]
    down_blocks.0.resnets.1.conv1.weight [out, in, 3, 3]

What a U-Net or a scheduler here does not have is refused by name.
"""

from collections.abc import Callable, Mapping
import dataclasses
import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import tempfile
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff.diffusion import processes, samplers, schedules
from jaxdiff.models import layers, unet
from jaxdiff.runs import files

WEIGHTS = 'diffusion_pytorch_model.safetensors'
# Whole weights, in order of preference.
_WEIGHTS = (WEIGHTS, 'diffusion_pytorch_model.fp16.safetensors')
# What JSON files of a folder ever have.
_MOST_JSON = 2**20
# Levels, layers and channels beyond which a config is no U-Net's.
_MOST_LEVELS, _MOST_LAYERS, _MOST_CHANNELS, _MOST_SIDE = 16, 64, 16384, 4096

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
_EMA_KEYS = (
  'decay', 'inv_gamma', 'min_decay', 'optimization_step', 'power',
  'update_after_step', 'use_ema_warmup',
)  # fmt: skip
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
  home, weights, scheduler = _files_of(folder)
  net, image_shape = _read_net(home / 'config.json')
  diffusion, sample = None, None
  if scheduler is not None:
    diffusion, sample = _read_scheduler(scheduler)
  params = _read_weights(weights, net, image_shape)
  return Pretrained(net, params, image_shape, diffusion, sample)


def _files_of(
  folder: str,
) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path | None]:
  """Of a folder: that of the net, its weights, and the scheduler's file."""
  root = inputs.local(folder, 'model.init_from')
  if not root.is_dir():
    raise inputs.InputError(
      f'model.init_from: no folder {inputs.name_of(root)}'
    )
  home = root
  if not (root / 'config.json').exists():
    for name in ('unet', 'unet_ema'):
      if (root / name).is_dir():
        home = root / name
        break
  weights = next(
    (home / name for name in _WEIGHTS if (home / name).exists()), home / WEIGHTS
  )
  for place in (root / 'scheduler', root):
    path = place / 'scheduler_config.json'
    if path.exists():
      return home, weights, path
  return home, weights, None


def digest(folder: str) -> str:
  """SHA-256 over the files that `read` reads.

  Raises:
    InputError: if one is missing or unsupported.
  """
  home, weights, scheduler = _files_of(folder)
  found = hashlib.sha256()
  for path in (home / 'config.json', weights, scheduler):
    if path is not None:
      found.update(inputs.digest(path).encode())
  return found.hexdigest()


def check_new(folder: str) -> pathlib.Path:
  """Where `write` may write; raises InputError if something is there."""
  done = inputs.local(folder, '--out').absolute()
  if os.path.lexists(done):
    raise inputs.InputError(
      f'--out: {inputs.name_of(done)} exists: name a new folder'
    )
  return done


def write(folder: str, model: Pretrained) -> None:
  """Writes a folder that `DDPMPipeline` or `DDIMPipeline` loads.

  All of it, or nothing: it is made beside its place under a name that nobody
  has, and renamed.

  Raises:
    InputError: if the folder exists, or cannot be made.
  """
  done = check_new(folder)
  with inputs.reading(done, '--out: cannot be made'):
    done.parent.mkdir(parents=True, exist_ok=True)
    root = epath.Path(
      tempfile.mkdtemp(prefix=f'.{done.name}.', dir=done.parent)
    )
  try:
    _write_into(root, model)
    # Fails where somebody made it meanwhile, unless it is empty.
    os.rename(root, done)
  except BaseException:
    shutil.rmtree(root, ignore_errors=True)
    raise


def _write_into(root: epath.Path, model: Pretrained) -> None:
  (root / 'unet').mkdir()
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
  files.write_json(root / 'unet' / 'config.json', config)
  state = to_state_dict(model.params)
  files.write(
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
    scheduler: dict[str, Any] = {
      '_class_name': 'DDPMScheduler', **model.diffusion, **(model.sample or {}),
    }  # fmt: skip
    scheduler['variance_type'] = names[scheduler.pop('variance')]
    files.write_json(root / 'scheduler' / 'scheduler_config.json', scheduler)
  files.write_json(root / 'model_index.json', index)


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
  with inputs.reading(source, 'its config.json is of no U-Net'):
    leaves, tree = _abstract(net, image_shape)
  filled = []
  for names, leaf in leaves:
    key, axes = _key(names), _axes(names, leaf.ndim)
    if key not in state:
      raise inputs.InputError(
        f'{source}: no tensor {key!r}, which its config.json asks for'
      )
    value = state.pop(key)
    want = tuple(leaf.shape[axis] for axis in axes)
    if value.ndim == 4 and leaf.ndim == 2:
      value = value[:, :, 0, 0]  # 1 x 1 convolutions of old attention
    if value.shape != want:
      raise inputs.InputError(
        f'{source}: {key!r} has shape {value.shape}; config.json asks for '
        f'{want}'
      )
    value = np.asarray(value, np.float32).transpose(np.argsort(axes))
    filled.append(np.ascontiguousarray(value))
  if state:
    raise inputs.InputError(
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


def _read_json(path: pathlib.Path) -> dict[str, Any]:
  if not os.path.lexists(path):
    raise inputs.InputError(
      f'no {inputs.name_of(path)}: a diffusers folder holds config.json and '
      f'{WEIGHTS} (of safetensors; save_pretrained writes both)'
    )
  content = inputs.read_bytes(path, _MOST_JSON)
  with inputs.reading(path, 'no JSON'):
    found = json.loads(content)
  if not isinstance(found, dict):
    raise inputs.InputError(f'{inputs.name_of(path)}: no JSON object')
  return found


# Kinds of values in these files, by key.
def _whole(low: int, high: int) -> Callable[[Any], bool]:
  return lambda x: type(x) is int and low <= x <= high


def _real(low: float, high: float) -> Callable[[Any], bool]:
  return lambda x: (
    type(x) in (int, float) and math.isfinite(x) and low <= x <= high
  )


def _words(x: Any) -> bool:
  return (
    isinstance(x, list)
    and 0 < len(x) <= _MOST_LEVELS
    and all(isinstance(word, str) for word in x)
  )


def _optional(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
  return lambda x: x is None or kind(x)


_word = lambda x: isinstance(x, str)
_flag = lambda x: isinstance(x, bool)
_count = _whole(1, _MOST_CHANNELS)
_SCHEMA: dict[str, tuple[Callable[[Any], bool], str]] = {
  'sample_size': (
    lambda x: _whole(1, _MOST_SIDE)(x)
    or (
      isinstance(x, list)
      and len(x) == 2
      and all(_whole(1, _MOST_SIDE)(side) for side in x)
    ),
    f'a whole number up to {_MOST_SIDE}, or two',
  ),
  'in_channels': (_whole(1, 4), 'a whole number from 1 to 4'),
  'out_channels': (_whole(1, 8), 'a whole number from 1 to 8'),
  'block_out_channels': (
    lambda x: (
      isinstance(x, list)
      and 0 < len(x) <= _MOST_LEVELS
      and all(_count(width) for width in x)
    ),
    f'up to {_MOST_LEVELS} whole numbers up to {_MOST_CHANNELS}',
  ),
  'down_block_types': (_words, 'words'),
  'up_block_types': (_words, 'words'),
  'mid_block_type': (_optional(_word), 'a word'),
  'layers_per_block': (
    _whole(1, _MOST_LAYERS), f'a whole number up to {_MOST_LAYERS}'
  ),
  'norm_num_groups': (_count, 'a whole number above 0'),
  'attn_norm_num_groups': (_optional(_count), 'a whole number above 0'),
  'attention_head_dim': (_optional(_count), 'a whole number above 0'),
  'num_class_embeds': (
    _optional(_whole(1, 2**20)), 'a whole number above 0'
  ),
  'num_train_timesteps': (
    _optional(_whole(1, 2**20)), 'a whole number above 0'
  ),
  'norm_eps': (_real(1e-12, 1.0), 'a number above 0'),
  'mid_block_scale_factor': (_real(1e-6, 1e6), 'a number above 0'),
  'freq_shift': (_real(-1e6, 1e6), 'a number'),
  'dropout': (_real(0.0, 1.0), 'a number from 0 to 1'),
  'downsample_padding': (_whole(0, 8), 'a whole number'),
  'add_attention': (_flag, 'true or false'),
  'center_input_sample': (_flag, 'true or false'),
  'flip_sin_to_cos': (_flag, 'true or false'),
  'clip_sample': (_flag, 'true or false'),
  'beta_start': (_real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  'beta_end': (_real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  **dict.fromkeys(
    (
      'act_fn', 'time_embedding_type', 'resnet_time_scale_shift',
      'downsample_type', 'upsample_type', 'beta_schedule', 'prediction_type',
      'timestep_spacing', 'variance_type',
    ),
    (_word, 'a word'),
  ),
  'class_embed_type': (_optional(_word), 'a word'),
}  # fmt: skip


def _check_kinds(path: pathlib.Path, config: dict[str, Any]) -> None:
  """Raises InputError for a value of another kind than its key has."""
  for key, value in config.items():
    kind, wanted = _SCHEMA.get(key, (lambda x: True, ''))
    if not kind(value):
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {key} is {inputs.one_line(repr(value), 60)}; '
        f'it must be {wanted}'
      )


def _one_of(path: pathlib.Path, key: str, value: Any, known) -> None:
  if value not in known:
    raise inputs.InputError(
      f'{path}: {key} {value!r} is not supported; there is '
      f'{", ".join(map(str, known))}'
    )


def _read_net(path: pathlib.Path) -> tuple[unet.UNet, tuple[int, int, int]]:
  config = _read_json(path)
  kind = config.get('_class_name', 'UNet2DModel')
  if kind != 'UNet2DModel':
    raise inputs.InputError(f'{path}: is of a {kind}; UNet2DModel is supported')
  config = {k: v for k, v in config.items() if not k.startswith('_')}
  # What diffusers writes into the config of averaged weights (EMAModel).
  for name in _EMA_KEYS:
    config.pop(name, None)
  _check_kinds(path, {k: v for k, v in config.items() if k != 'sample_size'})
  size = config.pop('sample_size', None)
  if size is None:
    raise inputs.InputError(f'{path}: sample_size is missing')
  _check_kinds(path, {'sample_size': size})
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
    for one in value if key.endswith('_block_types') else (value,):
      if key in _CHOICES:
        _one_of(path, key, one, _CHOICES[key])
    fields[key] = value
  if fields.get('class_embed_type') == 'timestep':
    fields['num_class_embeds'] = None
  return unet.UNet(**fields), image_shape


def _read_weights(
  path: pathlib.Path, net: unet.UNet, image_shape: tuple[int, int, int]
) -> Any:
  if not os.path.lexists(path):
    raise inputs.InputError(
      f'no {inputs.name_of(path)}: weights are read from safetensors alone (in '
      'diffusers: save_pretrained(folder, safe_serialization=True))'
    )
  return from_state_dict(read_safetensors(path), net, image_shape, str(path))


# How the floats of safetensors lie in memory.
_FLOATS = {'F64': '<f8', 'F32': '<f4', 'F16': '<f2', 'BF16': '<u2'}


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a file as float32; bfloat16 and half precision are widened.

  Raises:
    InputError: if it is not whole, or holds what is no finite float.
  """
  size = inputs.regular(path)
  inputs.check_size(path, 3 * size)
  with inputs.reading(path, 'no whole safetensors'):
    state = safetensors.deserialize(inputs.read_bytes(path))
  out = {}
  for name, tensor in state:
    shown = f'{inputs.name_of(path)}: {inputs.one_line(name)!r}'
    if tensor['dtype'] not in _FLOATS:
      raise inputs.InputError(
        f'{shown} is of {tensor["dtype"]}; weights are floating-point numbers'
      )
    value = np.frombuffer(tensor['data'], _FLOATS[tensor['dtype']])
    if tensor['dtype'] == 'BF16':  # the upper half of a float32
      value = (value.astype('<u4') << 16).view('<f4')
    with np.errstate(over='ignore'):
      value = value.astype(np.float32).reshape(tensor['shape'])
    if not np.isfinite(value).all():
      raise inputs.InputError(f'{shown} holds numbers that are not finite')
    out[name] = value
  return out


def _read_scheduler(
  path: pathlib.Path,
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
  _check_kinds(path, config)
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
