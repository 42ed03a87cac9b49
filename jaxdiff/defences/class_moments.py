"""Noised means and covariances of classes, to start private training with.

DP-FETA (Li et al. 2025, "From Easy to Hard: Building a Shortcut for
Differentially Private Image Synthesis") trains on means of some images of each
class before it trains on images. With images in [-1, 1] as vectors of D
numbers, n the public number of examples, Y classes, a share q of which is drawn
by Poisson's law, and s the noise multiplier:

(1)  release(y) = (sum of the images of class y drawn + N(0, s^2 D)) Y / (q n)

An image is part of one sum alone, whose norm it changes by sqrt(D) at most: all
Y sums of a release are one Gaussian mechanism. Dividing by n / Y takes classes
for equally large, and n for the size of the training set: what is divided by is
no secret.

Means have no variety. With m(y) the mean of all releases of a class, r an image
less the m of its class, shortened to rho = sqrt(D) / 2 where it is longer, and
E a symmetric matrix of normal numbers, of variance 1 on the diagonal and 1/2
off it:

(2)  cov(y) = (sum of r r^T over class y + s rho^2 E) Y / n

E is the standard normal of symmetric matrices in Frobenius' norm, in which r
r^T is rho^2 long at most (Dwork et al. 2014, "Analyze Gauss"): again one
Gaussian mechanism for all classes. For large D the eigenvalues of noise alone
end at e = s rho^2 Y sqrt(2 D) / n, and noise moves an eigenvalue l > e / 2 of
cov(y) to l + e^2 / (4 l) (Benaych-Georges & Nadakuditi 2011). The largest of
noise alone passes e by some D^(-2/3) of it; those up to e (1 + D^(-2/3)) are
left out, the others moved back. Images drawn from the normal laws that are left
cost nothing more.
"""

from collections.abc import Iterator

import numpy as np
import threadpoolctl

# Images that are added up at a time.
_PIECE = 4096
# Numbers of an image whose covariance is computed at most: a matrix of 134 MB.
MOST_NUMBERS = 4096


def releases(
  images: np.ndarray,
  labels: np.ndarray | None,
  num_classes: int,
  *,
  count: int,
  public: int,
  share: float,
  noise: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Equation (1), `count` times.

  Args:
    images: uint8 [n, H, W, C] of a training set.
    labels: int [n]; None is one class.
    num_classes: Y.
    count: R.
    public: n.
    share: q.
    noise: s.
    rng: of draws and noise.

  Returns:
    float32 [R, Y, H, W, C], which noise may take out of [-1, 1].
  """
  which, classes = _classes(images, labels, num_classes)
  flat = images.reshape(len(images), -1)
  out = np.empty((count, classes, flat.shape[1]), np.float32)
  for release in out:
    drawn = np.flatnonzero(rng.random(len(flat)) < share)
    sums = np.zeros(release.shape)
    for rows, x in _pieces(flat, drawn):
      np.add.at(sums, which[rows], x)
    sums += noise * np.sqrt(flat.shape[1]) * rng.standard_normal(sums.shape)
    release[:] = sums * classes / (share * public)
  return out.reshape(count, classes, *images.shape[1:])


def draws(
  images: np.ndarray,
  labels: np.ndarray | None,
  num_classes: int,
  means: np.ndarray,
  *,
  count: int,
  public: int,
  noise: float,
  rng: np.random.Generator,
) -> np.ndarray:
  """Images of normal laws with the means, and the covariances of (2).

  Args:
    images: uint8 [n, H, W, C] of a training set.
    labels: int [n]; None is one class.
    num_classes: Y.
    means: m, float [Y, H, W, C].
    count: images of each class.
    public: n.
    noise: s.
    rng: of noise and draws.

  Returns:
    float32 [count, Y, H, W, C].
  """
  which, classes = _classes(images, labels, num_classes)
  flat = images.reshape(len(images), -1)
  size = flat.shape[1]
  centres = means.reshape(classes, size)
  out = np.empty((count, classes, size), np.float32)
  # On one thread: the same numbers, however many cores a run goes on with.
  with threadpoolctl.threadpool_limits(1):
    for label in range(classes):
      total = np.zeros((size, size))
      for _, x in _pieces(flat, np.flatnonzero(which == label)):
        rest = _shortened(x - centres[label].astype(np.float64), size)
        total += rest.T @ rest
      total += noise * 0.25 * size * _symmetric(size, rng)
      edge = noise * 0.25 * size * classes / public * np.sqrt(2.0 * size)
      root = _root_beyond(total * classes / public, edge)
      out[:, label] = centres[label] + rng.standard_normal((count, size)) @ root
  return out.reshape(count, classes, *images.shape[1:])


def _classes(
  images: np.ndarray, labels: np.ndarray | None, num_classes: int
) -> tuple[np.ndarray, int]:
  """The class of each image, and Y."""
  if labels is None:
    return np.zeros(len(images), int), 1
  return labels, max(num_classes, 1)


def _pieces(
  flat: np.ndarray, rows: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
  """Rows, and these in [-1, 1], piece by piece: all may not fit in memory."""
  for start in range(0, len(rows), _PIECE):
    piece = rows[start : start + _PIECE]
    yield piece, flat[piece].astype(np.float32) / 127.5 - 1.0


def _shortened(rest: np.ndarray, size: int) -> np.ndarray:
  """Rows of norm sqrt(D) / 2 at most."""
  norms = np.linalg.norm(rest, axis=1, keepdims=True)
  return rest * np.minimum(1.0, 0.5 * np.sqrt(size) / np.maximum(norms, 1e-12))


def _symmetric(size: int, rng: np.random.Generator) -> np.ndarray:
  """E."""
  square = rng.standard_normal((size, size))
  upper = np.triu(square, 1) * np.sqrt(0.5)
  return upper + upper.T + np.diag(np.diag(square))


def _root_beyond(matrix: np.ndarray, edge: float) -> np.ndarray:
  """The symmetric root of what is not noise.

  The root and not the eigenvectors, whose signs any rounding may turn.
  """
  values, vectors = np.linalg.eigh(matrix)
  kept = values > edge * (1.0 + len(matrix) ** (-2.0 / 3.0))
  values, vectors = values[kept], vectors[:, kept]
  values = 0.5 * (values + np.sqrt(np.square(values) - edge**2))
  return (vectors * np.sqrt(values)) @ vectors.T
