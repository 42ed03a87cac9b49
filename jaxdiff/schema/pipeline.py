"""Keys of a text-to-image pipeline in a folder, audited as it is."""

from jaxdiff.schema import ensemble, folders, prompts
from jaxdiff.schema.key import Group, Key

_FOLDERS = folders.GROUPS[''][1]
_SAMPLE = ensemble.GROUPS['sample'][1]
_SIGNALS = ensemble.GROUPS['signals'][1]
_CAPTIONED = (
  'a folder of images with captions, in metadata.csv (file_name, caption) or '
  'a .txt beside each'
)

GROUPS: dict[str, Group] = {
  '': (
    'What is audited',
    {
      'subject': Key('pipeline', 'kind of this config'),
      'name': Key('pipeline', 'of the audit, for the report'),
      'seed': Key(0, 'of everything that is drawn', 0, 2**31 - 1),
      'model': Key(
        '',
        "folder of Stable Diffusion 1, 2 or XL in diffusers' layout, with "
        'model_index.json',
        free=True,
      ),
      'lora': Key(
        '',
        'adapters that are added to its weights: safetensors files of '
        "diffusers' or kohya's names, separated by commas, each perhaps with "
        '*0.8, its weight',
        free=True,
      ),
      'references': Key(
        '',
        'folders of pipelines of the same nets that were trained on other '
        'images of the same source, separated by commas; two or more calibrate '
        'membership',
        free=True,
      ),
      'dtype': Key(
        'float32',
        'float32, or bfloat16: of weights and products; halves the memory, and '
        'is what TPUs multiply fastest',
      ),
      'weights': Key(
        'auto',
        'on devices that draw: whole on each; cut, a part on each, gathered '
        'where it is used; or auto: whole if that is less than half of a chip',
        free=True,
      ),
      'prompts': Key(
        '',
        'what is drawn: a .txt with a prompt a line, or .csv, .jsonl or '
        '.parquet with prompt (or text, or caption) and optionally id; or '
        "'captions', those of training and holdout",
        free=True,
      ),
      'held_out_prompts': Key(
        '',
        'the same, of prompts from the same source that it was not trained on: '
        'what is found among them is the false alarm',
        free=True,
        late=True,
      ),
      'num_seeds': Key(
        4, 'images of each prompt that are kept; 0 keeps none', 0, 2**31,
        grows='sample',
      ),
      'training': Key('', f'what it was trained on: {_CAPTIONED}', free=True),
      'holdout': Key(
        '',
        'images of the same source that it was not trained on, without which '
        f'there is no membership: {_CAPTIONED}',
        free=True,
      ),
      'skip_broken': _FOLDERS['skip_broken'],
    },
  ),
  'sample': (
    'Sampling',
    {
      'sampler': Key(
        '',
        "ddpm, ddim, plms, dpm_solver or heun; '' is the solver of the folder",
      ),
      'num_steps': Key(50, 'denoising steps', 1, 10_000),
      'guidance_scale': Key(
        7.5, 'of classifier-free guidance; 1 is none, at half the cost', 0.0,
        1000.0,
      ),
      'eta': _SAMPLE['eta'],
      'height': Key(0, "of images; 0 is the folder's", 0, 8192),
      'width': Key(0, "of images; 0 is the folder's", 0, 8192),
      'batch_size': Key(
        8, 'images at a time, over all devices', 1, 2**20, free=True
      ),
      'decode_batch_size': Key(
        4, 'latents decoded at a time, over all devices', 1, 2**20, free=True
      ),
      'block_size': Key(64, 'images a file', 1, 2**24),
      'pictures': Key(
        True,
        'every image as PNG in pictures/, by numbers of prompt and seed',
        free=True,
      ),
    },
  ),
  **prompts.GROUPS,
  'signals': (
    'Signals for membership',
    {
      'kinds': Key(
        ('loss', 'clid'),
        'loss, and some of secmi, pia, pian, sima, rediffuse, clid',
      ),
      'timesteps': Key((50, 100, 200, 300, 400, 600), '0-based'),
      'draws': Key(3, 'noise draws of the loss', 1, 1000),
      'stride': _SIGNALS['stride'],
      'variations': _SIGNALS['variations'],
      'variation_stride': _SIGNALS['variation_stride'],
      'batch_size': Key(
        8, 'images at a time, over all devices', 1, 2**20, free=True
      ),
      'block_size': Key(256, 'images a file', 1, 2**24),
    },
  ),
  'membership': (
    'Membership',
    ensemble.GROUPS['membership'][1]
    | {'timestep': Key(300, 'of rule fixed', 0, 10**6)},
  ),
  'extraction': (
    'Near-duplicates',
    {
      'duplicate_distance': ensemble.GROUPS['extraction'][1][
        'duplicate_distance'
      ],
    },
  ),
}  # fmt: skip
