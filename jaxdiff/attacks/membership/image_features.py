"""What an image looks like, in a few numbers, without any model."""

from etils import epy
import numpy as np

from jaxdiff.metrics import pieces

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import decomposition

_COMPONENTS = 32


def describe(images: np.ndarray) -> np.ndarray:
  """uint8 [N, H, W, C] -> float64 [N, F]: principal components and statistics.

  Per channel mean, spread and extremes, the mean step between neighbours, and
  as many principal components as the images allow, 32 at most; fitted on some
  of them where they are many, and described piece by piece.
  """
  components = min(_COMPONENTS, len(images) // 4, images[0].size)
  pca = decomposition.PCA(components, random_state=0)
  (fitted,) = pieces.some(images)
  pca.fit(_pixels(fitted).reshape(len(fitted), -1))

  def of_piece(piece: np.ndarray) -> np.ndarray:
    pixels, space = _pixels(piece), (1, 2)
    steps = [
      np.abs(np.diff(pixels, axis=axis)).mean(axis=(1, 2, 3))[:, None]
      for axis in space
      if pixels.shape[axis] > 1
    ]
    return np.concatenate(
      [
        pixels.mean(axis=space), pixels.std(axis=space), pixels.max(axis=space),
        pixels.min(axis=space), *steps,
        pca.transform(pixels.reshape(len(pixels), -1)),
      ],
      axis=1,
      dtype=np.float64,
    )  # fmt: skip

  return pieces.mapped(of_piece, images)


def _pixels(images: np.ndarray) -> np.ndarray:
  return images.astype(np.float32) / 255.0
