"""Model folders of Hugging Face's diffusers, read and written without torch.

A folder holds `config.json` and `diffusion_pytorch_model.safetensors` of a
`UNet2DModel` (by themselves, or in `unet/`), and `scheduler_config.json` (or
in `scheduler/`). Our U-Net carries diffusers' names, so weights are exchanged
by renaming and transposing alone:

    down_blocks_0_resnets_1/conv1/kernel [3, 3, in, out]
    down_blocks.0.resnets.1.conv1.weight [out, in, 3, 3]

What a U-Net or a scheduler here does not have is refused by name.
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import hashlib
import os
import pathlib
import shutil
import tempfile
from typing import Any

from etils import epath
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff.interop import diffusers_config, diffusers_weights
from jaxdiff.models import unet
from jaxdiff.runs import files

# Whole weights, in order of preference.
_WEIGHTS = (
  diffusers_weights.WEIGHTS,
  'diffusion_pytorch_model.fp16.safetensors',
)


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
    scheduler: diffusers' name of it.
  """

  net: unet.UNet
  params: Any
  image_shape: tuple[int, int, int]
  diffusion: dict[str, Any] | None
  sample: dict[str, Any] | None
  scheduler: str = 'DDPMScheduler'


def read(folder: str, key: str = 'model.init_from') -> Pretrained:
  """Reads a folder.

  Args:
    folder: its path.
    key: of the config, named in errors.

  Raises:
    InputError: naming the file and what is missing, broken or unsupported.
  """
  home, weights, scheduler = _files_of(folder, key)
  net, image_shape = diffusers_config.read_net(home / 'config.json')
  diffusion, sample, kind = None, None, 'DDPMScheduler'
  if scheduler is not None:
    diffusion, sample, kind = diffusers_config.read_scheduler(scheduler)
  params = diffusers_weights.read_weights(weights, net, image_shape)
  return Pretrained(net, params, image_shape, diffusion, sample, kind)


def _files_of(
  folder: str, key: str
) -> tuple[pathlib.Path, pathlib.Path, pathlib.Path | None]:
  """Of a folder: that of the net, its weights, and the scheduler's file."""
  root = inputs.local(folder, key)
  if not root.is_dir():
    raise inputs.InputError(f'{key}: no folder {inputs.name_of(root)}')
  home = root
  if not (root / 'config.json').exists():
    for name in ('unet', 'unet_ema'):
      if (root / name).is_dir():
        home = root / name
        break
  weights = next(
    (home / name for name in _WEIGHTS if (home / name).exists()),
    home / diffusers_weights.WEIGHTS,
  )
  for place in (root / 'scheduler', root):
    path = place / 'scheduler_config.json'
    if path.exists():
      return home, weights, path
  return home, weights, None


def digest(folder: str, key: str = 'model.init_from') -> str:
  """SHA-256 over the files that `read` reads.

  Raises:
    InputError: if one is missing or unsupported.
  """
  home, weights, scheduler = _files_of(folder, key)
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

  All of it, or nothing.

  Raises:
    InputError: if the folder exists, or cannot be made.
  """
  with made_whole(folder) as root:
    _write_into(root, model)


@contextlib.contextmanager
def made_whole(folder: str) -> Iterator[epath.Path]:
  """A folder to write into, which takes its name when all of it is there.

  It is made beside its place under a name that nobody has.

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
    yield root
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
  state = diffusers_weights.to_state_dict(model.params)
  files.write(
    root / 'unet' / diffusers_weights.WEIGHTS,
    safetensors_numpy.save(state, metadata={'format': 'pt'}),
  )
  index = {
    '_class_name': 'DDPMPipeline', 'unet': ['diffusers', 'UNet2DModel'],
  }  # fmt: skip
  if model.diffusion is not None:
    (root / 'scheduler').mkdir()
    index['scheduler'] = ['diffusers', 'DDPMScheduler']
    names = {
      ours: theirs
      for theirs, ours in reversed(diffusers_config.VARIANCES.items())
    }
    scheduler: dict[str, Any] = {
      '_class_name': 'DDPMScheduler', **model.diffusion, **(model.sample or {}),
    }  # fmt: skip
    scheduler['variance_type'] = names[scheduler.pop('variance')]
    files.write_json(root / 'scheduler' / 'scheduler_config.json', scheduler)
  files.write_json(root / 'model_index.json', index)
