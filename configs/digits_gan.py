"""Eight GANs on the images, halves and seeds of configs/digits.py.

    launch/local.sh python -m launch.audit \
      --config=configs/digits_gan.py --workdir=runs/digits_gan

What they give away by the same attacks, beside diffusion models by training
step: launch.attack_checkpoints of both, then launch.compare.
"""

from configs import common


def get_config(arg: str | None = None):
  """`conv`: convolutional nets in place of dense layers, 10 times as slow."""
  options = common.parse_arg(arg, conv=False)
  c = common.get_defaults('gan')
  c.name = 'digits_gan'
  c.num_models = 8
  c.num_samples = 2048
  c.data.name = 'digits'
  c.data.num_examples = 256
  c.model.net = 'mlp'
  c.model.latent_size = 32
  c.model.generator_channels = (256, 256)
  c.model.discriminator_channels = (256, 256)
  c.model.class_conditional = True
  c.train.num_steps = 2500
  c.train.batch_size = 64
  c.train.learning_rate = 2e-3
  c.train.log_every = 50
  c.train.checkpoint_every = 250
  if options.conv:
    c.model.net = 'conv'
    c.model.generator_channels = (32, 32)
    c.model.discriminator_channels = (32, 32)
  return c
