"""PDQ hashes of the images that are joined, and how these are shown."""

from typing import Any

from etils import epath
import numpy as np

from jaxdiff.data import descriptors, image_sets
from jaxdiff.runs import files
from jaxdiff.runtime import progress

# Images whose hashes are a file; sides of a picture on the page.
_ROWS, _SIDE = 4096, 64


class Thumbnails:
  """Images of a set, decoded when they are asked for."""

  def __init__(self, of: image_sets.ImageSet):
    """Of a set of images."""
    self._of = of

  def __len__(self) -> int:
    """Images."""
    return len(self._of)

  def __getitem__(self, row: int) -> np.ndarray:
    """uint8 [64, 64, 3], one image."""
    return next(self._of.decoded([int(row)], _SIDE, 3))


def of_set(
  of: image_sets.ImageSet,
  mirrored: bool,
  folder: epath.Path,
  made_of: dict[str, Any],
) -> tuple[np.ndarray, np.ndarray]:
  """`descriptors.pdq_hashes` of a whole set, packed, in files that are kept.

  Args:
    of: the set.
    mirrored: hash mirror images, too.
    folder: of the join.
    made_of: what dedup.json says of it.

  Returns:
    uint8 [N, 1 or 2, 32], and bool [N], whether a hash says anything.
  """
  made = []
  with progress.track(f'hash {of.key}', len(of), 'images', 0) as advance:
    for start in range(0, len(of), _ROWS):
      rows = np.arange(start, min(start + _ROWS, len(of)))
      name = f'{of.key.strip("-")}-{start:010d}.npz'
      path = folder / 'hashes' / name
      block = files.read_npz(path, 'bits', 'says')
      if block is None:
        bits, says = descriptors.pdq_hashes(of, rows, mirrored)
        block = {'bits': np.packbits(bits, axis=2), 'says': says}
        # What fails in the first of them leaves the folder for another try.
        files.write_json(folder / 'dedup.json', made_of)
        files.write_npz(path, **block)
      made.append(block)
      advance(len(rows))
  return (
    np.concatenate([block['bits'] for block in made]),
    np.concatenate([block['says'] for block in made]),
  )
