"""What does a text-to-image pipeline draw, and was it trained on these images?

    launch/local.sh python -m launch.sample --config=configs/pipeline.py \
      --config.model=sd/ --config.prompts=prompts.csv --workdir=runs/sd

Any folder of Stable Diffusion 1, 2 or XL in diffusers' layout. An image depends
on the text of its prompt and the number of its seed alone: the same whatever
the order of the prompts. With `--config.training=train/` and
`--config.holdout=heldout/`, folders of images with captions, launch.audit
measures membership, too. JAXDIFF_EXTRAS=text before launch/local.sh brings the
tokenizer.
"""

from configs import common


def get_config(arg: str | None = None):
  """No arguments."""
  common.parse_arg(arg)
  return common.get_defaults('pipeline')
