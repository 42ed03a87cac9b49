"""DP-SGD on Fashion-MNIST: how good can samples be at a proven epsilon?

    launch/local.sh python -m launch.audit \
      --config=configs/fashion_mnist_private.py --workdir=runs/fashion_private

trains class-conditional U-Nets that keep to epsilon = 10 (`:epsilon=1` to 1)
and delta = 1e-5, on about half of the 60,000 images each, and says what a
classifier learns from their samples; it was not run. `:runlocal` is one small
net on images of 14 x 14: 19 minutes on two busy CPU cores; expect a classifier
to be right on 0.77 of real images, at `:runlocal,epsilon=1` on 0.755.
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal`: in minutes on two CPU cores; `epsilon`: of the guarantee."""
  options = common.parse_arg(arg, runlocal=False, epsilon=10.0)
  c = common.get_defaults()
  c.name = 'fashion_mnist_private'
  c.num_models = 16
  c.num_samples = 2**14
  c.split = 'bernoulli'
  c.data.name = 'fashion_mnist'
  c.private.epsilon = options.epsilon
  c.private.multiplicity = 32
  # Together 0.5 of an epsilon of 1, and 1.4 of one of 10.
  noise = 10.0 if options.epsilon < 5 else 4.0
  c.private.warm_releases = 1
  c.private.warm_share = 1.0
  c.private.warm_noise = c.private.warm_covariance = noise
  c.private.warm_steps = 1000
  c.diffusion.prediction_type = 'v_prediction'
  c.model.block_out_channels = (64, 128, 128)
  c.model.down_block_types = ('DownBlock2D',) * 3
  c.model.up_block_types = ('UpBlock2D',) * 3
  c.model.class_conditional = True
  c.train.batch_size = 4096
  c.train.num_steps = 3000
  c.train.warmup_steps = 100
  c.train.checkpoint_every = 200
  c.train.clip_norm = 0.0
  c.train.ema_decay = 0.99
  if options.runlocal:
    c.num_models = 1
    c.num_samples = 4096
    c.data.downscale = 2
    c.private.multiplicity = 1
    c.model.block_out_channels = (8, 16)
    c.model.layers_per_block = 1
    c.model.down_block_types = ('DownBlock2D',) * 2
    c.model.up_block_types = ('UpBlock2D',) * 2
    c.model.norm_num_groups = 4
    c.train.batch_size = 256
    c.train.num_steps = 1300
    c.train.learning_rate = 4e-3
    c.train.warmup_steps = 50
    c.train.decay = 'cosine'
    c.train.log_every = 10
    c.train.checkpoint_every = 100
    c.sample.num_steps = 20
    c.sample.batch_size = 256
    c.sample.block_size = 2048
    c.signals.timesteps = (100,)
    c.signals.draws = 1
    c.signals.batch_size = 256
    c.signals.block_size = 2048
    c.membership.num_resamples = 200
  return c
