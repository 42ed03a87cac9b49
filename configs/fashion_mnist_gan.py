"""GANs on the images, halves and seeds of configs/fashion_mnist.py.

    launch/local.sh python -m launch.audit \
      --config=configs/fashion_mnist_gan.py --workdir=runs/fashion_gan

trains 16 class-conditional R3GANs on halves of the 60,000 training images; it
was not run. `:runlocal` is the same on 128 images, 8 nets of dense layers.
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal`: in minutes on two CPU cores."""
  options = common.parse_arg(arg, runlocal=False)
  c = common.get_defaults('gan')
  c.name = 'fashion_mnist_gan'
  c.num_models = 16
  c.num_samples = 2**14
  c.data.name = 'fashion_mnist'
  c.model.generator_channels = (256, 256, 128)
  c.model.discriminator_channels = (128, 256, 256)
  c.model.cardinality = 16
  c.model.class_conditional = True
  c.model.dtype = 'bfloat16'
  c.train.batch_size = 256
  if options.runlocal:
    c.num_models = 8
    c.num_samples = 512
    c.data.num_examples = 128
    c.model.net = 'mlp'
    c.model.latent_size = 32
    c.model.generator_channels = (512, 512)
    c.model.discriminator_channels = (512, 512)
    c.model.class_conditional = False
    c.model.dtype = 'float32'
    c.train.num_steps = 3000
    c.train.batch_size = 64
    c.train.learning_rate = 1e-3
    c.train.checkpoint_every = 500
    c.sample.batch_size = 128
    c.sample.block_size = 512
    c.membership.num_resamples = 200
  return c
