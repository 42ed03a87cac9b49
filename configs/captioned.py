"""Text-to-image models on emoji with captions, some of them many times there.

    JAXDIFF_EXTRAS=text,openmoji launch/local.sh python -m launch.audit \
      --config=configs/captioned.py:runlocal --workdir=runs/captioned

What duplication alone does: images differ in nothing but their number of
copies. Every model draws every caption, of images that it trained on and of
others; screens say which it knows by heart, cliques of generations find them,
and training images confirm it. `launch.export` writes a model as a pipeline
folder, which configs/pipeline.py takes, and diffusers loads. Another set:
`--config.data.name=image_folder --config.data.path=DIR`, with captions in
DIR/metadata.csv. The pictures are OpenMoji's (openmoji.org, CC BY-SA 4.0).
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal`: a pair of small models, 15 minutes on two CPU cores."""
  options = common.parse_arg(arg, runlocal=False)
  c = common.get_defaults('captioned')
  c.name = 'captioned'
  c.num_models = 16
  c.data.image_size = 32
  c.data.apart = 0.15
  c.data.copies = (2, 4, 8, 16)
  c.data.per_copies = 16
  c.model.block_out_channels = (64, 128, 128)
  c.model.down_block_types = (
    'DownBlock2D', 'CrossAttnDownBlock2D', 'CrossAttnDownBlock2D',
  )  # fmt: skip
  c.model.up_block_types = (
    'CrossAttnUpBlock2D', 'CrossAttnUpBlock2D', 'UpBlock2D',
  )  # fmt: skip
  c.train.num_steps = 40_000
  c.train.batch_size = 64
  c.train.learning_rate = 5e-4
  c.train.warmup_steps = 500
  c.train.decay = 'cosine'
  c.train.ema_decay = 0.999
  c.num_seeds = 16
  c.screen.kinds = common.SCREENS
  c.stream.num_seeds = 100
  if options.runlocal:
    c.num_models = 2
    c.data.image_size = 16
    c.data.num_examples = 256
    c.data.per_copies = 12
    c.model.block_out_channels = (24, 64)
    c.model.down_block_types = ('DownBlock2D', 'CrossAttnDownBlock2D')
    c.model.up_block_types = ('CrossAttnUpBlock2D', 'UpBlock2D')
    c.train.num_steps = 1000
    c.train.batch_size = 32
    c.train.learning_rate = 2e-3
    c.train.warmup_steps = 100
    c.train.ema_decay = 0.99
    c.train.checkpoint_every = 500
    c.num_seeds = 4
    # As many generations as minutes allow, and cliques of a quarter of them.
    c.screen.num_steps = 5
    c.screen.num_seeds = 6
    c.stream.num_seeds = 32
    c.cliques.min_size = 8
    c.sample.num_steps = 20
    c.sample.batch_size = 64
    c.sample.block_size = 256
    c.signals.timesteps = (50, 100, 200, 400)
    c.signals.draws = 4
    c.signals.batch_size = 64
    c.signals.block_size = 256
    c.membership.num_resamples = 200
  return c
