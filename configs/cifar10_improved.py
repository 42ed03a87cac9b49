"""CIFAR-10 with improved-diffusion's net (Nichol & Dhariwal 2021).

    launch/local.sh python -m launch.audit \
      --config=configs/cifar10_improved.py --workdir=runs/cifar10_improved \
      --config.data.path=cifar-10-binary.tar.gz

Of the 52.5 M parameters, some put out the variance: six output channels,
trained by the hybrid loss on a cosine schedule of 4,000 steps, and sampled in
250 of them (section 5.1's code and defaults). It was not run; `--dry_run`
counts 50 hours of one H100 at 30 % of its peak. The paper reports a FID below
4.

    ... --config=configs/cifar10_improved.py:runlocal

is the same on 128 images with 6 tiny nets: minutes on 2 cores (not timed).
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal` shrinks the study to minutes on a laptop."""
  options = common.parse_arg(arg, runlocal=False)
  c = common.get_defaults()
  c.name = 'cifar10_improved'
  c.num_models = 16
  c.num_samples = 2**16
  c.split = 'independent'
  c.data.name = 'cifar10'
  c.model.layers_per_block = 3
  c.model.down_block_types = (
    'DownBlock2D', 'AttnDownBlock2D', 'AttnDownBlock2D', 'DownBlock2D',
  )  # fmt: skip
  c.model.up_block_types = (
    'UpBlock2D', 'AttnUpBlock2D', 'AttnUpBlock2D', 'UpBlock2D',
  )  # fmt: skip
  c.model.attention_head_dim = 64
  c.model.attn_norm_num_groups = 32
  c.model.resnet_time_scale_shift = 'scale_shift'
  c.model.learned_variance = True
  c.model.dropout = 0.3
  c.model.dtype = 'bfloat16'
  c.diffusion.beta_schedule = 'squaredcos_cap_v2'
  c.diffusion.num_train_timesteps = 4000
  c.train.num_steps = 500_000
  c.train.learning_rate = 1e-4
  c.train.warmup_steps = 0
  c.train.clip_norm = 0.0
  c.train.models_per_block = 16
  c.sample.batch_size = 128
  c.sample.sampler = 'ddpm'
  c.sample.num_steps = 250
  c.sample.timestep_spacing = 'linspace'
  c.sample.variance = 'learned_range'
  c.signals.timesteps = (40, 100, 200, 300, 400, 600, 800, 1200, 1600, 2400)
  c.membership.timestep = 400
  if options.runlocal:
    common.shrink(c)
  return c
