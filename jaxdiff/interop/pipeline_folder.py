"""Writes a text-to-image model of ours as a folder that diffusers loads.

Our models have no latents. A folder's autoencoder is one that changes nothing:
with h = (x, -x) 2^-20, groups of such pairs have mean 0 and a variance far
below the norm's epsilon of 10^-6, so that the norm multiplies by 1,000, and

(1)  silu(y) - silu(-y) = y

undoes the activation behind it. Residual blocks add nothing.
"""

import dataclasses
import math
from typing import Any

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
from safetensors import numpy as safetensors_numpy

from jaxdiff.interop import clip_vocabulary, diffusers, names
from jaxdiff.models.text_to_image import autoencoder, clip_text, unet
from jaxdiff.runs import files

# How a run of such a folder goes: what StableDiffusionPipeline makes of any.
OPTIONS: dict[str, Any] = {
  'timestep_spacing': 'leading', 'steps_offset': 1, 'final_alpha': True,
  'clip_sample': False,
}  # fmt: skip
_SMALL = 2.0**-20
_NORM_EPSILON = 1e-6
# Bound of the logarithm of a variance that is none.
_NO_VARIANCE = -30.0


@dataclasses.dataclass(frozen=True)
class Pretrained:
  """What a folder holds.

  Attributes:
    text_encoder: the net of the captions.
    text_params: its parameters.
    unet: the denoiser.
    unet_params: its parameters.
    vocabulary: of the tokenizer.
    sample_size: sides of images.
    diffusion: noise, by the names of diffusers' scheduler config.
  """

  text_encoder: clip_text.TextEncoder
  text_params: Any
  unet: unet.ConditionalUNet
  unet_params: Any
  vocabulary: clip_vocabulary.Vocabulary
  sample_size: int
  diffusion: dict[str, Any]


def write(folder: str, model: Pretrained) -> None:
  """Writes a folder that `StableDiffusionPipeline` loads; all of it or nothing.

  Raises:
    InputError: if the folder exists, or cannot be made.
  """
  with diffusers.made_whole(folder) as root:
    _write_into(root, model)


def _write_into(root: epath.Path, model: Pretrained) -> None:
  coder = unchanging(model.unet.out_channels)
  configs = {
    'unet': _config(model.unet) | {
      '_class_name': 'UNet2DConditionModel', 'sample_size': model.sample_size,
      'in_channels': model.unet.out_channels,
      'cross_attention_dim': model.text_encoder.hidden_size,
    },
    'vae': _config(coder) | {
      '_class_name': 'AutoencoderKL', 'in_channels': coder.out_channels,
      'down_block_types': ['DownEncoderBlock2D'],
      'up_block_types': ['UpDecoderBlock2D'], 'scaling_factor': 1.0,
      'sample_size': model.sample_size,
    },
    'text_encoder': _config(model.text_encoder) | {
      'architectures': ['CLIPTextModel'], 'model_type': 'clip_text_model',
      'bos_token_id': model.text_encoder.vocab_size - 2,
      'pad_token_id': model.text_encoder.vocab_size - 1,
    },
    'scheduler': dict(model.diffusion) | {
      '_class_name': 'DDIMScheduler', 'set_alpha_to_one': True,
      'clip_sample': OPTIONS['clip_sample'],
      'steps_offset': OPTIONS['steps_offset'],
      'timestep_spacing': OPTIONS['timestep_spacing'],
    },
  }  # fmt: skip
  del configs['text_encoder']['projection_dim']
  weights = {
    'unet': _state(model.unet_params),
    'vae': _state(unchanging_params(coder)),
    'text_encoder': {
      f'text_model.{key}': value
      for key, value in _state(model.text_params).items()
    },
  }
  for name, config in configs.items():
    (root / name).mkdir()
    file = 'scheduler_config.json' if name == 'scheduler' else 'config.json'
    files.write_json(root / name / file, config)
  for name, state in weights.items():
    stem = 'model' if name == 'text_encoder' else 'diffusion_pytorch_model'
    files.write(
      root / name / f'{stem}.safetensors',
      safetensors_numpy.save(state, metadata={'format': 'pt'}),
    )
  (root / 'tokenizer').mkdir()
  for name, content in model.vocabulary.files().items():
    files.write(root / 'tokenizer' / name, content.encode())
  files.write_json(
    root / 'model_index.json',
    {
      '_class_name': 'StableDiffusionPipeline',
      'unet': ['diffusers', 'UNet2DConditionModel'],
      'vae': ['diffusers', 'AutoencoderKL'],
      'text_encoder': ['transformers', 'CLIPTextModel'],
      'tokenizer': ['transformers', 'CLIPTokenizer'],
      'scheduler': ['diffusers', 'DDIMScheduler'],
      'safety_checker': [None, None],
      'feature_extractor': [None, None],
      'requires_safety_checker': False,
    },
  )


def _config(net: Any) -> dict[str, Any]:
  """Attributes of a net, which are named as in config.json."""
  own = ('dtype', 'parent', 'name')
  return {
    field.name: getattr(net, field.name)
    for field in dataclasses.fields(net)
    if field.name not in own
  }


def _state(params: Any) -> dict[str, np.ndarray]:
  """Tensors by diffusers' names, in torch's layout."""
  return {
    names.key_of(path): np.ascontiguousarray(
      np.asarray(leaf, np.float32).transpose(names.axes_of(path, leaf.ndim))
    )
    for path, leaf in names.leaves_of(params['params'])[0]
  }


def unchanging(channels: int) -> autoencoder.Autoencoder:
  """An autoencoder whose latents are its images."""
  return autoencoder.Autoencoder(
    out_channels=channels,
    latent_channels=channels,
    block_out_channels=(2 * channels,),
    layers_per_block=1,
    norm_num_groups=channels,
    use_quant_conv=False,
    use_post_quant_conv=False,
    mid_block_add_attention=False,
  )


def unchanging_params(net: autoencoder.Autoencoder) -> Any:
  """Its parameters, equation (1)."""
  channels = net.latent_channels
  shapes = jax.eval_shape(
    net.init, jax.random.key(0), jnp.zeros((1, 1, 1, channels))
  )
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  gain = math.sqrt(_NORM_EPSILON) / _SMALL
  signs = np.tile([1.0, -1.0], channels)
  owner = np.repeat(np.arange(channels), 2)
  for half in ('encoder', 'decoder'):
    tree = params['params'][half]
    into, out = tree['conv_in']['kernel'], tree['conv_out']
    into[1, 1, owner, np.arange(2 * channels)] = signs * _SMALL
    tree['conv_norm_out']['scale'][:] = gain
    out['kernel'][1, 1, np.arange(2 * channels), owner] = signs
    if half == 'encoder':
      out['bias'][channels:] = _NO_VARIANCE
  return params
