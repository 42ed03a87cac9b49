"""Your own folder of images: what would a diffusion model give away of them?

    launch/local.sh python -m launch.audit \
      --config=configs/image_folder.py --workdir=runs/mine \
      --config.data.path=/path/to/images --config.data.image_size=32

Sub-folders are classes; a `metadata.csv` may name labels, and groups (say, one
person's photographs) that stay on one side of every split. Images are cut to
their centre square and resized. Eight nets of 6.5 M parameters on random
halves: about an hour of one GPU for 10,000 images of 32 x 32 (not run).

    ... --config=configs/image_folder.py:runlocal

takes 128 of the images and 6 tiny nets: minutes on 2 cores (not timed).
"""

from configs import common


def get_config(arg: str | None = None):
  """`runlocal` shrinks the study to minutes on a laptop."""
  options = common.parse_arg(arg, runlocal=False)
  c = common.get_defaults()
  c.name = 'image_folder'
  c.data.name = 'image_folder'
  c.num_models = 8
  c.num_samples = 2**14
  c.model.block_out_channels = (64, 128, 128)
  c.model.down_block_types = (
    'DownBlock2D', 'AttnDownBlock2D', 'DownBlock2D',
  )  # fmt: skip
  c.model.up_block_types = ('UpBlock2D', 'AttnUpBlock2D', 'UpBlock2D')
  c.model.attention_head_dim = 64
  c.model.dtype = 'bfloat16'
  c.train.num_steps = 50_000
  c.train.warmup_steps = 1000
  c.train.ema_decay = 0.999
  if options.runlocal:
    common.shrink(c)
  return c
