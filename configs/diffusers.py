"""Does a model in a diffusers folder give away what it was trained on?

    launch/local.sh python -m launch.audit --config=configs/diffusers.py \
      --config.model=ddpm/ --config.training=train/ --config.holdout=heldout/ \
      --workdir=runs/ddpm

Any unconditional or class-conditional UNet2DModel, by itself or in a pipeline,
with the scheduler that it was trained with. It is sampled, its samples are
compared with the images, and its losses on both folders with each other. With
`--config.references=DIR,DIR`, models of the same net that were trained on other
images of the same source, membership is calibrated (offline LiRA and RMIA).
"""

from configs import common


def get_config(arg: str | None = None):
  """No arguments."""
  common.parse_arg(arg)
  return common.get_defaults('diffusers')
