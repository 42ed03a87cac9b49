"""Fashion-MNIST, 28 x 28 grey: a study that one accelerator does in a day.

    launch/local.sh python -m launch.audit \
      --config=configs/fashion_mnist.py --workdir=runs/fashion_mnist

trains 16 class-conditional U-Nets on halves of the 60,000 training images; it
was not run. The images are read from where Debian's dataset-fashion-mnist puts
them; --config.data.path names another folder of the four IDX files.

    launch/local.sh python -m launch.audit \
      --config=configs/fashion_mnist.py:runlocal --workdir=runs/fashion_local

is the same on 128 images and 8 small nets: 25 minutes on 2 busy CPU cores.
`:runlocal,suite` measures every membership attack: 35 minutes.
Expect an AUC above 0.998 of loss threshold, SimA, ReDiffuse, LiRA, RMIA and
gradient norms, 0.97 of PFAMI, 0.96 of PIA, 0.52 of SecMI; 0.42 of the training
images extracted at a precision of 0.99. `:runlocal,paper` adds inpainting,
surrogate guidance and canaries; it was not run.
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal`: in minutes; `suite`: all of membership; `paper`: all."""
  options = common.parse_arg(arg, runlocal=False, suite=False, paper=False)
  c = common.get_defaults()
  c.name = 'fashion_mnist'
  c.num_models = 16
  c.num_samples = 2**14
  c.data.name = 'fashion_mnist'

  c.model.block_out_channels = (64, 128, 128)
  c.model.down_block_types = (
    'DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D',
  )  # fmt: skip
  c.model.up_block_types = ('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D')
  c.model.attention_head_dim = 64
  c.model.class_conditional = True
  c.model.dropout = 0.1
  c.model.dtype = 'bfloat16'
  c.train.num_steps = 200_000

  if options.paper:
    common.add_every_attack(c)
    c.side.num_learned = c.side.num_samples = 2**13
  if options.runlocal:
    c.num_models = 8
    c.num_samples = 512
    c.data.num_examples = 128
    c.model.block_out_channels = (16, 32, 32)
    c.model.layers_per_block = 1
    c.model.down_block_types = ('DownBlock2D',) * 3
    c.model.up_block_types = ('UpBlock2D',) * 3
    c.model.attention_head_dim = 8
    c.model.norm_num_groups = 8
    c.model.class_conditional = False
    c.model.dropout = 0.0
    c.model.dtype = 'float32'
    c.train.num_steps = 1600
    c.train.batch_size = 32
    c.train.learning_rate = 2e-3
    c.train.warmup_steps = 100
    c.train.decay = 'cosine'
    c.train.ema_decay = 0.99
    c.train.log_every = 50
    c.train.checkpoint_every = 400
    c.sample.num_steps = 25
    c.sample.batch_size = 128
    c.sample.block_size = 256
    c.signals.timesteps = (25, 50, 100, 200, 400)
    c.signals.draws = 4
    c.signals.batch_size = 128
    c.signals.block_size = 128
    common.shrink_attacks(c)
  if options.suite:
    c.signals.kinds = common.ALL_KINDS
    c.signals.published = True
  return c
