"""Generations on the host: how many at a time, and at which size."""

import numpy as np
from PIL import Image

# Bytes of generations that are held at a time.
_MOST_BYTES = 2**29


def prompts_at_once(per_prompt: int, shape: tuple[int, int, int]) -> int:
  """Prompts whose generations are held at a time, one at least.

  As float32 they are, before they are rounded.
  """
  return max(1, _MOST_BYTES // (per_prompt * 4 * int(np.prod(shape))))


def resized(images: np.ndarray, size: int) -> np.ndarray:
  """uint8 [n, H, W, C] as squares of a size, by Lanczos; whole sides."""
  if images.shape[1:3] == (size, size):
    return images
  out = [
    np.asarray(
      Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x).resize(
        (size, size), Image.Resampling.LANCZOS
      )
    )
    for x in images
  ]
  return np.stack(out).reshape(len(images), size, size, images.shape[-1])
