"""Keys of an ensemble of text-to-image models that the run trains itself."""

from jaxdiff.schema import ensemble, prompts
from jaxdiff.schema.key import Group, Key

_OF = {name: keys for name, (_, keys) in ensemble.GROUPS.items()}


def _some(group: str, *names: str) -> dict[str, Key]:
  return {name: _OF[group][name] for name in names}


GROUPS: dict[str, Group] = {
  '': (
    'The experiment',
    {
      'subject': Key('captioned', 'kind of this config'),
      'name': Key('captioned', 'of the experiment'),
      'num_seeds': Key(
        4, 'images of each caption, of each model, that are kept', 1, 2**31,
        grows='sample',
      ),
      **_some('', 'seed', 'num_models', 'split', 'flip'),
    },
  ),
  'data': (
    'Images and their captions',
    {
      'name': Key(
        'openmoji',
        'openmoji (the extra openmoji), or image_folder: with captions in '
        'metadata.csv (file_name, caption) or a .txt beside each image',
      ),
      'path': _OF['data']['path'],
      'num_examples': Key(0, 'distinct images; 0 takes all', 0, 2**40),
      'image_size': Key(16, 'sides, of images cropped to a square', 1, 4096),
      'apart': Key(
        0.0,
        'RMSE: of images that are nearer to each other, one is left out, so '
        'that what is near to an image is a copy of it',
        0.0,
        1.0,
      ),
      'copies': Key(
        (), 'numbers of copies, like (2, 4, 8, 16); all other images are single'
      ),
      'per_copies': Key(16, 'images for each number of copies', 1, 2**20),
      **_some('data', 'device_megabytes', 'skip_broken'),
    },
  ),
  'text': (
    "The text encoder; names and meaning of transformers' CLIPTextConfig",
    {
      'num_merges': Key(
        800, 'pairs of letters and parts that become tokens', 0, 2**17
      ),
      'length': Key(16, 'tokens of a caption, with begin and end', 3, 4096),
      'hidden_size': Key(64, 'numbers of a token', 1, 16384),
      'intermediate_size': Key(128, 'of the dense layers', 1, 2**18),
      'num_hidden_layers': Key(2, 'layers', 2, 256),
      'num_attention_heads': Key(4, 'of each layer', 1, 16384),
    },
  ),
  'model': (
    "The denoiser; names and meaning of diffusers' UNet2DConditionModel",
    {
      'block_out_channels': Key((24, 64), 'channels of each level'),
      'layers_per_block': Key(1, 'residual blocks of each level', 1, 64),
      'down_block_types': Key(
        ('DownBlock2D', 'CrossAttnDownBlock2D'), 'levels on the way down'
      ),
      'up_block_types': Key(
        ('CrossAttnUpBlock2D', 'UpBlock2D'), 'levels on the way up'
      ),
      'attention_head_dim': Key(
        2, "number of heads: diffusers' name is a mistake", 1, 16384
      ),
      'transformer_layers_per_block': Key(1, 'of each transformer', 1, 64),
      'norm_num_groups': Key(8, 'of the group norms', 1, 16384),
      'dtype': _OF['model']['dtype'],
    },
  ),
  'diffusion': (
    ensemble.GROUPS['diffusion'][0],
    _OF['diffusion']
    | {
      'beta_schedule': Key(
        'scaled_linear', 'linear, scaled_linear or squaredcos_cap_v2'
      ),
      'beta_start': Key(0.00085, 'beta of the first timestep', 1e-9, 0.999),
      'beta_end': Key(0.012, 'beta of the last timestep', 1e-9, 0.999),
    },
  ),
  'train': (
    'Training',
    {
      name: key for name, key in _OF['train'].items()
      if name not in ('label_noise', 'ambient_timestep')
    }
    | {
      'label_dropout': Key(
        0.1, 'share of empty captions, for classifier-free guidance', 0.0, 1.0
      )
    },
  ),
  'sample': (
    'Sampling',
    {
      'sampler': _OF['sample']['sampler'],
      'num_steps': Key(50, 'denoising steps', 1, 10**6),
      'guidance_scale': Key(
        3.0, 'of classifier-free guidance; 1 is none, at half the cost', 0.0,
        1000.0,
      ),
      'eta': _OF['sample']['eta'],
      **_some('sample', 'batch_size', 'block_size'),
    },
  ),
  'signals': (
    ensemble.GROUPS['signals'][0],
    _OF['signals']
    | {
      'kinds': Key(
        ('loss', 'clid'),
        'loss, and some of secmi, pia, pian, pfami, sima, rediffuse, gsa, clid',
      ),
    },
  ),
  **prompts.GROUPS,
  **{
    name: ensemble.GROUPS[name]
    for name in ('membership', 'nearest_sample', 'quality', 'extraction')
  },
}  # fmt: skip
