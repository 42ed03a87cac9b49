"""R3GANs on halves of CIFAR-10.

    launch/tpu_vm.sh run python -m launch.audit \
      --config=configs/cifar10_gan.py --workdir=gs://BUCKET/cifar10_gan

trains 16 of them (Huang et al. 2024; sizes and rates are ours, not checked
against the paper's). It was not run.
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal`: the same on 128 images, tiny, in minutes."""
  options = common.parse_arg(arg, runlocal=False)
  c = common.get_defaults('gan')
  c.name = 'cifar10_gan'
  c.num_models = 16
  c.num_samples = 2**20
  c.flip = True
  c.data.name = 'cifar10'
  c.model.generator_channels = (768, 768, 768, 768)
  c.model.discriminator_channels = (768, 768, 768, 768)
  c.model.cardinality = 96
  c.model.blocks_per_level = 2
  c.model.class_conditional = True
  c.model.dtype = 'bfloat16'
  c.train.num_steps = 200_000
  c.train.gamma = 0.05
  if options.runlocal:
    c.num_models = 6
    c.num_samples = 256
    c.data.num_examples = 128
    c.model.latent_size = 16
    c.model.generator_channels = (32, 32, 32)
    c.model.discriminator_channels = (32, 32, 32)
    c.model.cardinality = 8
    c.model.blocks_per_level = 1
    c.model.dtype = 'float32'
    c.train.num_steps = 400
    c.train.batch_size = 32
    c.train.learning_rate = 1e-3
    c.train.checkpoint_every = 200
    c.sample.batch_size = 64
    c.sample.block_size = 256
    c.membership.num_resamples = 200
  return c
