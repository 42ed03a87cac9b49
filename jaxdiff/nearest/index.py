"""Exact nearest neighbours of images by root-mean-square error.

(1)  l2(a, b) = sqrt(mean_i (a_i - b_i)^2),  pixels in [0, 1]
(2)  |a - b|^2 = |a|^2 - v,  v = 2 a.b - |b|^2

(1) is the paper's distance (section 4.1; Balle et al. 2022). (2) is a matrix
product, so it runs at the machine's peak, but in float32 it loses
near-duplicates, the very signal, in rounding. So v only proposes:

1. propose: v for all references; the largest k + 8, and the largest of every
   group of 16 references.
2. exact: true differences of the proposed pairs (integers for uint8, float64
   otherwise). The k-th smallest, U, can only fall. Where v is a sum of
   integers (`runtime/products.py`), it follows from v, and no pair is read
   again.
3. certify: what v says at least about a distance, lowered by its rounding
   error (`View.cut`), is compared with U. Groups that cannot hold a nearer
   reference are proven out; of the others, the members that survive the same
   test one by one go through step 2.

Every answer is proven, on whatever path: ties and copies only cost time.

Paths differ in what stands for an image in (2). `full`: its pixels. `pruned`:
its first m coordinates in an orthogonal basis and the norm of the rest, m + 1
numbers whose distance bounds the true one from below (`pca_bound`). A query
looks into one block of references first, then into those alone whose bounding
boxes are within U (`certificate`); with too many survivors it goes through
`full`. `auto` tries a few queries and chooses path and m by the work that each
would take, once there were queries enough to make up for finding a basis.

Bounds, for S queries, N references and D pixels. Full: 2 S N D operations and S
N values that stay on chip but for the maxima; the matrix unit bounds it where D
exceeds some hundreds. Measured on 2 cores with AVX-512, 1,024 x 50,000 x 3,072,
k = 50: 300 GFLOP/s where the bare product does 380; step 2, bound by memory, is
a tenth of the time, which 8-bit images save. (On a CPU products go by 1,024
references, so that v stays in its cache.) On paper only: an H100 at 990 TFLOP/s
in bfloat16 takes 0.32 ms for the product and 0.06 ms for step 2 (0.18 GB at 3.3
TB/s). A TPU v5e's compiler estimates 1.1 ms in int8 and 1.9 ms in bfloat16 for
step 1 but for its sorts (docs/scaling.md). Pruned: writing and reducing the S N
values and gathering rows, that is memory, bounds it.

The module is as long as its class: its methods share what is on the devices.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.nearest import (
  certificate,
  exact_pairs,
  kernels,
  pca_bound,
  running_best,
  sizes,
)
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products

PATHS = ('auto', 'full', 'pruned')

# Queries that choose the path; work below which there is nothing to choose; and
# what share of the full path's seconds the pruned one may promise, to be tried.
_PILOT, _LEAST_WORK, _WORTH = 64, 2**37, 0.6


def nearest(
  queries: np.ndarray, references: np.ndarray, k: int, **options
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest references of every query, nearest first.

  Args:
    queries: [S, ...] images, uint8 or float in [0, 1].
    references: [N, ...] images of the same shape and dtype, N >= k.
    k: number of neighbours.
    **options: of `Index` (product, mesh) and `Index.nearest` (path); they
      change no answer.

  Returns:
    distance float32 [S, k], RMSE on pixels in [0, 1], and index int32 [S, k]
    into `references`. Ties go to the lower index.

  Raises:
    ValueError: for any other dtype or range, unequal shapes, or too few
      references.
  """
  path = options.pop('path', 'auto')
  return Index(references, **options).nearest(queries, k, path)


class Index:
  """References, prepared for many calls of `nearest`.

  Attributes:
    path: 'full' or 'pruned', as the last call took it.
    num_coordinates: m of the pruned path; 0 for the full one.
    certified: share of the last call's queries that needed no other path.
  """

  def __init__(
    self,
    references: np.ndarray,
    *,
    product: str | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Checks the references; work begins with the first call.

    Args:
      references: [N, ...] images, uint8 or float in [0, 1].
      product: type of the full product, one of `products.PRODUCTS`; None takes
        `products.of`.
      mesh: its axis 'data' shares the queries; all local devices if None.

    Raises:
      ValueError: as `nearest`.
    """
    self._references = _checked(references)
    self._mesh = mesh or mesh_lib.make(1, jax.local_devices())
    if product is None:
      dtype = self._references.dtype
      product = products.of(self._mesh, dtype, *self._references.shape)
    if product not in products.PRODUCTS:
      raise ValueError(f'no product {product!r}: {products.PRODUCTS}')
    if product == 'int8' and self._references.dtype != np.uint8:
      raise ValueError('product int8 is for uint8 images')
    pixels = self._references.shape[1]
    if product == 'int8' and pixels > products.WHOLE_PIXELS:
      raise ValueError(
        f'product int8 is for {products.WHOLE_PIXELS} pixels at most, not '
        f'{pixels}'
      )
    self._product = product
    self._whole = products.whole(
      self._mesh, self._references.dtype, pixels, product
    )
    self._centre = pca_bound.mean_image(self._references)
    self._sketched: pca_bound.Sketch | None = None
    self._choices: dict[int, int] = {}
    self._asked = 0
    self._block: slice | None = None
    self._on_device: dict[Any, Any] = {}
    self.path, self.num_coordinates, self.certified = 'full', 0, 1.0

  def __len__(self) -> int:
    """How many references there are."""
    return len(self._references)

  def nearest(
    self, queries: np.ndarray, k: int, path: str = 'auto'
  ) -> tuple[np.ndarray, np.ndarray]:
    """As the function `nearest`; path is one of PATHS."""
    queries = _checked(queries)
    self._check(queries, k, path)
    m = self._choose(queries, k, path)
    found = running_best.RunningBest(len(queries), k)
    self.path = 'pruned' if m else 'full'
    self.num_coordinates, self.certified = m, 1.0
    given_up = self._pass(queries, m, found)
    if given_up.any():
      self.certified = 1.0 - given_up.mean()
      again = running_best.RunningBest(given_up.sum(), k)
      self._pass(queries[given_up], 0, again)
      found.squared[given_up] = again.squared
      found.index[given_up] = again.index
    scale = 255.0 if queries.dtype == np.uint8 else 1.0
    distance = np.sqrt(found.squared / queries.shape[1]) / scale
    return distance.astype(np.float32), found.index

  def _check(self, queries: np.ndarray, k: int, path: str) -> None:
    references = self._references
    if queries.dtype != references.dtype:
      raise ValueError(
        f'queries are {queries.dtype}, references {references.dtype}'
      )
    if queries.shape[1] != references.shape[1]:
      raise ValueError(
        f'queries have {queries.shape[1]} pixels, references '
        f'{references.shape[1]}'
      )
    if not 1 <= k <= len(references):
      raise ValueError(f'k is {k}; there are {len(references)} references')
    if path not in PATHS:
      raise ValueError(f'no path {path!r}: {PATHS}')

  def _choose(self, queries: np.ndarray, k: int, path: str) -> int:
    """m of the cheapest path; 0 for the full one."""
    count, pixels = self._references.shape
    allowed = [m for m in pca_bound.SIZES if m <= pixels // 4]
    if path == 'full' or not allowed or not len(queries):
      return 0
    if path == 'auto':
      if k in self._choices:
        return self._choices[k]
      # Gathering rows is slow beside a matrix unit, and was not measured.
      if not mesh_lib.on_cpu(self._mesh):
        return 0
      # Queries of calls before tell how many may come; few are no pilots.
      self._asked += len(queries)
      if self._asked * count * pixels < _LEAST_WORK or len(queries) < _PILOT:
        return 0
    pilot = queries[:: -(-len(queries) // _PILOT)]
    narrow, wide = (products.seconds(p) for p in ('float32', self._product))

    def cost(m: int, survivors: np.ndarray) -> float:
      return pca_bound.cost(
        survivors, m, k, pixels, count, narrow, wide, self._whole
      )

    full = pca_bound.full_cost(k, pixels, count, wide, self._whole)
    worth = _WORTH * full
    if path == 'auto' and self._sketched is None:
      built = pca_bound.build_cost(allowed[-1], pixels, count, narrow)
      each = cost(allowed[0], np.zeros(1))
      each += pca_bound.features_cost(allowed[0], pixels, narrow)
      if built + self._asked * each > self._asked * worth:
        return 0
    sketched = self._sketched
    if sketched is None:
      sketched = pca_bound.Sketch(self._references, self._centre, allowed[-1])
      self._sketched = sketched
    if path == 'auto':
      expected = sketched.expected_survivors(pilot, k)
      if expected is not None and cost(allowed[-1], expected) > worth:
        self._choices[k] = 0
        return 0
    found = running_best.RunningBest(len(pilot), k)
    self._pass(pilot, allowed[-1], found)
    left = sketched.survivors(pilot, found.farthest, k, allowed)
    costs = {m: cost(m, survivors) for m, survivors in left.items()}
    best = min(costs, key=lambda m: costs[m])
    if path == 'pruned':
      return best
    self._choices[k] = best if costs[best] < full else 0
    return self._choices[k]

  def _pass(
    self, queries: np.ndarray, m: int, found: running_best.RunningBest
  ) -> np.ndarray:
    """Fills `found` by one path; returns the queries given up, bool [S]."""
    given_up = np.zeros(len(queries), bool)
    shards = self._mesh.shape[mesh_lib.DATA]
    step = sizes.queries(len(queries), queries.shape[1], shards)
    for block in sizes.blocks(*self._references.shape):
      view, images = self._load(block, m)
      for start in range(0, len(queries), step):
        rows = slice(start, start + step)
        given_up[rows] |= self._search(
          queries[rows], step, m, view, images, block.start, found.part(rows)
        )
    return given_up

  def _search(
    self,
    queries: np.ndarray,
    step: int,
    m: int,
    view: certificate.View,
    references: jax.Array | None,
    first: int,
    found: running_best.RunningBest,
  ) -> np.ndarray:
    """Steps 1 to 3 for `step` queries at most; returns those given up.

    `references` are None where v says the distances.
    """
    number = len(queries)
    # One compiled shape: the last batch is filled up and cut again.
    queries = np.pad(queries, ((0, step - number), (0, 0)), mode='edge')
    features, norms = self._features(queries, m, 'query')
    norms = norms[:number]
    if references is not None:
      queries = self._everywhere(queries)
    count = min(found.k + (sizes.FEW if m else sizes.SLACK), view.count)

    def add(rows: np.ndarray, columns: np.ndarray, v: np.ndarray) -> None:
      if references is None:
        squared = np.rint(np.square(norms))[rows] - v
      else:
        with jax.enable_x64(queries.dtype != np.uint8):
          kernel = functools.partial(exact_pairs.exact, queries, references)
          parts = self._in_pieces(kernel, queries.shape[1], rows, columns)
        squared = parts.sum(axis=1, dtype=np.float64)
      found.merge(rows, columns + first, squared)

    def propose(
      visit: np.ndarray | None, **options
    ) -> tuple[np.ndarray, np.ndarray]:
      edge, index, v, maxima = self._propose(
        features, view, count, visit, **options
      )
      index = view.order[np.asarray(index)[:number]].ravel()
      # While fewer than `count` were seen, the rows that fill up come too.
      real = index < view.count
      rows = np.repeat(np.arange(number), count)
      add(rows[real], index[real], np.asarray(v)[:number].ravel()[real])
      return np.asarray(edge)[:number], np.asarray(maxima)[:number]

    visit = None
    if view.boxes is not None:
      propose(view.boxes.home(features[:number]), single=True)
      visit = view.visited(features[:number], norms, found.farthest)
    edge, maxima = propose(visit)
    cut = view.cut(norms, found.farthest)
    given_up = np.zeros(number, bool)
    unproven = edge >= cut
    if not unproven.any():
      return given_up
    survive = (maxima >= cut[:, None]) & unproven[:, None]
    if m:
      most = pca_bound.MOST_GROUPS * survive.shape[1]
      given_up = np.count_nonzero(survive, axis=1) > most
      survive &= ~given_up[:, None]
    rows, columns = np.divmod(np.flatnonzero(survive), survive.shape[1])
    # By references: their rows then stay in a CPU's cache.
    order = np.argsort(columns.astype(np.int32), kind='stable')
    rows, columns = rows[order], columns[order]
    v = maxima[rows, columns]
    if view.group > 1:
      kernel = functools.partial(
        exact_pairs.members,
        self._everywhere(features),
        view.features,
        view.norms,
        block=view.block,
        group=view.group,
      )
      width = view.group * features.shape[1]
      v = self._in_pieces(kernel, width, rows, columns)
      pair, member = np.nonzero(v >= cut[rows, None])
      members = kernels.member_rows(columns, view.block, view.group)
      rows, columns, v = rows[pair], members[pair, member], v[pair, member]
    columns = view.order[columns]
    # While fewer than k are known, the rows that fill up survive too.
    real = columns < view.count
    add(rows[real], columns[real], v[real])
    return given_up

  def _propose(
    self,
    features: np.ndarray,
    view: certificate.View,
    count: int,
    visit: np.ndarray | None,
    **options,
  ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """`kernels.propose`, among the blocks to visit if some were proven out."""
    arrays = mesh_lib.put(self._mesh, features, mesh_lib.PER_EXAMPLE)
    arrays = (arrays, view.features, view.norms)
    kernel = kernels.propose
    if visit is not None:
      visit = np.pad(visit, ((0, len(features) - len(visit)), (0, 0)))
      tiles = certificate.tiles(visit, self._mesh.shape[mesh_lib.DATA])
      arrays += tuple(
        mesh_lib.put(self._mesh, x, mesh_lib.PER_EXAMPLE) for x in tiles
      )
      kernel = kernels.propose_visited
    return kernel(
      *arrays,
      mesh=self._mesh,
      count=count,
      block=view.block,
      group=view.group,
      **options,
    )

  def _in_pieces(
    self, kernel, width: int, rows: np.ndarray, columns: np.ndarray
  ) -> np.ndarray:
    """kernel(rows, columns) by pieces of one shape, shared among devices."""
    size = sizes.pairs(len(rows), width, self._mesh.shape[mesh_lib.DATA])
    pieces = []
    for start in range(0, max(len(rows), 1), size):
      pair = (rows[start : start + size], columns[start : start + size])
      pair = [np.pad(x, (0, size - len(x))).astype(np.int32) for x in pair]
      pieces.append(kernel(*pair, mesh=self._mesh))
    return np.concatenate([np.asarray(x) for x in pieces])[: len(rows)]

  def _everywhere(self, array) -> jax.Array:
    return mesh_lib.put(self._mesh, array, mesh_lib.REPLICATED)

  def _features(self, images: np.ndarray, m: int, side: str):
    """What stands for images on a path, and their norms float64 [n]."""
    if m:
      assert self._sketched is not None  # made where m was chosen
      return self._sketched.features(images, m)
    centre = self._centre
    if self._whole:
      centre = np.full_like(centre, products.WHOLE_CENTRE)
    with jax.enable_x64(True):
      features, squares = kernels.pixel_features(
        jnp.asarray(images),
        jnp.asarray(centre),
        product=self._product,
        side=side,
      )
    return features, np.sqrt(np.asarray(squares))

  def _load(
    self, block: slice, m: int
  ) -> tuple[certificate.View, jax.Array | None]:
    """A block of references on the devices; of many, only the last stays."""
    if self._block != block:
      self._block, self._on_device = block, {}
    kept = self._on_device
    if m not in kept:
      kept[m] = self._view(block, m)
    if kept[m].exact:
      return kept[m], None
    if 'images' not in kept:
      kept['images'] = self._everywhere(self._references[block])
    return kept[m], kept['images']

  def _view(self, block: slice, m: int) -> certificate.View:
    images = self._references[block]
    count = len(images)
    group, total, size = sizes.groups(count, mesh_lib.on_cpu(self._mesh))
    fill = total - count
    order, boxes = np.arange(total), None
    if m:
      if 'sketch' not in self._on_device:
        assert self._sketched is not None
        features, _ = self._features(images, self._sketched.m, 'reference')
        self._on_device['sketch'] = features
      features, norms = pca_bound.reduced(self._on_device['sketch'], m)
      if group > 1:
        cells = pca_bound.coherent(features, sizes.CPU_BLOCK, group)
        places = kernels.member_rows(np.arange(total // group), size, group)
        order[places.ravel()] = cells
      errors: dict[str, Any] = {
        'feature_error': pca_bound.error(images.shape[1], m),
        'product_error': kernels.sum_error(m + 3, 'float32'),
        'whole': False,
      }
    else:
      features, norms = self._features(images, 0, 'reference')
      errors = kernels.pixel_errors(
        features.shape[1] + 2, images.dtype, self._product, self._whole
      )
    kind = np.int32 if self._whole and not m else np.float32
    far = np.iinfo(np.int32).max if kind == np.int32 else np.inf
    squares = np.square(norms)
    squares = (np.rint(squares) if errors['whole'] else squares).astype(kind)
    features = np.pad(features, ((0, fill), (0, 0)))
    squares = np.pad(squares, (0, fill), constant_values=far)
    if m:
      features, squares = features[order], squares[order]
      if size < total:
        boxes = certificate.make(features, order < count, size)
    return certificate.View(
      features=self._everywhere(features),
      norms=self._everywhere(squares),
      order=order,
      count=count,
      block=size,
      group=group,
      largest=norms.max().item(),
      boxes=boxes,
      **errors,
    )


def _checked(images: np.ndarray) -> np.ndarray:
  """[n, ...] -> [n, D], or ValueError."""
  images = np.asarray(images)
  if images.dtype != np.uint8:
    if not np.issubdtype(images.dtype, np.floating):
      raise ValueError(f'images are uint8 or float, not {images.dtype}')
    images = images.astype(np.float32)
    # Written so that NaN fails too.
    if images.size and not (images.min() >= 0.0 and images.max() <= 1.0):
      raise ValueError('float images for distances must lie in [0, 1]')
  return images.reshape(len(images), math.prod(images.shape[1:]))
