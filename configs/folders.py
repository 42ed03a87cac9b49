"""Do generated images give away training images? Two folders and a hold-out.

    launch/local.sh python -m launch.audit --config=configs/folders.py \
      --config.generated=samples/ --config.training=train/ \
      --config.holdout=heldout/ --workdir=runs/folders

A folder of image files, an .npz of them, or a folder with images.npy. Images of
any size are cropped to squares and compared at one size. Held-out images are
images of the same source that the generator was not trained on: without them
near images are listed, but nobody can say how many are accidents. With
`--config.references=DIR,DIR,DIR`, samples of generators that were trained on
other images of the same source, membership is calibrated.
"""

from configs import common


def get_config(arg: str | None = None):
  """No arguments."""
  common.parse_arg(arg)
  return common.get_defaults('folders')
