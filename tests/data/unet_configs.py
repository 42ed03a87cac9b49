"""Small UNet2DModel configurations whose outputs are pinned."""

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
}
