"""Frechet distance between two sets of images, by the features of a model.

(1)  d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1^1/2 C2 C1^1/2)^1/2)

of the means and covariances of features, as if these were normal (Dowson &
Landau 1982; Heusel et al. 2017). The number means nothing without the features:
on Inception-v3's it is FID; on `PcaLogits` it is FD-PCA here, which needs no
weights from elsewhere, is for comparisons within one data set alone, and must
not be read beside a published FID.

Few images bias (1) upwards, the more the fewer there are on either side
(Chong & Forsyth 2020): two distances compare only where both sides have as many
images as both sides of the other. `with_interval` therefore takes as many of
each set as of the other, and as the caller says.
"""

from typing import NamedTuple

from etils import epy
import numpy as np

from jaxdiff.metrics import pieces

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import decomposition, linear_model

# Components of FD-PCA; fewer where there are fewer pixels or images.
_COMPONENTS = 64


class Moments(NamedTuple):
  """Mean [F] and covariance [F, F] of features, float64."""

  mean: np.ndarray
  covariance: np.ndarray


def moments(features: np.ndarray) -> Moments:
  """Of features [n, F], n >= 2."""
  features = np.asarray(features, np.float64)
  if len(features) < 2:
    raise ValueError(f'{len(features)} images have no covariance')
  return Moments(features.mean(axis=0), np.cov(features, rowvar=False, ddof=1))


def distance(first: Moments, second: Moments) -> float:
  """Equation (1), d^2, as FID is given; 0 for equal moments."""
  c1, c2 = np.atleast_2d(first.covariance), np.atleast_2d(second.covariance)
  values, vectors = np.linalg.eigh(c1)
  root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
  middle = np.linalg.eigvalsh(root @ c2 @ root)
  cross = np.sqrt(np.maximum(middle, 0.0)).sum()
  square = np.square(first.mean - second.mean).sum()
  return max(0.0, float(square + np.trace(c1) + np.trace(c2) - 2.0 * cross))


class PcaLogits:
  """64 principal components, scaled, and class logits: features of FD-PCA."""

  def __init__(self, images: np.ndarray, labels: np.ndarray):
    """Fits both.

    Args:
      images: uint8 [n, H, W, C], to fit on: a training split, of which some
        do where it is large.
      labels: int [n]; of a single class there are no logits.
    """
    images, labels = pieces.some(images, labels)
    flat = _flat(images)
    count = min(_COMPONENTS, *flat.shape)
    self._pca = decomposition.PCA(count, random_state=0).fit(flat)
    variances = self._pca.explained_variance_
    # Directions in which nothing varies would be all rounding.
    self._kept = variances > 1e-9 * variances.sum()
    # To a total variance of one, as the logits, so that neither drowns out the
    # other and sizes of images compare.
    self._scale = np.sqrt(variances.sum())
    self._classifier: linear_model.LogisticRegression | None = None
    if len(np.unique(labels)) > 1:
      coordinates = self._coordinates(images)
      self._classifier = linear_model.LogisticRegression(max_iter=1000).fit(
        coordinates, labels
      )
      self._logit_scale = np.sqrt(self._logits(coordinates).var(axis=0).sum())

  def _coordinates(self, images: np.ndarray) -> np.ndarray:
    coordinates = pieces.mapped(
      lambda piece: self._pca.transform(_flat(piece)), images
    )[:, self._kept]
    return coordinates / self._scale

  def _logits(self, coordinates: np.ndarray) -> np.ndarray:
    assert self._classifier is not None
    logits = self._classifier.decision_function(coordinates)
    return logits.reshape(len(coordinates), -1)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """uint8 [n, H, W, C] -> float64 [n, F]."""
    coordinates = self._coordinates(images)
    parts = [coordinates]
    if self._classifier is not None:
      parts.append(self._logits(coordinates) / self._logit_scale)
    return np.concatenate(parts, axis=1)


def with_interval(
  features: np.ndarray,
  reference: np.ndarray,
  size: int,
  num_resamples: int,
  rng: np.random.Generator,
  num_parts: int = 4,
) -> tuple[float, float, float]:
  """Distance of two sets of features at equal sizes, and its 95 % interval.

  Args:
    features: [n, F], of generated images.
    reference: [m, F], of real ones.
    size: images of each set that are compared, at most n and m.
    num_resamples: bootstrap resamples of both sets.
    rng: of what is drawn.
    num_parts: disjoint parts of the features that the distance is the mean of,
      at most, and as far as they go.

  Returns:
    The distance; and percentiles 2.5 and 97.5 of the resampled distances
    shifted by their bias: a resample repeats images, which widens nothing but
    moves (1) upwards. Of fewer than 40 resamples, which have no such
    percentiles, 1.96 of their standard deviations either way.
  """
  order = rng.permutation(len(features))
  parts = [
    features[order[start : start + size]]
    for start in range(0, len(features) - size + 1, size)[:num_parts]
  ]
  reference = reference[rng.permutation(len(reference))[:size]]
  fixed = moments(reference)
  value = float(np.mean([distance(moments(part), fixed) for part in parts]))

  def drawn(rows: np.ndarray) -> Moments:
    return moments(rows[rng.integers(0, size, size)])

  resampled = []
  for _ in range(num_resamples):
    again = drawn(reference)
    resampled.append(np.mean([distance(drawn(part), again) for part in parts]))
  resampled = np.array(resampled)
  if num_resamples < 40:
    half = 1.96 * resampled.std(ddof=1)
    return value, max(0.0, float(value - half)), float(value + half)
  low, high = np.percentile(resampled, (2.5, 97.5)) - (
    np.median(resampled) - value
  )
  return value, max(0.0, float(low)), float(high)


def _flat(images: np.ndarray) -> np.ndarray:
  return images.reshape(len(images), -1).astype(np.float64) / 255.0
