"""CIFAR-10, unconditional: the extraction study (Carlini et al. 2023, 5.1).

    launch/local.sh python -m launch.audit \
      --config=configs/cifar10.py --workdir=runs/cifar10 \
      --config.data.path=cifar-10-binary.tar.gz

trains 16 nets of 35.7 M parameters (google/ddpm-cifar10-32's architecture) on
random halves, 800,000 steps of 128 each, and draws 2^20 images in all. It was
not run; `--dry_run` counts 57 hours of one H100 at 30 % of its peak. The paper
found 1,280 of the 50,000 images in 2^20 samples of its 16 models.

    ... --config=configs/cifar10.py:paper

adds what else the paper does, and what came after it: every signal, inpainting
(5.3; most of the work: RePaint takes some 2,400 steps an inpainting, 5,000
inpaintings an image), surrogate guidance and canaries (7.3). Not run.

    ... --config=configs/cifar10.py:runlocal

is the same on 128 images with 6 tiny nets: minutes on 2 cores (not timed), and
too short to memorise much.
"""

from configs import common


def get_config(arg: str | None = None):
  """`paper`: every attack; `runlocal` shrinks all to minutes on a laptop."""
  options = common.parse_arg(arg, runlocal=False, paper=False)
  c = common.get_defaults()
  c.name = 'cifar10'
  c.num_models = 16
  c.num_samples = 2**16
  c.split = 'independent'
  c.flip = True
  c.data.name = 'cifar10'
  c.model.attention_head_dim = 0
  c.model.norm_eps = 1e-6
  c.model.downsample_padding = 0
  c.model.flip_sin_to_cos = False
  c.model.freq_shift = 1.0
  c.model.dropout = 0.1
  c.model.dtype = 'bfloat16'
  c.train.models_per_block = 16
  c.sample.batch_size = 128
  if options.paper:
    common.add_every_attack(c)
  if options.runlocal:
    common.shrink(c)
  return c
