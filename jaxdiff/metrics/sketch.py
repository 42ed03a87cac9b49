"""Lower bounds of distances from a few coordinates: the pruned path.

(1)  |a - b|^2 >= |P a - P b|^2 + (|a - P a| - |b - P b|)^2

P projects on the span of m orthonormal vectors; a, b are centred images. The
right side is itself a squared distance, of h(a) = (coordinates of P a,
|a - P a|), so m + 1 numbers stand for an image. The vectors are the leading
principal components of a sample, by subspace iteration (Halko et al. 2011):
the more variance they hold, the tighter (1).

Coordinates are computed in float64, so that (1) holds to a few
millionths of |a| + |b| (`error`).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Choices of m; with the residual's they are whole vectors of a CPU.
SIZES = (31, 63, 127)

_SAMPLE = 512
_ITERATIONS = 1
# References of which one is counted for survivors.
_THINNED = 16
_ROWS = 4096
# Seconds an operation takes on two CPU cores, measured once; the choice needs
# no more than their order of size: a multiply-add of the product, a value of
# v to write and reduce, a proposal, a pixel of an exact difference, a
# coordinate of a survivor's group.
_MULTIPLY, _VALUE, _PROPOSAL = 5e-12, 3e-10, 4e-7
_PIXEL, _COORDINATE = 2e-10, 2e-10
_GROUP = 16
# A query of which more than this share of the groups survive is cheaper in the
# full product.
MOST_GROUPS = 1 / 2


def mean_image(images: np.ndarray) -> np.ndarray:
  """Mean of a sample of [N, D], float32 [D]; whole numbers for uint8."""
  mean = _sample(images).mean(axis=0, dtype=np.float64)
  return (np.rint(mean) if images.dtype == np.uint8 else mean).astype(
    np.float32
  )


def make_basis(images: np.ndarray, centre: np.ndarray, m: int) -> np.ndarray:
  """Leading principal components of a sample, float64 [D, m], orthonormal."""
  sample = _sample(images).astype(np.float32) - centre
  start = np.random.default_rng(0).standard_normal((len(sample), m), np.float32)
  basis = sample.T @ start
  for _ in range(_ITERATIONS):
    basis = np.linalg.qr(basis)[0]
    basis = sample.T @ (sample @ basis)
  # Twice is enough for orthogonality to the last bit; then by variance.
  basis = np.linalg.qr(basis.astype(np.float64))[0]
  coordinates = sample.astype(np.float64) @ basis
  turn = np.linalg.eigh(coordinates.T @ coordinates)[1][:, ::-1]
  return np.linalg.qr(basis @ turn)[0]


class Sketch:
  """A basis for references [N, D], and their coordinates in it."""

  def __init__(self, references: np.ndarray, centre: np.ndarray, m: int):
    """Finds m vectors."""
    self._references = references
    self._centre = centre.astype(np.float64)
    self._basis = make_basis(references, centre, m)

  def features(
    self, images: np.ndarray, m: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """h of equation (1): [n, D] -> float32 [n, m + 1]; norms float64 [n]."""
    basis = self._basis[:, :m]
    step = min(_ROWS, 2 ** math.ceil(math.log2(max(len(images), 8))))
    parts = []
    with jax.enable_x64(True):
      for start in range(0, len(images), step):
        rows = images[start : start + step]
        rows = np.pad(rows, ((0, step - len(rows)), (0, 0)), mode='edge')
        parts.append(_features(rows, self._centre, basis))
      parts = [[np.asarray(x) for x in part] for part in parts]
    features, squares = (
      np.concatenate(x)[: len(images)] for x in zip(*parts, strict=True)
    )
    return features, np.sqrt(squares)

  def expected_survivors(
    self, queries: np.ndarray, k: int, m: int
  ) -> np.ndarray | None:
    """What `survivors` will say, from a sample alone: float [n].

    None where the sample is too small to show the k-th neighbour.
    """
    count, sample = len(self._references), _sample(self._references)
    rank = round(k * len(sample) / count)
    if not rank:
      return None
    squared = self._differences(queries, sample)
    farthest = np.partition(squared, rank - 1, axis=1)[:, rank - 1]
    bounds = _bounds(self.features(queries, m)[0], self.features(sample, m)[0])
    return (bounds <= farthest[:, None]).mean(axis=1) * count

  def survivors(
    self, queries: np.ndarray, farthest: np.ndarray, k: int, m: int
  ) -> np.ndarray:
    """References that m coordinates leave, about: float [n].

    Args:
      queries: [n, D].
      farthest: [n] squared distances of their k-th neighbours.
      k: neighbours.
      m: coordinates.
    """
    # From few coordinates the first proposals are worse: how much, the
    # thinned references tell.
    references = self._references[::_THINNED]
    bounds = _bounds(
      self.features(queries, m)[0],
      self.features(references, m)[0],
    )
    squared = self._differences(queries, references)
    rank = -(-k // _THINNED)
    count = min(-(-(k + 8) // _THINNED), len(references))
    proposed = np.argpartition(bounds, count - 1, axis=1)[:, :count]
    proposed = np.take_along_axis(squared, proposed, axis=1)
    reached = np.partition(proposed, rank - 1, axis=1)[:, rank - 1]
    best = np.partition(squared, rank - 1, axis=1)[:, rank - 1]
    # A query that is a reference itself has 0 / 0.
    least = 1e-6 * squared.max()
    farthest = farthest * np.maximum(reached, least) / np.maximum(best, least)
    share = (bounds <= farthest[:, None]).mean(axis=1)
    return share * len(self._references)

  def _differences(self, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    centre = self._centre.astype(np.float32)
    return _bounds(a.astype(np.float32) - centre, b.astype(np.float32) - centre)


@jax.jit
def _features(
  images: jax.Array, centre: jax.Array, basis: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """h float32 [n, m + 1] of [n, D], and |h|^2 float64 [n]."""
  centred = images.astype(jnp.float64) - centre[None, :]
  coordinates = jnp.matmul(centred, basis, precision=jax.lax.Precision.HIGHEST)
  rest = jnp.square(centred).sum(axis=1) - jnp.square(coordinates).sum(axis=1)
  features = jnp.concatenate(
    [coordinates, jnp.sqrt(jnp.maximum(rest, 0.0))[:, None]], axis=1
  ).astype(jnp.float32)
  return features, jnp.square(features.astype(jnp.float64)).sum(axis=1)


def _squares(rows: np.ndarray) -> np.ndarray:
  return np.einsum('nm,nm->n', rows, rows)


def _bounds(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Right side of equation (1), to float32: [n, F], [N, F] -> [n, N]."""
  return _squares(a)[:, None] + _squares(b) - 2.0 * a @ b.T


def error(pixels: int, m: int) -> float:
  """|computed h - h| / |a|, at most.

  Sums of `pixels` products are off by pixels 2^-53 |a| a coordinate; the
  residual's square by thrice that, its root by the root of that.
  """
  return float(np.sqrt(3.0 * pixels * np.sqrt(m) * 2.0**-53) + 2.0**-23)


def cost(
  survivors: np.ndarray, m: int, k: int, pixels: int, count: int
) -> float:
  """Seconds a query takes, about, when `survivors` [n] remain of pilots."""
  groups = 1.0 - (1.0 - survivors / count) ** _GROUP
  # Those with too many go through the full product.
  failed = groups > MOST_GROUPS
  pairs = np.where(failed, 0.0, survivors).mean()
  groups = np.where(failed, 0.0, groups).mean() * count / _GROUP
  return (
    count * ((m + 1) * _MULTIPLY + _VALUE)
    + k * _PROPOSAL
    + (k + pairs) * pixels * _PIXEL
    + groups * _GROUP * (m + 1) * _COORDINATE
    + failed.mean() * full_cost(k, pixels, count)
  )


def full_cost(k: int, pixels: int, count: int) -> float:
  """Seconds a query takes, about, on the full path."""
  return count * (pixels * _MULTIPLY + _VALUE) + k * (
    _PROPOSAL + pixels * _PIXEL
  )


def _sample(images: np.ndarray) -> np.ndarray:
  return images[:: -(-len(images) // _SAMPLE)]
