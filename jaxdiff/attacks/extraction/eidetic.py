"""k-eidetic memorisation: of how many training images is a leak a copy?

Carlini et al. (2023), sections 3.1 and 4.2 (figure 5): an image that a model
gives away is k-eidetic when at most k of its training images lie within a
distance delta of it, itself among them. k = 1 was learned from one image alone.

Near-duplicates that were cropped from a larger source differ by where the crop
lies: `shift` compares at every offset of up to so many pixels either way, on
what both show.
"""

import numpy as np

from jaxdiff.attacks.extraction import duplicates


def counts(
  chosen: np.ndarray, references: np.ndarray, delta: float, shift: int = 0
) -> np.ndarray:
  """How many references lie within delta of each chosen image: int [E].

  Args:
    chosen: uint8 [E, H, W, C].
    references: uint8 [N, H, W, C].
    delta: largest distance (RMSE).
    shift: pixels, below H and W.
  """
  near: list[set[int]] = [set() for _ in chosen]
  for dy in range(-shift, shift + 1):
    for dx in range(-shift, shift + 1):
      here = _overlap(chosen, dy, dx)
      there = _overlap(references, -dy, -dx)
      for copies, found in zip(
        near, duplicates.within(here, there, delta), strict=True
      ):
        copies.update(found)
  return np.array([len(copies) for copies in near], int)


def _overlap(images: np.ndarray, dy: int, dx: int) -> np.ndarray:
  """Without the rows and columns that an image moved by (dy, dx) leaves."""
  height, width = images.shape[1:3]
  return np.ascontiguousarray(
    images[
      :,
      max(dy, 0) : height + min(dy, 0),
      max(dx, 0) : width + min(dx, 0),
    ]
  )
