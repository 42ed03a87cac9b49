"""Generations on the host: how many at a time, and at which size."""

from collections.abc import Iterator

import numpy as np
from PIL import Image

from jaxdiff.runs import blocks

# Bytes of generations that are held at a time.
_MOST_BYTES = 2**29


def prompts_at_once(per_prompt: int, shape: tuple[int, int, int]) -> int:
  """Prompts whose generations, 8-bit images, are held at a time; at least one.

  Args:
    per_prompt: images of a prompt, of all models that are worked on together.
    shape: of an image.
  """
  return max(1, _MOST_BYTES // (per_prompt * int(np.prod(shape))))


def parts(
  count: int, num_models: int, shape: tuple[int, int, int]
) -> Iterator[slice]:
  """Images that are asked for at once: as float32 they take so much, too.

  Args:
    count: images of each model.
    num_models: that are worked on together.
    shape: of an image.
  """
  step = max(1, _MOST_BYTES // (4 * num_models * int(np.prod(shape))))
  for rows in blocks.spans(count, step):
    yield slice(int(rows[0]), int(rows[-1]) + 1)


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
