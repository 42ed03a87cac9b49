"""Eight small U-Nets on 256 real handwritten digits: the whole attack.

    launch/local.sh python -m launch.audit \
      --config=configs/digits.py --workdir=runs/digits

takes about 6 minutes on 2 CPU cores. Expect, with seed 0:

* LiRA over all 8 targets: AUC above 0.99, TPR above 0.95 at 1 % FPR;
* extraction from 2,048 samples a model: all training images but one, at a
  precision above 0.99: these nets remember everything.

With configs/digits.py:suite every membership attack is measured: SecMI, PIA,
PIAN, PFAMI, SimA, ReDiffuse, gradient norms and quantile regression too; 9
minutes. Expect an AUC of 1.000 of SimA and ReDiffuse, 0.95 of PFAMI, 0.94 of
PIAN; the loss threshold, at a timestep chosen on other models, 1.000.

With configs/digits.py:paper, inpainting, surrogate guidance and canaries too;
about 25 minutes. Expect inpaintings within 0.03 of the original by models that
trained on it and 0.16 by others, guided samples that hit less often than plain
ones, and full exposure of canaries from four copies on.

With configs/digits.py:paper_regime, sixteen nets on halves of 600 digits,
trained for 1,750 steps only: the shape of the paper's figures 9, 10 and 12,
where attacks differ; half an hour alone, 68 minutes beside other work. Expect,
at t = 100, an AUC of 0.71 of the loss threshold, 0.92 of LiRA and 0.98 of
Strong LiRA; at the paper's setting a third of the images is hit, at a precision
of 0.78. On all 1,797 digits, with data.num_examples=1797 and
train.num_steps=6000, sixteen nets have 0.64, 0.84 and 0.94 at t = 75; 68
minutes.
"""

from configs import common


def get_config(arg: str | None = None):
  """`suite`: every membership attack; `paper`: every attack there is.

  `paper_regime`: nets that remember some of what they saw, as the paper's do.
  """
  options = common.parse_arg(arg, suite=False, paper=False, paper_regime=False)
  c = common.get_defaults()
  c.name = 'digits'
  c.num_models = 8
  c.num_samples = 2048
  c.data.name = 'digits'
  c.data.num_examples = 256

  c.model.block_out_channels = (16, 32)
  c.model.layers_per_block = 1
  c.model.down_block_types = ('DownBlock2D', 'DownBlock2D')
  c.model.up_block_types = ('UpBlock2D', 'UpBlock2D')
  c.model.norm_num_groups = 8
  c.model.add_attention = True

  c.train.num_steps = 2500
  c.train.batch_size = 64
  c.train.learning_rate = 2e-3
  c.train.warmup_steps = 100
  c.train.decay = 'cosine'
  c.train.ema_decay = 0.99
  c.train.log_every = 50
  c.train.checkpoint_every = 500

  c.sample.num_steps = 40
  c.signals.draws = 8
  if options.suite or options.paper:
    c.signals.kinds = common.ALL_KINDS
    c.signals.published = True
  if options.paper:
    c.inpainting.num_images = 16
    c.inpainting.draws = 64
    c.inpainting.num_steps = 25
    c.inpainting.jump_length = 5
    c.inpainting.jump_n_sample = 4
    c.inpainting.loss_draws = 8
    c.side.num_samples = 1024
    c.side.num_learned = 1024
    # At SIDE's scale, 5, guided samples of these nets hit next to nothing.
    c.side.scale = 1.0
    c.side.num_clusters = 16
    c.side.num_steps = 600
    c.canaries.num_models = 3
    c.canaries.per_count = 4
  if options.paper_regime:
    c.name = 'digits_paper_regime'
    c.num_models = 16
    c.num_samples = 4096
    c.data.num_examples = 600
    # 373 epochs. By step 1000 nothing can be extracted, by 2500 the loss
    # threshold alone tells 12 % of the members at 1 % FPR.
    c.train.num_steps = 1750
    c.train.checkpoint_every = 250
    c.train.max_to_keep = 0
    c.train.decay = 'constant'
    c.train.ema_decay = 0.995
    c.sample.num_steps = 25
    c.signals.timesteps = (25, 50, 75, 100, 150)
  return c
