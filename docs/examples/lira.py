"""LiRA on losses of your own.

    python docs/examples/lira.py losses.npz

The file has `losses` [K, N] of K models on N examples, from whatever framework,
and `keep` bool [K, N]: model k trained on example n.
"""

import sys

import numpy as np

import jaxdiff

with np.load(sys.argv[1]) as file:
  losses, keep = file['losses'], file['keep']
for name, scores in (
  ('loss threshold', -losses),
  ('LiRA', jaxdiff.lira(losses, keep)),
  ('RMIA', jaxdiff.rmia(losses, keep)),
):
  for metric, found in jaxdiff.roc(scores, keep).items():
    if np.isfinite(found.value):
      print(
        f'{name}, {metric}: {found.value:.3f} ({found.low:.3f} to '
        f'{found.high:.3f}; newly trained models {found.low_models:.3f} to '
        f'{found.high_models:.3f})'
      )
