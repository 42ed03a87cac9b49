"""Keys of a model in a diffusers folder, audited without training any."""

from jaxdiff.schema import ensemble, folders
from jaxdiff.schema.key import Group, Key

_FOLDERS = folders.GROUPS[''][1]
_SAMPLE = ensemble.GROUPS['sample'][1]

GROUPS: dict[str, Group] = {
  '': (
    'What is audited',
    {
      'subject': Key('diffusers', 'kind of this config'),
      'name': Key('diffusers', 'of the audit, for the report'),
      'seed': Key(0, 'of everything that is drawn', 0, 2**31 - 1),
      'model': Key(
        '',
        'folder of a UNet2DModel and its scheduler, as save_pretrained of '
        "diffusers' DDPMPipeline or DDIMPipeline writes it",
        free=True,
      ),
      'references': Key(
        '',
        'folders of models of the same net that were trained on other images '
        'of the same source, separated by commas; two or more calibrate '
        'membership',
        free=True,
      ),
      'training': _FOLDERS['training'],
      'holdout': _FOLDERS['holdout'],
      'num_samples': Key(1024, 'of each model', 1, 2**40, grows='sample'),
      'flip': _FOLDERS['flip'],
      'skip_broken': _FOLDERS['skip_broken'],
    },
  ),
  'sample': (
    'Sampling',
    {
      'sampler': Key(
        '',
        "ddpm, ddim, plms, dpm_solver or heun; '' is the folder's, and ddim "
        'for other solvers',
      ),
      'num_steps': _SAMPLE['num_steps'],
      'eta': _SAMPLE['eta'],
      'classes': _SAMPLE['classes'],
      'batch_size': Key(64, 'of one model, over its devices', 1, 2**20),
      'block_size': Key(256, 'images a file', 1, 2**24),
    },
  ),
  'signals': ensemble.GROUPS['signals'],
  'membership': ensemble.GROUPS['membership'],
  'nearest_sample': ensemble.GROUPS['nearest_sample'],
  'quality': ensemble.GROUPS['quality'],
  'extraction': ensemble.GROUPS['extraction'],
}
