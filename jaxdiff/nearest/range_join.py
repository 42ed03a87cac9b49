"""Every pair of images within a distance, exactly: a range join.

(1)  pairs   all (i, j) with l2(a_i, b_j) <= r,  RMSE of pixels in [0, 1]
     and for each image with none, its nearest within R >= r
(2)  |a - b| >= |h(a) - h(b)| >= the gap of boxes around cells that hold them

h is `pca_bound`'s: coordinates along principal components, and the norm of the
rest. Both sides come in cells of 1,024 near images, leaves of a k-d tree
(Bentley 1975); by (2) most pairs of cells are farther apart than r. Of the
others one product of the first coordinates, rounded the safe way
(`certificate.View.cut`), leaves few pairs; all coordinates leave fewer, whose
pixels are compared. How many coordinates the product takes follows from how
many pairs of a sample they leave. A search
of nearest neighbours cannot skip a cell before it knows a neighbour; this can,
so it takes far less.

With S queries, N references, m coordinates in the product and a share q of
pairs of cells that are not apart: 2 S N q (m + 1) operations, and S N q numbers
that stay in cache.
"""

from collections.abc import Iterator
import functools

import jax
import numpy as np

from jaxdiff.nearest import certificate, kernels, pca_bound
from jaxdiff.runtime import mesh as mesh_lib

CELL = 1024
GROUP = 16
# Coordinates beside the residual, and those that cells are split along.
_COORDINATES, _SPLIT = 63, 8
# Those that a product may take; references of which some pairs are counted; and
# seconds on two CPU cores, measured once, of which the order of size matters: a
# multiply-add, a value to write and reduce, a pair that is left.
_NARROW, _COUNTED = (15, 31), (512, 4096)
_MULTIPLY, _VALUE, _LEFT = 2.8e-11, 3e-10, 2e-6
# Pairs of cells of a call, a device; groups and pairs that are looked at
# together.
_AT_ONCE, _HITS, _PIXELS = 32, 2**12, 2**23
# Of float32 distances, that none at r is lost.
_ROUNDING = 1e-6


class RangeJoin:
  """References, prepared for joins within one distance.

  Attributes:
    order: int [N], the rows of the references cell by cell.
    narrow: coordinates that the product takes.
    visited: pairs of cells that were multiplied so far.
  """

  def __init__(
    self,
    references: np.ndarray,
    radius: float,
    look: float | None = None,
    *,
    order: np.ndarray | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Prepares references.

    Args:
      references: uint8 [N, ...].
      radius: r.
      look: R; None is r.
      order: of cells, as another join of the same references had it; None
        makes one.
      mesh: its axis 'data' shares the work; all local devices if None.
    """
    self._references = references.reshape(len(references), -1)
    self._mesh = mesh or mesh_lib.make(1, jax.local_devices())
    pixels = self._references.shape[1]
    self._m = width(pixels) - 1
    self._radius, self._look = radius, max(radius, look or 0.0)
    self._unit = np.sqrt(pixels) * 255.0
    self._squared = np.square((1.0 + _ROUNDING) * self._look * self._unit)
    # How near each reference is to another, as far as own pairs told.
    self._known = np.full(len(references), np.inf, np.float32)
    centre = pca_bound.mean_image(self._references)
    self._sketch = pca_bound.Sketch(self._references, centre, self._m)
    features, norms = self._sketch.features(self._references, self._m)
    self.order = cells(features, CELL) if order is None else order
    features, norms = features[self.order], norms[self.order]
    self.narrow = self._narrowest(features)
    fill = -len(features) % CELL
    real = np.arange(len(features) + fill) < len(features)
    product, of_product = pca_bound.reduced(features, self.narrow)
    squares = np.square(of_product).astype(np.float32)
    squares = np.pad(squares, (0, fill), constant_values=np.inf)
    self._features = np.pad(features, ((0, fill), (0, 0)))
    self._view = certificate.View(
      features=self._everywhere(np.pad(product, ((0, fill), (0, 0)))),
      norms=self._everywhere(squares),
      order=self.order,
      count=len(self.order),
      block=CELL,
      group=GROUP,
      largest=max(norms.max(), of_product.max()).item(),
      feature_error=pca_bound.error(pixels, self._m),
      product_error=kernels.sum_error(self.narrow + 3, 'float32'),
      whole=False,
      boxes=certificate.make(self._features, real, CELL),
    )
    self._norms = norms
    self.visited = 0

  @property
  def num_cells(self) -> int:
    """Cells of the references."""
    return len(self._features) // CELL

  def order_of(self, queries: np.ndarray) -> np.ndarray:
    """Rows of queries cell by cell: in this order their cells are small."""
    flat = queries.reshape(len(queries), -1)
    return cells(self._sketch.features(flat, self._m)[0], CELL)

  def pairs(
    self, queries: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Equation (1) of uint8 [S, ...], by pieces: row, column, distance.

    Beyond r there are some pairs, the nearest of each row among them.
    """
    flat = queries.reshape(len(queries), -1)
    features, norms = self._sketch.features(flat, self._m)
    known = np.full(len(flat), np.inf, np.float32)
    yield from self._joined(flat, features, norms, known, None)

  def own_pairs(
    self, first: int, last: int
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of the references in cells first to last - 1 and of later rows, once.

    Over all cells these are all pairs of two references within r, and the
    nearest of each reference.
    """
    rows = slice(first * CELL, min(last * CELL, len(self.order)))
    flat = self._references[self.order[rows]]
    features, norms = self._features[rows], self._norms[rows]
    known = self._known[self.order[rows]]
    for row, column, distance in self._joined(
      flat, features, norms, known, first
    ):
      np.minimum.at(self._known, self.order[rows.start + row], distance)
      yield self.order[rows.start + row], column, distance

  def _joined(
    self,
    flat: np.ndarray,
    features: np.ndarray,
    norms: np.ndarray,
    known: np.ndarray,
    own: int | None,
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    view, count = self._view, len(flat)
    fill = -count % CELL
    product, of_product = pca_bound.reduced(features, self.narrow)
    cut = view.cut(of_product, self._squared)
    cut = np.pad(cut, (0, fill), constant_values=np.inf)
    padded = np.pad(features, ((0, fill), (0, 0)))
    boxes = certificate.make(padded, np.arange(count + fill) < count, CELL)
    near = self._near(boxes, norms)
    if own is not None:
      # Of two cells, the later one is asked for.
      near &= np.arange(near.shape[1]) >= own + np.arange(len(near))[:, None]
    one, other = np.nonzero(near)
    self.visited += len(one)
    product = np.pad(product, ((0, fill), (0, 0)))
    on_device = self._everywhere(product), self._everywhere(cut)
    for hits, here, there in surviving(
      self._mesh, *on_device, view.features, view.norms, one, other
    ):
      pair, row, group = np.nonzero(hits)
      row, group = (
        here[pair] * CELL + row,
        there[pair] * (CELL // GROUP) + group,
      )
      for part in range(0, len(row), _HITS):
        some = slice(part, part + _HITS)
        yield self._compared(
          flat, features, norms, known, row[some], group[some], own
        )

  def _narrowest(self, features: np.ndarray) -> int:
    """How many coordinates the product takes, that all is fastest."""
    queries, references = (
      features[:: -(-len(features) // count)] for count in _COUNTED
    )
    seconds = {}
    for m in (*(m for m in _NARROW if m < self._m), self._m):
      a, b = (pca_bound.reduced(x, m)[0] for x in (queries, references))
      squares = [np.square(x).sum(axis=1) for x in (a, b)]
      far = squares[0][:, None] + squares[1][None] - 2.0 * a @ b.T
      left = (far <= self._squared).mean()
      seconds[m] = (m + 1) * _MULTIPLY + _VALUE + left * _LEFT
    return min(seconds, key=lambda m: seconds[m])

  def _near(self, boxes: certificate.Boxes, norms: np.ndarray) -> np.ndarray:
    """Pairs of cells that equation (2) does not tell apart: bool [C, M]."""
    assert self._view.boxes is not None
    to = self._view.boxes
    total = np.zeros((len(boxes.low), len(to.low)))
    with np.errstate(invalid='ignore'):
      for a, b, c, d in zip(
        boxes.low.T, boxes.high.T, to.low.T, to.high.T, strict=True
      ):
        gap = np.maximum(a[:, None] - d[None], c[None] - b[:, None])
        total += np.square(np.maximum(gap, 0.0))
    reach = self._view.reach(norms.max(), self._squared)[1]
    return np.sqrt(total) <= (1.0 + 1e-6) * reach

  def _compared(
    self,
    flat: np.ndarray,
    features: np.ndarray,
    norms: np.ndarray,
    known: np.ndarray,
    row: np.ndarray,
    group: np.ndarray,
    own: int | None,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs of rows and members of groups; `known` [S] is brought up to date.

    Beyond r only those are compared that may be nearer than what is known.
    """
    members = kernels.member_rows(group, CELL, GROUP)
    gap = features[row][:, None].astype(np.float64) - self._features[members]
    far = np.sqrt(np.einsum('nsf,nsf->ns', gap, gap))
    # Less than the true distance, whatever was rounded.
    largest, reach = self._view.reach(norms[row], self._squared)
    error = self._view.feature_error * (norms[row] + largest)
    left = far <= (1.0 + 1e-12) * reach[:, None]
    left &= members < len(self.order)
    if own is not None:
      left &= members > own * CELL + row[:, None]
    place, member = np.nonzero(left)
    least = np.maximum(far[place, member] - error[place], 0.0)
    least *= (1.0 - _ROUNDING) / self._unit
    row, column = row[place], self.order[members[place, member]]
    distance = np.full(len(row), np.inf, np.float32)

    def compare(some: np.ndarray) -> None:
      found = rmse(flat, self._references, row[some], column[some])
      distance[some] = found
      np.minimum.at(known, row[some], found)
      if own is not None:
        np.minimum.at(self._known, column[some], found)

    inside = least <= self._radius
    compare(np.flatnonzero(inside))
    rest = np.flatnonzero(~inside)
    ends = [(row, known)]
    if own is not None:
      ends.append((column, self._known))
    for of, nearest in ends:
      # The most promising first: after it, most cannot be nearer.
      rest = rest[np.lexsort((least[rest], of[rest]))]
      first = np.append(True, np.diff(of[rest]) != 0)[: len(rest)]
      first &= least[rest] <= nearest[of[rest]]
      compare(rest[first])
      rest = rest[~first]
    wanted = np.zeros(len(rest), bool)
    for of, nearest in ends:
      wanted |= least[rest] <= nearest[of[rest]]
    compare(rest[wanted])
    found = distance <= np.float32(self._look)
    return row[found], column[found], distance[found]

  def _everywhere(self, array: np.ndarray) -> jax.Array:
    return mesh_lib.put(self._mesh, array, mesh_lib.REPLICATED)


def width(pixels: int) -> int:
  """Numbers that stand for an image of so many pixels."""
  return min(_COORDINATES, pixels) + 1


def cells(features: np.ndarray, size: int) -> np.ndarray:
  """An order in which every `size` rows of [n, F] are near: int [n].

  Leaves of a k-d tree: halves by whichever of the first coordinates varies
  most, until they hold no more; only the last one holds less.
  """
  out, open_ = [], [np.arange(len(features))]
  while open_:
    rows = open_.pop()
    if len(rows) <= size:
      out.append(np.sort(rows))
      continue
    inside = features[rows, :_SPLIT]
    along = inside[:, inside.var(axis=0).argmax()]
    half = size * (-(-len(rows) // size) // 2)
    order = np.argpartition(along, half)
    open_ += [rows[order[half:]], rows[order[:half]]]
  return np.concatenate(out) if out else np.empty(0, int)


def rmse(
  queries: np.ndarray,
  references: np.ndarray,
  rows: np.ndarray,
  columns: np.ndarray,
) -> np.ndarray:
  """Distances of pairs of uint8 [S, D] and [N, D]: float32 [P]."""
  pixels = queries.shape[1]
  step = max(1, _PIXELS // pixels)
  out = np.empty(len(rows), np.float32)
  for start in range(0, len(rows), step):
    some = slice(start, start + step)
    gap = queries[rows[some]].astype(np.int16) - references[columns[some]]
    wide = gap.astype(np.float64)
    squared = np.einsum('pd,pd->p', wide, wide)
    out[some] = np.sqrt(squared / pixels) / 255.0
  return out


def surviving(
  mesh: jax.sharding.Mesh,
  queries: jax.Array,
  cut: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  one: np.ndarray,
  other: np.ndarray,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
  """Groups of references that may hold one within r, by pieces.

  Args:
    mesh: whose axis 'data' shares the work.
    queries: [S, F], S a multiple of CELL, on every device.
    cut: [S], which v of equation (1) of `kernels` reaches within r; likewise.
    features: [M, F] of the references, likewise.
    norms: [M] |h|^2, likewise.
    one: int [P] cells of queries.
    other: int [P], the cells of references that each is compared with.

  Yields:
    bool [p, CELL, CELL / GROUP], and the p cells of queries and of references.
  """
  step = mesh.shape[mesh_lib.DATA] * _AT_ONCE
  for start in range(0, len(one), step):
    pair = one[start : start + step], other[start : start + step]
    # The last pair of cells fills up, and is cut off.
    shared = [
      mesh_lib.put(
        mesh,
        np.pad(x, (0, step - len(x)), mode='edge').astype(np.int32),
        mesh_lib.PER_EXAMPLE,
      )
      for x in pair
    ]
    hits = _surviving(queries, cut, features, norms, *shared, mesh=mesh)
    yield np.asarray(hits)[: len(pair[0])], *pair


@functools.partial(jax.jit, static_argnames='mesh')
def _surviving(
  queries: jax.Array,
  cut: jax.Array,
  features: jax.Array,
  norms: jax.Array,
  here: jax.Array,
  there: jax.Array,
  *,
  mesh: jax.sharding.Mesh,
) -> jax.Array:
  """Groups of references that may hold one within r: bool [T, CELL, groups].

  Args:
    queries: [S, F], S a multiple of CELL, on every device.
    cut: [S], of `certificate.View.cut`, on every device.
    features: [M, F] of the references, likewise.
    norms: [M] |h|^2.
    here: int [T] cells of queries, sharded over 'data'.
    there: int [T] cells of references, likewise.
    mesh: with the axis 'data'.
  """
  width = queries.shape[1]

  def local(queries, cut, features, norms, here, there):
    queries, features = (
      x.reshape(-1, CELL, width) for x in (queries, features)
    )
    cut, norms = cut.reshape(-1, CELL), norms.reshape(-1, CELL)

    def of_pair(pair):
      one, other = pair
      v = kernels.values(queries[one], features[other], norms[other])
      return kernels.of_groups(v, GROUP) >= cut[one][:, None]

    return jax.lax.map(of_pair, (here, there))

  shared, everywhere = mesh_lib.PER_EXAMPLE, mesh_lib.REPLICATED
  return jax.shard_map(
    local,
    mesh=mesh,
    in_specs=(everywhere,) * 4 + (shared,) * 2,
    out_specs=shared,
  )(queries, cut, features, norms, here, there)
