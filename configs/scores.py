"""Evaluate membership scores that another program measured.

    launch/local.sh python -m launch.audit --config=configs/scores.py \
      --config.path=scores.csv --workdir=runs/scores

A table model, example, member, score[, attack]; scores of members and of
non-members; signals of many models with who trained on what, as jaxdiff,
tensorflow/privacy or ml_privacy_meter write them (docs/scores.md). Signals of
several models are calibrated by LiRA and RMIA too.
"""

from configs import common


def get_config(arg: str | None = None):
  """No arguments."""
  common.parse_arg(arg)
  return common.get_defaults('scores')
