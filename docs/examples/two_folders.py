"""Does a folder of generated images give training images away?

    python docs/examples/two_folders.py generated/ training/ control/

All images of one size. The control: images of the same source that the model
never saw, about as many as it trained on.
"""

import pathlib
import sys

import numpy as np
from PIL import Image

import jaxdiff


def read(folder: str) -> np.ndarray:
  """Images of a folder: uint8 [n, H, W, 3]."""
  files = sorted(pathlib.Path(folder).iterdir())
  return np.stack([np.asarray(Image.open(f).convert('RGB')) for f in files])


generated, training, control = map(read, sys.argv[1:4])
found = jaxdiff.extract(
  generated,
  training,
  control,
  num_neighbours=min(50, len(training) // 4, len(control) // 4),
)
print(
  f'{found.extracted} training images and {found.control} of the control are '
  f'hit: a precision of {found.precision:.2f} ({found.low:.2f} to '
  f'{found.high:.2f})'
)
print(found.matches.head(10).to_string(index=False))
