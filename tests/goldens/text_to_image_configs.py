"""Small pipelines of each family, whose random weights have names alone.

By the keys of diffusers' and transformers' `config.json`; no torch here.
"""

_TEXT = {
  'vocab_size': 99, 'hidden_size': 16, 'intermediate_size': 24,
  'num_hidden_layers': 3, 'num_attention_heads': 2,
  'max_position_embeddings': 12,
}  # fmt: skip
_UNET = {
  'in_channels': 4, 'out_channels': 4, 'layers_per_block': 1,
  'norm_num_groups': 4,
}  # fmt: skip
_VAE = {'block_out_channels': (8, 12), 'norm_num_groups': 4}

TEXTS = {
  # CLIP-L of SD 1: the end is the largest token.
  'sd1': {**_TEXT, 'hidden_act': 'quick_gelu', 'eos_token_id': 2},
  # OpenCLIP-H of SD 2.
  'sd2': {**_TEXT, 'hidden_act': 'gelu', 'eos_token_id': 2},
  # OpenCLIP-bigG of SDXL, with projection; the end is the first of its token.
  'sdxl': {
    **_TEXT, 'hidden_act': 'gelu', 'eos_token_id': 98, 'projection_dim': 20,
  },
}  # fmt: skip

UNETS = {
  # Convolutions around the transformers, 8 heads in the folders of all levels.
  'sd1': {
    **_UNET,
    'block_out_channels': (8, 12, 16),
    'down_block_types': (
      'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D', 'DownBlock2D',
    ),
    'up_block_types': (
      'UpBlock2D', 'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D',
    ),
    'attention_head_dim': 2,
    'cross_attention_dim': 16,
  },
  # Dense layers around them, heads a level, products in float32.
  'sd2': {
    **_UNET,
    'layers_per_block': 2,
    'block_out_channels': (8, 16),
    'down_block_types': ('CrossAttnDownBlock2D', 'DownBlock2D'),
    'up_block_types': ('UpBlock2D', 'CrossAttnUpBlock2D'),
    'attention_head_dim': (2, 4),
    'cross_attention_dim': 16,
    'use_linear_projection': True,
    'upcast_attention': True,
  },
  # Blocks a level, sizes and pooled text.
  'sdxl': {
    **_UNET,
    'block_out_channels': (8, 16),
    'down_block_types': ('DownBlock2D', 'CrossAttnDownBlock2D'),
    'up_block_types': ('CrossAttnUpBlock2D', 'UpBlock2D'),
    'attention_head_dim': (2, 4),
    'transformer_layers_per_block': (1, 3),
    'cross_attention_dim': 16,
    'use_linear_projection': True,
    'addition_embed_type': 'text_time',
    'addition_time_embed_dim': 6,
    'projection_class_embeddings_input_dim': 20 + 6 * 6,
  },
}  # fmt: skip

TRANSFORMERS = {
  f'linear_{linear}': {
    'num_attention_heads': 2, 'attention_head_dim': 4, 'in_channels': 8,
    'num_layers': 2, 'cross_attention_dim': 16, 'norm_num_groups': 4,
    'use_linear_projection': linear,
  }
  for linear in (False, True)
}  # fmt: skip

AUTOENCODERS = {
  'sd1': {**_VAE, 'layers_per_block': 2, 'latent_channels': 4},
  # As of 16 channels: no convolutions around the latents.
  'sd3': {
    **_VAE, 'layers_per_block': 1, 'latent_channels': 6,
    'use_quant_conv': False, 'use_post_quant_conv': False,
  },
}  # fmt: skip


def quieter(state: dict) -> dict:
  """Weights of a transformer whose norms see numbers near their epsilons."""
  small = {key: 0.003 * state[key] for key in state if 'proj_in' in key}
  return state | small


def blocks(config: dict) -> dict:
  """What `AutoencoderKL` asks for beside a configuration above."""
  levels = len(config['block_out_channels'])
  return {
    'down_block_types': ('DownEncoderBlock2D',) * levels,
    'up_block_types': ('UpDecoderBlock2D',) * levels,
  }
