"""Large sets of images, piece by piece: as floats memory may not hold them."""

from collections.abc import Callable

import numpy as np

# Bytes, at eight a number, of the images that features are fitted on, and of
# those that are described together.
_FITTED, _PIECE = 2**30, 2**28


def _count(images: np.ndarray, limit: int) -> int:
  """How many images of a set the limit holds."""
  return max(256, limit // (8 * images[0].size))


def some(images: np.ndarray, *more: np.ndarray) -> tuple[np.ndarray, ...]:
  """All images, or as many as features may be fitted on, evenly spread.

  Args:
    images: [N, ...].
    *more: what belongs to them, [N, ...] each.
  """
  step = -(-len(images) // _count(images, _FITTED))
  return tuple(array[::step] for array in (images, *more))


def mapped(
  describe: Callable[[np.ndarray], np.ndarray], images: np.ndarray
) -> np.ndarray:
  """describe(images) [N, F], where it says the same of each by itself."""
  count = _count(images, _PIECE)
  return np.concatenate(
    [
      describe(images[start : start + count])
      for start in range(0, len(images), count)
    ]
  )
