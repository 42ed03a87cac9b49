"""Goldens of text-to-image nets, from diffusers, transformers and torch.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.goldens.make_text_to_image_goldens

writes tests/goldens/text_to_image.npz: for each net of `text_to_image_configs`,
with weights of `unet_configs`, the names of its weights, inputs and outputs.
"""

import pathlib

import diffusers
import numpy as np
import torch
import transformers

from tests.goldens import text_to_image_configs as configs
from tests.goldens import unet_configs

HERE = pathlib.Path(__file__).parent


def fill(net, change=lambda state: state):
  """The net with weights by name, and the names."""
  state = net.state_dict()
  shapes = {
    key: tuple(value.shape) for key, value in state.items()
    if not key.endswith('position_ids')
  }  # fmt: skip
  # Hub files of CLIP have the prefix, transformers 5 leaves it out.
  bare = {key: key.removeprefix('text_model.') for key in shapes}
  made = change(
    unet_configs.weights({bare[k]: shape for k, shape in shapes.items()})
  )
  net.load_state_dict(
    {key: torch.from_numpy(made[bare[key]]) for key in shapes}, strict=False
  )
  return net.eval(), np.array(sorted(bare.values()))


def texts(out: dict) -> None:
  rng = np.random.default_rng(0)
  tokens = rng.integers(3, 90, (3, 12))
  for row, end in enumerate((4, 11, 7)):
    tokens[row, end:] = 98
  for name, config in configs.TEXTS.items():
    made = transformers.CLIPTextConfig(**config)
    kind = transformers.CLIPTextModel
    if 'projection_dim' in config:
      kind = transformers.CLIPTextModelWithProjection
    net, keys = fill(kind(made))
    with torch.no_grad():
      found = net(torch.from_numpy(tokens), output_hidden_states=True)
    of = f'text/{name}'
    out |= {
      f'{of}/keys': keys, f'{of}/tokens': tokens,
      f'{of}/last': found.last_hidden_state.numpy(),
      f'{of}/penultimate': found.hidden_states[-2].numpy(),
    }  # fmt: skip
    if 'projection_dim' in config:
      out[f'{of}/projected'] = found.text_embeds.numpy()
    else:
      out[f'{of}/pooled'] = found.pooler_output.numpy()


def unets(out: dict) -> None:
  rng = np.random.default_rng(0)
  for name, config in configs.UNETS.items():
    net, keys = fill(diffusers.UNet2DConditionModel(sample_size=8, **config))
    x = rng.standard_normal((2, 4, 8, 8), np.float32)
    t = np.array([37, 981])
    tokens = rng.standard_normal(
      (2, 5, config['cross_attention_dim']), np.float32
    )
    of, more = f'unet/{name}', {}
    if 'addition_embed_type' in config:
      pooled = rng.standard_normal((2, 20), np.float32)
      ids = np.array(
        [[64, 48, 0, 3, 64, 64], [32, 32, 0, 0, 64, 64]], np.float32
      )
      out |= {f'{of}/pooled': pooled, f'{of}/time_ids': ids}
      more = {
        'text_embeds': torch.from_numpy(pooled),
        'time_ids': torch.from_numpy(ids),
      }
    with torch.no_grad():
      found = net(
        *map(torch.from_numpy, (x, t, tokens)), added_cond_kwargs=more
      ).sample
    out |= {
      f'{of}/keys': keys, f'{of}/x': x, f'{of}/t': t, f'{of}/tokens': tokens,
      f'{of}/out': found.numpy(),
    }  # fmt: skip


def transformers_alone(out: dict) -> None:
  rng = np.random.default_rng(0)
  for name, config in configs.TRANSFORMERS.items():
    net = diffusers.models.Transformer2DModel(**config)
    net, keys = fill(net, configs.quieter)
    x = 0.003 * rng.standard_normal((2, 8, 4, 4), np.float32)
    tokens = rng.standard_normal((2, 5, 16), np.float32)
    with torch.no_grad():
      found = net(torch.from_numpy(x), torch.from_numpy(tokens)).sample
    of = f'transformer/{name}'
    out |= {
      f'{of}/keys': keys, f'{of}/x': x, f'{of}/tokens': tokens,
      f'{of}/out': found.numpy(),
    }  # fmt: skip


def autoencoders(out: dict) -> None:
  rng = np.random.default_rng(0)
  for name, config in configs.AUTOENCODERS.items():
    net, keys = fill(
      diffusers.AutoencoderKL(**config, **configs.blocks(config))
    )
    # Small numbers, where the epsilon of a norm tells.
    x = 0.01 * rng.standard_normal((2, 3, 8, 8), np.float32)
    with torch.no_grad():
      latents = net.encode(torch.from_numpy(x)).latent_dist
      image = net.decode(latents.mean).sample
    of = f'autoencoder/{name}'
    out |= {
      f'{of}/keys': keys, f'{of}/x': x, f'{of}/mean': latents.mean.numpy(),
      f'{of}/deviation': latents.std.numpy(), f'{of}/image': image.numpy(),
    }  # fmt: skip


def main() -> None:
  torch.set_num_threads(1)
  out: dict[str, np.ndarray] = {}
  texts(out)
  unets(out)
  transformers_alone(out)
  autoencoders(out)
  np.savez_compressed(HERE / 'text_to_image.npz', **out)


if __name__ == '__main__':
  main()
