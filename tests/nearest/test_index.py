"""nearest against a naive float64 twin, near-duplicates above all."""

import jax
import numpy as np
import pytest

from jaxdiff.nearest import exact_pairs, kernels, pca_bound, sizes
from jaxdiff.nearest import index as index_lib
from jaxdiff.runtime import mesh, products

pytestmark = pytest.mark.slow


def naive(queries, references, k):
  scale = 255.0 if queries.dtype == np.uint8 else 1.0
  q = queries.reshape(len(queries), -1).astype(np.float64) / scale
  r = references.reshape(len(references), -1).astype(np.float64) / scale
  rmse = np.sqrt(((q[:, None] - r[None]) ** 2).mean(axis=2))
  index = np.argsort(rmse, axis=1, kind='stable')[:, :k]
  return np.take_along_axis(rmse, index, axis=1), index


def images(seed, count, shape, dtype):
  rng = np.random.default_rng(seed)
  if dtype == np.uint8:
    return rng.integers(0, 256, (count, *shape), np.uint8)
  return rng.random((count, *shape)).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('shape', [(4, 4, 1), (8, 8, 3)])
@pytest.mark.parametrize(('count', 'k'), [(1, 1), (32, 32), (300, 7)])
def test_equals_the_naive_twin(dtype, shape, count, k):
  queries = images(0, 37, shape, dtype)
  references = images(1, count, shape, dtype)
  want, want_index = naive(queries, references, k)
  for path in index_lib.PATHS:
    found, index = index_lib.nearest(queries, references, k, path=path)
    np.testing.assert_allclose(found, want, rtol=2e-7)
    np.testing.assert_array_equal(index, want_index)


def test_near_duplicates_and_copies_keep_their_distance():
  references = images(1, 500, (16, 16, 3), np.uint8)
  queries = references[:20].copy()
  queries[:10, 0, 0, 0] ^= 1  # one pixel by one: RMSE 1.4e-4
  found, index = index_lib.nearest(queries, references, 2)
  np.testing.assert_array_equal(index[:, 0], np.arange(20))
  np.testing.assert_allclose(found[:10, 0], 1 / 255 / np.sqrt(768), rtol=1e-6)
  np.testing.assert_array_equal(found[10:, 0], 0.0)


def test_ties_go_to_the_lower_index():
  references = np.repeat(images(1, 5, (4, 4, 1), np.uint8), 3, axis=0)
  _, index = index_lib.nearest(references[::3], references, 3)
  np.testing.assert_array_equal(index, np.arange(15).reshape(5, 3))


def test_more_pixels_than_an_int32_sum_holds():
  references = images(1, 3, (200, 200, 1), np.uint8)
  queries = 255 - references
  found, index = index_lib.nearest(queries, references, 3)
  want, want_index = naive(queries, references, 3)
  np.testing.assert_allclose(found, want, rtol=2e-6)
  np.testing.assert_array_equal(index, want_index)


def test_int8_refuses_what_may_not_fit_32_bits():
  large = np.zeros((2, 2**15 + 1), np.uint8)
  with pytest.raises(ValueError, match='32768 pixels'):
    index_lib.Index(large, product='int8')


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_large_images_go_by_few_at_a_time(dtype, monkeypatch):
  monkeypatch.setattr(sizes, '_QUERY_PIXELS', 3 * 192)
  monkeypatch.setattr(exact_pairs, '_STEP_NUMBERS', 5 * 192)
  exact_pairs.exact.clear_cache()
  queries = images(0, 19, (8, 8, 3), dtype)
  references = clusters(2, 60, (8, 8, 3), dtype)
  found, index = index_lib.nearest(queries, references, 4)
  want, want_index = naive(queries, references, 4)
  np.testing.assert_allclose(found, want, rtol=2e-7)
  np.testing.assert_array_equal(index, want_index)
  exact_pairs.exact.clear_cache()


def test_no_queries_is_no_error():
  references = images(1, 9, (4, 4, 1), np.uint8)
  found, index = index_lib.nearest(references[:0], references, 2)
  assert found.shape == index.shape == (0, 2)


@pytest.mark.parametrize(
  ('queries', 'references', 'k', 'message'),
  [
    (np.zeros((1, 4), np.int32), np.zeros((2, 4), np.int32), 1, 'uint8'),
    (np.full((1, 4), 1.5), np.zeros((2, 4)), 1, r'\[0, 1\]'),
    (np.full((1, 4), np.nan), np.zeros((2, 4)), 1, r'\[0, 1\]'),
    (np.zeros((1, 4)), np.zeros((2, 4), np.uint8), 1, 'references uint8'),
    (np.zeros((1, 4)), np.zeros((2, 5)), 1, '5'),
    (np.zeros((1, 4)), np.zeros((2, 4)), 3, '2 references'),
    (np.zeros((1, 4)), np.zeros((2, 4)), 0, 'k is 0'),
  ],
)
def test_bad_input_is_refused(queries, references, k, message):
  with pytest.raises(ValueError, match=message):
    index_lib.nearest(queries, references, k)


def clusters(seed, count, shape, dtype=np.uint8):
  """Images near a few prototypes: some structure for a basis to find."""
  rng = np.random.default_rng(seed)
  prototypes = np.random.default_rng(9).integers(40, 216, (20, *shape))
  noise = rng.normal(0, 12, (count, *shape))
  values = prototypes[rng.integers(0, 20, count)] + noise
  values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
  return values if dtype == np.uint8 else (values / 255.0).astype(dtype)


@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
@pytest.mark.parametrize('product', products.PRODUCTS)
@pytest.mark.parametrize('path', ['full', 'pruned'])
@pytest.mark.parametrize('k', [1, 20])
def test_paths_and_products_change_nothing(dtype, product, path, k):
  if product == 'int8' and dtype != np.uint8:
    pytest.raises(ValueError, index_lib.Index, np.zeros((2, 4)), product='int8')
    return
  queries = clusters(1, 70, (8, 8, 3), dtype)
  references = clusters(2, 5000, (8, 8, 3), dtype)  # enough to be grouped
  queries[:3] = references[7:10]
  index = index_lib.Index(references, product=product)
  found, where = index.nearest(queries, k, path)
  want, want_index = naive(queries, references, k)
  np.testing.assert_allclose(found, want, rtol=2e-7)
  np.testing.assert_array_equal(where, want_index)
  assert index.path == path


@pytest.mark.parametrize('path', ['full', 'pruned'])
@pytest.mark.parametrize('number', [1, 2, 4])
def test_devices_and_blocks_change_nothing(path, number, monkeypatch):
  monkeypatch.setattr(sizes, '_REFERENCES', 1500)  # three blocks
  monkeypatch.setattr(sizes, '_QUERIES', 16)
  monkeypatch.setattr(sizes, '_PAIR_NUMBERS', 192 * 512)
  queries, references = clusters(1, 75, (8, 8, 3)), clusters(2, 4000, (8, 8, 3))
  devices = mesh.make(1, jax.devices()[:number])
  found, index = index_lib.nearest(
    queries, references, 5, path=path, mesh=devices
  )
  want, want_index = naive(queries, references, 5)
  np.testing.assert_allclose(found, want, rtol=2e-7)
  np.testing.assert_array_equal(index, want_index)


@pytest.mark.parametrize('path', ['full', 'pruned'])
def test_more_copies_than_proposals(path):
  references = clusters(2, 5000, (8, 8, 3))
  references[100:4900:3] = references[100]
  found, index = index_lib.nearest(
    references[100:103], references, 12, path=path
  )
  np.testing.assert_array_equal(index[0], 100 + 3 * np.arange(12))
  np.testing.assert_array_equal(found[0], 0.0)
  np.testing.assert_array_equal(
    index, naive(references[100:103], references, 12)[1]
  )


@pytest.mark.parametrize('product', ['float32', 'int8'])
def test_more_neighbours_than_a_block_has_references(product, monkeypatch):
  monkeypatch.setattr(sizes, '_REFERENCES', 4500)  # 4,500 and 600
  queries, references = clusters(1, 3, (8, 8, 1)), clusters(2, 5100, (8, 8, 1))
  index = index_lib.Index(references, product=product)
  _, found = index.nearest(queries, 5100)
  wide = [x.reshape(len(x), -1).astype(int) for x in (queries, references)]
  squared = np.square(wide[0][:, None] - wide[1][None]).sum(axis=2)
  want = np.argsort(squared, axis=1, kind='stable')  # ties by index
  np.testing.assert_array_equal(found, want)


@pytest.mark.parametrize('product', products.PRODUCTS)
def test_nothing_but_ties_is_left_open(product, monkeypatch):
  """Many references about as far as the last: rounding would leave them."""
  rng = np.random.default_rng(0)
  # Half of them at squared distances of some 1,000; squared norms are 3 x 10^7.
  references = np.full((5000, 32, 32, 3), 28, np.uint8)
  references += rng.random(references.shape) < rng.uniform(
    0.29, 0.33, (5000, 1, 1, 1)
  )
  references[::2] += 200
  looked_into = []
  in_pieces = index_lib.Index._in_pieces

  def counted(self, kernel, width, rows, columns):
    if kernel.func is exact_pairs.members:
      looked_into.append(len(rows))
    return in_pieces(self, kernel, width, rows, columns)

  monkeypatch.setattr(index_lib.Index, '_in_pieces', counted)
  queries = np.full((8, 32, 32, 3), 28, np.uint8)
  queries[:, 0, 0, 0] += np.arange(8, dtype=np.uint8)
  index = index_lib.Index(references, product=product)
  found = index.nearest(queries, 5, 'full')
  np.testing.assert_array_equal(found[1], naive(queries, references, 5)[1])
  assert sum(looked_into) <= 2 * 8  # of 2,504 groups


@pytest.mark.parametrize('count', [300, 5000])  # alone, and in groups
@pytest.mark.parametrize('product', products.PRODUCTS)
def test_whole_products_are_the_distances(product, count, monkeypatch):
  """Nothing is rounded, so that no pair is looked at again."""
  monkeypatch.setattr(exact_pairs, 'exact', None)
  monkeypatch.setattr(sizes, 'SLACK', 0)  # of many ties, some come later
  references = images(0, count, (8, 8, 3), np.uint8)
  references[1::2] = 255 * (references[1::2] // 128)
  references[100:200] = references[:100]
  queries = np.concatenate([references[90:110], 255 - references[:20]])
  found, where = index_lib.nearest(queries, references, 7, product=product)
  want, want_index = naive(queries, references, 7)
  np.testing.assert_array_equal(where, want_index)
  np.testing.assert_allclose(found, want, rtol=2e-7)


def test_queries_with_many_survivors_go_through_the_full_product(monkeypatch):
  monkeypatch.setattr(pca_bound, 'MOST_GROUPS', 0.002)
  queries = images(1, 50, (8, 8, 3), np.uint8)  # no structure at all
  references = images(2, 5000, (8, 8, 3), np.uint8)
  index = index_lib.Index(references)
  found = index.nearest(queries, 3, 'pruned')
  assert index.certified < 1.0
  np.testing.assert_array_equal(found[1], naive(queries, references, 3)[1])


@pytest.mark.parametrize('structured', [True, False])
def test_auto_chooses_by_the_data(structured, monkeypatch):
  monkeypatch.setattr(index_lib, '_LEAST_WORK', 0)
  # As on a machine where the product is all that costs.
  monkeypatch.setattr(pca_bound, '_VALUE', 0.0)
  monkeypatch.setattr(pca_bound, '_PROPOSAL', 0.0)
  monkeypatch.setattr(products, 'seconds', lambda name: 5e-12)
  monkeypatch.setattr(pca_bound, 'build_cost', lambda *_: 0.0)
  references = clusters(2, 5000, (16, 16, 3))
  queries = references[:64] ^ 1  # near-copies: few others come as near
  if not structured:
    queries = images(1, 64, (16, 16, 3), np.uint8)
  index = index_lib.Index(references)
  index.nearest(queries, 1)
  assert index.path == ('pruned' if structured else 'full')


def test_a_basis_is_found_once_queries_make_up_for_it(monkeypatch):
  """What the first call has of them was dearer than the whole full path."""
  # Small calls add up; one of few queries has too few pilots to choose by.
  monkeypatch.setattr(index_lib, '_LEAST_WORK', 2 * 64 * 5000 * 768)
  monkeypatch.setattr(pca_bound, '_VALUE', 0.0)
  monkeypatch.setattr(pca_bound, '_PROPOSAL', 0.0)
  monkeypatch.setattr(products, 'seconds', lambda name: 5e-12)
  references = clusters(2, 5000, (16, 16, 3))
  queries = references[:64] ^ 1
  each = pca_bound.full_cost(1, 768, 5000, 5e-12, True)
  monkeypatch.setattr(pca_bound, 'build_cost', lambda *_: 100 * each)
  index = index_lib.Index(references)
  paths, found = [], []
  for _ in range(5):
    found.append(index.nearest(queries, 1)[1])
    paths.append(index.path)
    index.nearest(queries[:63], 1)
    assert index.path == 'full' or 'pruned' in paths
  assert paths[0] == 'full' and paths[-1] == 'pruned'
  np.testing.assert_array_equal(found[-1], found[0])


def test_noise_against_itself_goes_through_the_full_product(monkeypatch):
  """As when near-duplicates are looked for: every query is a reference."""
  monkeypatch.setattr(index_lib, '_LEAST_WORK', 0)
  references = images(2, 5000, (16, 16, 3), np.uint8)
  index = index_lib.Index(references)
  found, where = index.nearest(references[:640], 5)
  assert index.path == 'full'
  np.testing.assert_array_equal(where[:, 0], np.arange(640))
  assert (found[:, 1] > 0.0).all()


@pytest.mark.parametrize('product', products.PRODUCTS)
@pytest.mark.parametrize('m', [0, 31])  # 31 of 63
def test_no_reference_within_reach_is_cut(product, m):
  """The bound itself, on every pair and at exactly its distance."""
  references = clusters(2, 300, (8, 8, 3))
  grey = np.full((1, 8, 8, 3), products.WHOLE_CENTRE, np.uint8)  # norm 0
  queries = np.concatenate([clusters(1, 20, (8, 8, 3)), references[:20], grey])
  index = index_lib.Index(references, product=product)
  flat = [x.reshape(len(x), -1) for x in (queries, references)]
  if m:
    index._sketched = pca_bound.Sketch(flat[1], index._centre, 63)
  view = index._view(slice(0, 300), m)
  features, norms = index._features(flat[0], m, 'query')
  v = np.asarray(kernels.values(features, view.features, view.norms))
  wide = [x.astype(np.float64) for x in flat]
  squared = np.square(wide[0][:, None] - wide[1][None]).sum(axis=2)
  for column in range(300):
    assert (v[:, column] >= view.cut(norms, squared[:, column])).all()
  # Nor is the bound so loose that it says nothing.
  ratio = (np.square(norms)[:, None] - v) / np.maximum(squared, 1.0)
  assert np.median(ratio) > (0.8 if m else 0.999)


@pytest.mark.parametrize('count', [2, 60])  # v is computed again, or kept
@pytest.mark.parametrize('kind', [np.float32, np.int32])
def test_every_block_size_proposes_the_same(kind, count):
  """A CPU's cache wants small products, an accelerator large ones."""
  rng = np.random.default_rng(0)
  queries, features = (
    rng.standard_normal((n, 24), np.float32) for n in (36, 2048)
  )
  if kind == np.int32:
    queries, features = (
      np.rint(30 * x).astype(np.int8) for x in (queries, features)
    )
  norms = np.square(features.astype(kind)).sum(axis=1)
  v = 2 * queries.astype(kind) @ features.astype(kind).T - norms
  best = np.argsort(-v, axis=1, kind='stable')[:, :count]
  for block in (64, 1024, 2048):
    edge, index, found, maxima = kernels.propose(
      queries, features, norms, mesh=mesh.make(1, jax.devices()[:1]),
      count=count, block=block, group=16,
    )  # fmt: skip
    want = np.take_along_axis(v, best, axis=1)
    np.testing.assert_allclose(found, want, atol=1e-4)
    there = np.take_along_axis(v, np.asarray(index), axis=1)
    np.testing.assert_allclose(there, want, atol=1e-4)
    members = kernels.member_rows(np.arange(128), block, 16)
    np.testing.assert_array_equal(np.sort(members.ravel()), np.arange(2048))
    np.testing.assert_allclose(maxima, v[:, members].max(axis=2), atol=1e-4)
    rest = np.sort(v, axis=1)[:, -count - 1]
    assert (np.asarray(edge) >= rest - 1e-4).all()


@pytest.mark.parametrize('number', [1000, 4096, 5000])
def test_cells_hold_every_row_once_and_near_ones_together(number):
  features = np.random.default_rng(0).standard_normal((number, 12), np.float32)
  order = pca_bound.coherent(features, 512, 16)
  assert len(order) % 512 == 0
  np.testing.assert_array_equal(
    np.sort(order), np.minimum(np.arange(len(order)), number)
  )
  cells = order[: number // 512 * 512].reshape(-1, 16)
  cells = cells[(cells < number).all(axis=1)]
  inside = features[cells][:, :, :8].var(axis=1).mean()
  assert inside < 0.75 * features[:, :8].var(axis=0).mean()
