"""Keys of an ensemble of GANs that the run trains itself."""

from jaxdiff.schema import ensemble
from jaxdiff.schema.key import Group, Key

_OF = {name: keys for name, (_, keys) in ensemble.GROUPS.items()}


def _some(group: str, *names: str) -> dict[str, Key]:
  return {name: _OF[group][name] for name in names}


GROUPS: dict[str, Group] = {
  '': (
    'The experiment',
    {'subject': Key('gan', 'kind of this config'), **_OF['']},
  ),
  'data': ensemble.GROUPS['data'],
  'model': (
    'Generator and discriminator (models/gan.py)',
    {
      'net': Key(
        'conv', 'conv, or mlp, whose channels are widths of dense layers'
      ),
      'latent_size': Key(64, 'numbers that an image is made from', 1, 2**16),
      'generator_channels': Key(
        (768, 768, 768, 768), 'of each level, from the smallest images'
      ),
      'discriminator_channels': Key(
        (768, 768, 768, 768), 'of each level, from the largest images'
      ),
      'blocks_per_level': Key(1, 'residual blocks', 1, 64),
      'expansion': Key(2, 'of channels within a block', 1, 64),
      'cardinality': Key(1, 'groups of 3x3 convolutions', 1, 16384),
      **_some('model', 'class_conditional', 'dtype'),
    },
  ),
  'train': (
    'Training (training/adversarial.py)',
    {
      'num_steps': Key(100_000, 'of each model', 1, 2**32),
      'batch_size': Key(512, 'images a step', 1, 2**20),
      'learning_rate': Key(2e-4, 'of Adam', 1e-12, 10.0),
      'decay': Key('cosine', 'of the learning rate: constant or cosine'),
      'beta2': Key(0.99, 'of Adam, whose beta1 is 0', 0.0, 1.0 - 1e-9),
      'gamma': Key(1.0, 'of the penalties R1 and R2', 0.0, 1e9),
      'ema_decay': Key(0.999, 'of the averaged weights', 0.0, 1.0 - 1e-9),
      **_some(
        'train', 'stop_at', 'models_per_block', 'log_every', 'checkpoint_every',
        'max_to_keep', 'devices_per_model', 'profile_steps',
      ),
    },
  ),
  'sample': (
    'Sampling', _some('sample', 'classes', 'batch_size', 'block_size'),
  ),
  'signals': (
    'Signals of membership (attacks/membership/signals/discriminator.py)',
    {
      'kinds': Key(
        ('discriminator', 'relativistic'), 'some of discriminator, relativistic'
      ),
      'fakes': Key(
        64, 'generated images a class that relativistic compares with', 1,
        2**20,
      ),
      **_some('signals', 'batch_size', 'block_size'),
    },
  ),
  'membership': (
    'Membership', _some('membership', 'variance', 'num_resamples'),
  ),
  **{
    name: ensemble.GROUPS[name]
    for name in ('nearest_sample', 'quality', 'extraction')
  },
}  # fmt: skip
