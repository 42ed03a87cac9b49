"""Folders of Stable Diffusion 1.4, 2.1 and XL at full size, weights at random.

    JAXDIFF_EXTRAS=bench,text launch/local.sh \
      python -m tests.benchmarks.full_pipelines --kind=sd14 --folder=sd14/

writes one in half precision (2.1, 2.6 or 6.9 GB), as configs on the Hub have
it. Tensors are drawn one by one, about as large as those of trained nets, so
that numbers neither vanish nor overflow on their way through the nets.
"""

import argparse
import json
import math
import pathlib

import numpy as np

from tests.goldens import clip_vocabulary

_NOISE = {
  'beta_schedule': 'scaled_linear', 'beta_start': 0.00085, 'beta_end': 0.012,
  'num_train_timesteps': 1000, 'steps_offset': 1,
}  # fmt: skip
_VAE = {
  'in_channels': 3, 'out_channels': 3, 'latent_channels': 4,
  'block_out_channels': [128, 256, 512, 512], 'layers_per_block': 2,
  'down_block_types': ['DownEncoderBlock2D'] * 4,
  'up_block_types': ['UpDecoderBlock2D'] * 4, 'act_fn': 'silu',
}  # fmt: skip
_CROSS = ['CrossAttnDownBlock2D'] * 3 + ['DownBlock2D']
_CROSS_UP = ['UpBlock2D'] + ['CrossAttnUpBlock2D'] * 3
_UNET = {
  'in_channels': 4, 'out_channels': 4, 'layers_per_block': 2,
  'block_out_channels': [320, 640, 1280, 1280], 'down_block_types': _CROSS,
  'up_block_types': _CROSS_UP, 'norm_num_groups': 32,
}  # fmt: skip
_CLIP_L = {
  'architectures': ['CLIPTextModel'], 'vocab_size': 49_408, 'hidden_size': 768,
  'intermediate_size': 3072, 'num_hidden_layers': 12, 'num_attention_heads': 12,
  'max_position_embeddings': 77, 'hidden_act': 'quick_gelu', 'eos_token_id': 2,
}  # fmt: skip
_SCHEDULERS = {
  'sd14': {'_class_name': 'PNDMScheduler', 'skip_prk_steps': True,
           'set_alpha_to_one': False},
  'sd21': {'_class_name': 'DDIMScheduler', 'set_alpha_to_one': False,
           'prediction_type': 'v_prediction', 'clip_sample': False},
  'sdxl': {'_class_name': 'EulerDiscreteScheduler',
           'timestep_spacing': 'leading'},
}  # fmt: skip
# Of each: U-Net, autoencoder and text encoders, as far as they differ.
KINDS: dict[str, dict[str, dict]] = {
  'sd14': {
    'unet': _UNET | {'sample_size': 64, 'cross_attention_dim': 768,
                     'attention_head_dim': 8},
    'vae': _VAE, 'text_encoder': _CLIP_L,
  },
  'sd21': {
    'unet': _UNET | {
      'sample_size': 96, 'cross_attention_dim': 1024,
      'attention_head_dim': [5, 10, 20, 20], 'use_linear_projection': True,
      'upcast_attention': True,
    },
    'vae': _VAE,
    'text_encoder': _CLIP_L | {
      'hidden_size': 1024, 'intermediate_size': 4096, 'num_hidden_layers': 23,
      'num_attention_heads': 16, 'hidden_act': 'gelu',
    },
  },
  'sdxl': {
    'unet': _UNET | {
      'sample_size': 128, 'cross_attention_dim': 2048,
      'attention_head_dim': [5, 10, 20], 'use_linear_projection': True,
      'block_out_channels': [320, 640, 1280],
      'transformer_layers_per_block': [1, 2, 10],
      'down_block_types': ['DownBlock2D'] + ['CrossAttnDownBlock2D'] * 2,
      'up_block_types': ['CrossAttnUpBlock2D'] * 2 + ['UpBlock2D'],
      'addition_embed_type': 'text_time', 'addition_time_embed_dim': 256,
      'projection_class_embeddings_input_dim': 2816,
    },
    'vae': _VAE | {'scaling_factor': 0.13025},
    'text_encoder': _CLIP_L,
    'text_encoder_2': _CLIP_L | {
      'architectures': ['CLIPTextModelWithProjection'], 'hidden_size': 1280,
      'intermediate_size': 5120, 'num_hidden_layers': 32,
      'num_attention_heads': 20, 'hidden_act': 'gelu', 'projection_dim': 1280,
    },
  },
}  # fmt: skip
# Bytes of a file of weights.
_SHARD = 2**31


def shapes(name: str, config: dict) -> dict[str, list[int]]:
  """Tensors of a net by diffusers or transformers, without memory."""
  import diffusers
  import torch
  import transformers

  with torch.device('meta'):
    if name.startswith('text_encoder'):
      architecture = getattr(transformers, config['architectures'][0])
      given = {k: v for k, v in config.items() if k != 'architectures'}
      net = architecture(transformers.CLIPTextConfig(**given))
    elif name == 'vae':
      net = diffusers.AutoencoderKL.from_config(config)
    else:
      net = diffusers.UNet2DConditionModel.from_config(config)
  return {key: list(x.shape) for key, x in net.state_dict().items()}


def tensor(key: str, shape: list[int], rng: np.random.Generator) -> np.ndarray:
  if 'norm' in key:
    fill = 1.0 if key.endswith('weight') else 0.0
    return np.full(shape, fill, np.float16)
  if key.endswith('bias'):
    return np.zeros(shape, np.float16)
  scale = 0.02 if 'embedding.' in key else math.prod(shape[1:]) ** -0.5
  return (scale * rng.standard_normal(shape, np.float32)).astype(np.float16)


def write_weights(folder: pathlib.Path, stem: str, wanted: dict) -> None:
  """In one file, or in shards with an index where they are large."""
  from safetensors import numpy as safetensors_numpy

  shards: list[list[str]] = [[]]
  size = 0
  for key, shape in wanted.items():
    if size + 2 * math.prod(shape) > _SHARD:
      shards.append([])
      size = 0
    shards[-1].append(key)
    size += 2 * math.prod(shape)
  rng, index = np.random.default_rng(0), {}
  for number, keys in enumerate(shards, 1):
    name = f'{stem}.safetensors'
    if len(shards) > 1:
      name = f'{stem}-{number:05}-of-{len(shards):05}.safetensors'
    state = {key: tensor(key, wanted[key], rng) for key in keys}
    safetensors_numpy.save_file(state, folder / name, {'format': 'pt'})
    index |= dict.fromkeys(keys, name)
  if len(shards) > 1:
    (folder / f'{stem}.safetensors.index.json').write_text(
      json.dumps({'metadata': {}, 'weight_map': index})
    )


def write(folder: pathlib.Path, kind: str) -> None:
  """A whole folder."""
  parts = KINDS[kind]
  index = {
    '_class_name': 'StableDiffusionPipeline', 'unet': [
      'diffusers', 'UNet2DConditionModel'],
    'vae': ['diffusers', 'AutoencoderKL'],
    'scheduler': ['diffusers', _SCHEDULERS[kind]['_class_name']],
    'safety_checker': [None, None], 'feature_extractor': [None, None],
    'requires_safety_checker': False,
  }  # fmt: skip
  if kind == 'sdxl':
    index = {k: v for k, v in index.items() if k[:2] not in ('sa', 'fe', 're')}
    index['_class_name'] = 'StableDiffusionXLPipeline'
    index['force_zeros_for_empty_prompt'] = True
  for name, config in parts.items():
    (folder / name).mkdir(parents=True, exist_ok=True)
    stem = 'diffusion_pytorch_model'
    if name.startswith('text_encoder'):
      stem = 'model'
      index[name] = ['transformers', config['architectures'][0]]
      words = name.replace('text_encoder', 'tokenizer')
      index[words] = ['transformers', 'CLIPTokenizer']
      pad = '!' if kind == 'sd21' or words == 'tokenizer_2' else '<|endoftext|>'
      clip_vocabulary.write(folder / words, pad)
      config = {'model_type': 'clip_text_model', **config}
    else:
      config = {'_class_name': index[name][1], **config}
    (folder / name / 'config.json').write_text(json.dumps(config))
    write_weights(folder / name, stem, shapes(name, parts[name]))
  (folder / 'scheduler').mkdir(exist_ok=True)
  (folder / 'scheduler' / 'scheduler_config.json').write_text(
    json.dumps(_NOISE | _SCHEDULERS[kind])
  )
  (folder / 'model_index.json').write_text(json.dumps(index))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kind', choices=KINDS, required=True)
  parser.add_argument('--folder', type=pathlib.Path, required=True)
  args = parser.parse_args()
  write(args.folder, args.kind)


if __name__ == '__main__':
  main()
