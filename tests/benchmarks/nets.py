"""The nets that training and sampling are timed with, here and in diffusers.

Nothing here imports JAX before it is asked for our net: the peers' processes
hold the peers alone.
"""

import dataclasses

import numpy as np

from configs import common, digits
from tests.goldens import unet_configs


@dataclasses.dataclass(frozen=True)
class Case:
  """A net by UNet2DModel's arguments, and how it is trained."""

  model: dict
  image_shape: tuple[int, int, int]
  batch_size: int
  num_models: int = 1  # trained together, as the launcher would

  def config(self):
    c = common.get_defaults()
    for key, value in self.model.items():
      c.model[key] = 0 if value is None else value
    c.train.batch_size = c.sample.batch_size = self.batch_size
    c.num_models = self.num_models
    return c

  def diffusers(self):
    import diffusers

    height, _, channels = self.image_shape
    return diffusers.UNet2DModel(
      sample_size=height,
      in_channels=channels,
      out_channels=channels,
      **self.model,
    )

  def net(self):
    from jaxdiff.plans import model as plans_model

    return plans_model.make_net(self.config(), self.image_shape, 0)

  def images(self, count: int = 256):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (count, *self.image_shape), np.uint8)


def _digits() -> dict:
  model = digits.get_config().model
  return {
    key: model[key]
    for key in (
      'block_out_channels', 'layers_per_block', 'down_block_types',
      'up_block_types', 'norm_num_groups',
    )
  }  # fmt: skip


CASES = {
  'digits net': Case(_digits(), (8, 8, 1), 64, num_models=2),
  '(64, 128, 128)': Case(
    {
      'block_out_channels': (64, 128, 128),
      'layers_per_block': 2,
      'down_block_types': ('DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D'),
      'up_block_types': ('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D'),
    },
    (32, 32, 3),
    32,
  ),
  'CIFAR-10 net': Case(
    unet_configs.UNETS['cifar10'],
    (32, 32, 3),
    8,
  ),
}  # fmt: skip
