"""Lower bounds of distances from a few coordinates: the pruned path.

(1)  |a - b|^2 >= |P a - P b|^2 + (|a - P a| - |b - P b|)^2

P projects on the span of m orthonormal vectors; a, b are centred images. The
right side is itself a squared distance, of h(a) = (coordinates of P a,
|a - P a|), so m + 1 numbers stand for an image. The vectors are the leading
principal components of a sample, by subspace iteration (Halko et al. 2011):
the more variance they hold, the tighter (1).

References are ordered by the leaves of a k-d tree (`coherent`): those that (1)
cannot tell from a query's neighbours then share few groups.

Coordinates are computed as if in float64, so that (1) holds to a few
millionths of |a| + |b| (`error`). For uint8 images most of it is done in
float32 without error: a basis of whole numbers, short enough that no sum of
their products exceeds 2^24, then an m x m matrix in float64 that makes its
coordinates orthonormal (Cholesky).
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
# Images of a call, and those converted together: they stay in a CPU's cache.
_ROWS, _CACHED_ROWS = 4096, 256
# The largest whole number up to which float32 holds all; and what share of a
# basis vector its rounding to whole numbers may be.
_WHOLE, _ROUNDED = 2.0**24, 1 / 10
# Seconds an operation takes on two CPU cores, measured once; the choice needs
# no more than their order of size: a value of v to write and reduce, a
# proposal, a number of a basis, a place in the order of `coherent`, a pixel of
# an exact difference, a coordinate of a survivor's group.
_VALUE, _PROPOSAL, _NUMBER, _PLACE = 3e-10, 4e-7, 4e-7, 2.5e-6
_PIXEL, _COORDINATE = 2e-10, 2e-10
# References a group, and survivors that share one, about.
_GROUP, _TOGETHER = 16, 3
# Coordinates and slabs of `coherent`.
_TREE, _SLAB = 8, 8
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


def whole_basis(
  basis: np.ndarray, centre: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
  """Nearly the same span from whole numbers.

  Args:
    basis: float64 [D, m], orthonormal.
    centre: [D] whole numbers, of uint8 images.

  Returns:
    W [D, m] whole numbers, whose sums of products with any centred image, in
    any order, stay below 2^24; and T [m, m], upper triangular, so that W T is
    orthonormal. None where there are too many pixels for that.
  """
  farthest = np.linalg.norm(np.maximum(centre, 255.0 - centre))
  # Partial sums are at most |a||w|; rounding lengthens w.
  rounding = math.sqrt(len(basis)) / 2
  length = _WHOLE / farthest - rounding
  if rounding > _ROUNDED * length:
    return None
  whole = np.rint(length * basis)
  root = np.linalg.cholesky(whole.T @ whole)
  return whole, np.linalg.inv(root).T


class Sketch:
  """A basis for references [N, D]."""

  def __init__(self, references: np.ndarray, centre: np.ndarray, m: int):
    """Finds m vectors."""
    self.m = m
    self._references = references
    self._centre = centre.astype(np.float64)
    self._basis = make_basis(references, centre, m)
    self._turn = None
    if references.dtype == np.uint8:
      whole = whole_basis(self._basis, self._centre)
      if whole is not None:
        self._basis, self._turn = whole

  def features(
    self, images: np.ndarray, m: int
  ) -> tuple[np.ndarray, np.ndarray]:
    """h of equation (1): [n, D] -> float32 [n, m + 1]; norms float64 [n]."""
    # A column of zeros: whole vectors of a CPU.
    basis = np.pad(self._basis[:, :m], ((0, 0), (0, 1)))
    turn = self._turn
    if turn is not None:
      turn = np.pad(turn[:m, :m], (0, 1))
    step = min(_ROWS, 2 ** math.ceil(math.log2(max(len(images), 8))))
    parts = []
    with jax.enable_x64(True):
      for start in range(0, len(images), step):
        rows = images[start : start + step]
        rows = np.pad(rows, ((0, step - len(rows)), (0, 0)), mode='edge')
        parts.append(_features(rows, self._centre, basis, turn))
      parts = [[np.asarray(x) for x in part] for part in parts]
    features, squares = (
      np.concatenate(x)[: len(images)] for x in zip(*parts, strict=True)
    )
    return features, np.sqrt(squares)

  def expected_survivors(
    self, queries: np.ndarray, k: int
  ) -> np.ndarray | None:
    """What `survivors` will say of all m, from every 16th reference: [n].

    None where those are too few to show the k-th neighbour.
    """
    rank = k // _THINNED
    if not rank:
      return None
    squared, bounds = self._thinned(queries, [self.m])
    farthest = np.partition(squared, rank - 1, axis=1)[:, rank - 1]
    share = (bounds[self.m] <= farthest[:, None]).mean(axis=1)
    return share * len(self._references)

  def survivors(
    self, queries: np.ndarray, farthest: np.ndarray, k: int, sizes: list[int]
  ) -> dict[int, np.ndarray]:
    """References that m coordinates leave, about: float [n] for every m.

    Args:
      queries: [n, D].
      farthest: [n] squared distances of their k-th neighbours.
      k: neighbours.
      sizes: m, each.
    """
    squared, all_bounds = self._thinned(queries, sizes)
    rank = -(-k // _THINNED)
    best = np.partition(squared, rank - 1, axis=1)[:, rank - 1]
    # A query that is a reference itself has 0 / 0.
    least = 1e-6 * squared.max()
    count = min(-(-(k + 8) // _THINNED), squared.shape[1])
    out = {}
    for m, bounds in all_bounds.items():
      # From few coordinates the first proposals are worse: how much, the
      # thinned references tell.
      proposed = np.argpartition(bounds, count - 1, axis=1)[:, :count]
      proposed = np.take_along_axis(squared, proposed, axis=1)
      reached = np.partition(proposed, rank - 1, axis=1)[:, rank - 1]
      worse = np.maximum(reached, least) / np.maximum(best, least)
      share = (bounds <= (farthest * worse)[:, None]).mean(axis=1)
      out[m] = share * len(self._references)
    return out

  def _thinned(self, queries: np.ndarray, sizes: list[int]):
    """Squared distances to every 16th reference, and bounds for every m."""
    references = self._references[::_THINNED]
    centre = self._centre.astype(np.float32)
    squared = _squared(queries - centre, references - centre)
    a, b = (self.features(x, self.m)[0] for x in (queries, references))
    bounds = {
      m: np.asarray(_squared(reduced(a, m)[0], reduced(b, m)[0])) for m in sizes
    }
    return np.asarray(squared), bounds


def reduced(features: np.ndarray, m: int) -> tuple[np.ndarray, np.ndarray]:
  """`Sketch.features` of m, [n, m + 1] and [n], from those of a larger m."""
  kept, rest = features[:, :m], features[:, m:].astype(np.float64)
  rest = np.sqrt(np.einsum('nm,nm->n', rest, rest))
  features = np.concatenate([kept, rest[:, None]], axis=1, dtype=np.float32)
  wide = features.astype(np.float64)
  return features, np.sqrt(np.einsum('nm,nm->n', wide, wide))


def coherent(features: np.ndarray, block: int, group: int) -> np.ndarray:
  """An order in which every `group` of rows is of near images.

  A k-d tree (Bentley 1975) of equal cells: slabs by the first coordinate, then
  by the second, then halves by whichever varies most.

  Args:
    features: [n, F].
    block: a power of two times `group`; the order is filled up to a multiple.
    group: rows a cell.

  Returns:
    int [M], M >= n; n where there is no row.
  """
  number = len(features)
  rows = np.concatenate(
    [features[:, :_TREE], np.zeros_like(features[:1, :_TREE])]
  )
  order = np.argsort(rows[:-1, 0], kind='stable')
  order = np.concatenate([order, np.full(-number % block, number)])
  slabs = [
    slab[np.argsort(rows[slab, 1], kind='stable')]
    for slab in np.split(order, range(_SLAB * block, len(order), _SLAB * block))
  ]
  cells = np.concatenate(slabs).reshape(-1, block)
  while (size := cells.shape[1]) > group:
    inside = rows[cells]
    widest = inside.var(axis=1).argmax(axis=1)
    along = np.take_along_axis(inside, widest[:, None, None], axis=2)[..., 0]
    halves = np.argpartition(along, size // 2, axis=1)
    cells = np.take_along_axis(cells, halves, axis=1).reshape(-1, size // 2)
  return cells.ravel()


@jax.jit
def _features(
  images: jax.Array,
  centre: jax.Array,
  basis: jax.Array,
  turn: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
  """h float32 [n, m + 1] of [n, D], and |h|^2 float64 [n].

  The basis [D, m + 1] ends in zeros; with `turn`, it is of whole numbers.
  """
  highest = jax.lax.Precision.HIGHEST

  def some(images):
    if turn is None:
      centred = images.astype(jnp.float64) - centre[None, :]
      coordinates = jnp.matmul(centred, basis, precision=highest)
      rest = jnp.square(centred).sum(axis=1)
    else:
      centred = images.astype(jnp.float32) - centre.astype(jnp.float32)[None, :]
      coordinates = jnp.matmul(
        centred, basis.astype(jnp.float32), precision=highest
      )
      coordinates = jnp.matmul(
        coordinates.astype(jnp.float64), turn, precision=highest
      )
      rest = jnp.square(centred.astype(jnp.int32)).sum(axis=1, dtype=jnp.int32)
    rest = rest - jnp.square(coordinates).sum(axis=1)
    rest = jnp.sqrt(jnp.maximum(rest, 0.0))
    features = jnp.concatenate([coordinates[:, :-1], rest[:, None]], axis=1)
    features = features.astype(jnp.float32)
    return features, jnp.square(features.astype(jnp.float64)).sum(axis=1)

  number, pixels = images.shape
  step = math.gcd(number, _CACHED_ROWS)
  parts = jax.lax.map(some, images.reshape(-1, step, pixels))
  return jax.tree.map(lambda x: x.reshape(number, *x.shape[2:]), parts)


@jax.jit
def _squared(a: jax.Array, b: jax.Array) -> jax.Array:
  """Squared distances, to float32: [n, F], [N, F] -> [n, N]."""
  product = jnp.matmul(a, b.T, precision=jax.lax.Precision.HIGHEST)
  squares = [jnp.square(x).sum(axis=1) for x in (a, b)]
  return squares[0][:, None] + squares[1][None, :] - 2.0 * product


def error(pixels: int, m: int) -> float:
  """|computed h - h| / |a|, at most.

  Sums of `pixels` products are off by pixels 2^-53 |a| a coordinate (of whole
  numbers by nothing, and those of m numbers after them by less); the
  residual's square by thrice that, its root by the root of that. Features are
  rounded to float32, twice when reduced.
  """
  return float(np.sqrt(3.0 * pixels * np.sqrt(m) * 2.0**-53) + 2.0**-22)


def cost(
  survivors: np.ndarray,
  m: int,
  k: int,
  pixels: int,
  count: int,
  multiply: float,
  full_multiply: float,
  whole: bool,
) -> float:
  """Seconds a query takes, about, when `survivors` [n] remain of pilots.

  Args:
    survivors: int [n].
    m: coordinates.
    k: neighbours.
    pixels: of an image.
    count: references.
    multiply: seconds of a multiply-add in float32.
    full_multiply: the same of the full product.
    whole: it says the distances.
  """
  groups = 1.0 - (1.0 - survivors / count) ** (_GROUP / _TOGETHER)
  # Those with too many go through the full product.
  failed = groups > MOST_GROUPS
  pairs = np.where(failed, 0.0, survivors).mean()
  groups = np.where(failed, 0.0, groups).mean() * count / _GROUP
  return (
    count * ((m + 1) * multiply + _VALUE)
    + k * _PROPOSAL
    + (k + pairs) * pixels * _PIXEL
    + groups * _GROUP * (m + 1) * _COORDINATE
    + failed.mean() * full_cost(k, pixels, count, full_multiply, whole)
  )


def features_cost(m: int, pixels: int, multiply: float) -> float:
  """Seconds an image's coordinates take, about: more than their product."""
  return 3.0 * m * pixels * multiply


def build_cost(m: int, pixels: int, count: int, multiply: float) -> float:
  """Seconds before the first query, about; arguments as of `cost`."""
  each = _PLACE + features_cost(m, pixels, multiply)
  return m * pixels * _NUMBER + count * each


def full_cost(
  k: int, pixels: int, count: int, multiply: float, whole: bool
) -> float:
  """Seconds a query takes, about, on the full path; arguments as of `cost`."""
  return count * (pixels * multiply + _VALUE) + k * (
    _PROPOSAL + (0.0 if whole else pixels * _PIXEL)
  )


def _sample(images: np.ndarray) -> np.ndarray:
  return images[:: -(-len(images) // _SAMPLE)]
