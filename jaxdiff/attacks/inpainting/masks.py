"""Which pixels of an image are known, and which are hidden."""

from collections.abc import Callable

import numpy as np


def left_half(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """The paper's: the left half is hidden."""
  del rng
  return np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape[:2])


def centre(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """A box in the middle, of half the height and half the width, is hidden."""
  del rng
  known = np.ones(shape[:2], bool)
  top, left = shape[0] // 4, shape[1] // 4
  known[top : top + shape[0] // 2, left : left + shape[1] // 2] = False
  return known


def random_half(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Half of the pixels are hidden, others for every image."""
  known = np.arange(shape[0] * shape[1]) % 2 == 0
  return rng.permutation(known).reshape(shape[:2])


# Image shape and generator -> bool [H, W], True where a pixel is known.
MASKS: dict[str, Callable[..., np.ndarray]] = {
  'left': left_half,
  'centre': centre,
  'random': random_half,
}
