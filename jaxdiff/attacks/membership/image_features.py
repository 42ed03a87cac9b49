"""What an image looks like, in a few numbers, without any model."""

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import decomposition

_COMPONENTS = 32


def describe(images: np.ndarray) -> np.ndarray:
  """uint8 [N, H, W, C] -> float64 [N, F]: principal components and statistics.

  Per channel mean, spread and extremes, the mean step between neighbours, and
  as many principal components as the images allow, 32 at most.
  """
  pixels = images.astype(np.float32) / 255.0
  flat = pixels.reshape(len(pixels), -1)
  components = min(_COMPONENTS, len(flat) // 4, flat.shape[1])
  steps = [
    np.abs(np.diff(pixels, axis=axis)).mean(axis=(1, 2, 3))[:, None]
    for axis in (1, 2)
    if pixels.shape[axis] > 1
  ]
  reduced = decomposition.PCA(components, random_state=0).fit_transform(flat)
  space = (1, 2)
  return np.concatenate(
    [
      pixels.mean(axis=space), pixels.std(axis=space), pixels.max(axis=space),
      pixels.min(axis=space), *steps, reduced,
    ],
    axis=1,
    dtype=np.float64,
  )  # fmt: skip
