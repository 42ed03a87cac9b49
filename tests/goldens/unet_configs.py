"""UNet2DModel configurations whose outputs are pinned, and their weights."""

import zlib

import numpy as np

UNETS = {
  'plain': {
    'block_out_channels': (8, 16),
    'layers_per_block': 1,
    'down_block_types': ('DownBlock2D', 'AttnDownBlock2D'),
    'up_block_types': ('AttnUpBlock2D', 'UpBlock2D'),
    'attention_head_dim': 4,
    'norm_num_groups': 4,
  },
  # The conventions of the DDPM CIFAR-10 checkpoint, with classes.
  'ddpm': {
    'block_out_channels': (8, 8),
    'layers_per_block': 2,
    'down_block_types': ('DownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'UpBlock2D'),
    'attention_head_dim': None,
    'norm_num_groups': 4,
    'norm_eps': 1e-6,
    'downsample_padding': 0,
    'flip_sin_to_cos': False,
    'freq_shift': 1,
    'num_class_embeds': 11,
  },
  'scale_shift': {
    'block_out_channels': (8, 16),
    'layers_per_block': 1,
    'down_block_types': ('DownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'UpBlock2D'),
    'norm_num_groups': 4,
    'resnet_time_scale_shift': 'scale_shift',
    'add_attention': False,
  },
  # Sides changed in residual blocks; every kind of block.
  'resnet_sampling': {
    'block_out_channels': (8, 8, 16),
    'layers_per_block': 1,
    'down_block_types': (
      'ResnetDownsampleBlock2D', 'AttnDownBlock2D', 'DownBlock2D',
    ),
    'up_block_types': (
      'UpBlock2D', 'AttnUpBlock2D', 'ResnetUpsampleBlock2D',
    ),
    'downsample_type': 'resnet',
    'upsample_type': 'resnet',
    'resnet_time_scale_shift': 'scale_shift',
    'attention_head_dim': 4,
    'norm_num_groups': 4,
  },
  # Nichol & Dhariwal (2021): six channels out, a normed middle attention.
  'improved': {
    'out_channels': 6,
    'block_out_channels': (8, 16),
    'layers_per_block': 2,
    'down_block_types': ('DownBlock2D', 'AttnDownBlock2D'),
    'up_block_types': ('AttnUpBlock2D', 'UpBlock2D'),
    'resnet_time_scale_shift': 'scale_shift',
    'attn_norm_num_groups': 2,
    'attention_head_dim': 4,
    'norm_num_groups': 4,
  },
  # What is left: other activations and embeddings, one level, no middle.
  'odd': {
    'block_out_channels': (8, 12),
    'layers_per_block': 1,
    'down_block_types': ('AttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'AttnUpBlock2D'),
    'mid_block_scale_factor': 1.4,
    'act_fn': 'gelu',
    'time_embedding_type': 'learned',
    'num_train_timesteps': 1000,
    'time_embedding_dim': 20,
    'class_embed_type': 'timestep',
    'center_input_sample': True,
    'attention_head_dim': 4,
    'norm_num_groups': 4,
  },
  'no_middle': {
    'block_out_channels': (8,),
    'layers_per_block': 1,
    'down_block_types': ('DownBlock2D',),
    'up_block_types': ('UpBlock2D',),
    'mid_block_type': None,
    'act_fn': 'mish',
    'norm_num_groups': 2,
  },
  # google/ddpm-cifar10-32: 35.7 M parameters.
  'cifar10': {
    'block_out_channels': (128, 256, 256, 256),
    'layers_per_block': 2,
    'down_block_types': (
      'DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D', 'DownBlock2D',
    ),
    'up_block_types': (
      'UpBlock2D', 'UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D',
    ),
    'attention_head_dim': None,
    'norm_eps': 1e-6,
    'downsample_padding': 0,
    'flip_sin_to_cos': False,
    'freq_shift': 1,
  },
}  # fmt: skip


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
  """The same numbers for the same names everywhere, so no file holds them."""
  out = {}
  for name, shape in shapes.items():
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    value = rng.standard_normal(shape, np.float32)
    if len(shape) == 1:
      # Norm scales are about one, biases about zero: make both tell.
      value = 0.2 * value + float(name.endswith('weight'))
    elif 'embedding.weight' not in name:
      value = value * np.float32(1.0 / np.sqrt(np.prod(shape[1:])))
    out[name] = value
  return out
