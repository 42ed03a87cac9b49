"""nearest against a naive float64 twin, near-duplicates above all."""

import numpy as np
import pytest

from jaxdiff.metrics import distance


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
@pytest.mark.parametrize(('count', 'k'), [(1, 1), (40, 40), (300, 7)])
def test_equals_the_naive_twin(dtype, shape, count, k):
  queries = images(0, 37, shape, dtype)
  references = images(1, count, shape, dtype)
  found, index = distance.nearest(queries, references, k)
  want, want_index = naive(queries, references, k)
  np.testing.assert_allclose(found, want, rtol=2e-6)
  np.testing.assert_array_equal(index, want_index)


def test_the_last_batch_and_several_reference_blocks(monkeypatch):
  monkeypatch.setattr(distance, '_GATHER_FLOATS', 16 * 50 * 40)
  monkeypatch.setattr(distance, '_REFERENCE_BLOCK', 64)
  distance._nearest_batch.clear_cache()
  queries = images(0, 50, (4, 4, 1), np.uint8)
  references = images(1, 200, (4, 4, 1), np.uint8)
  found, index = distance.nearest(queries, references, 5)
  want, want_index = naive(queries, references, 5)
  np.testing.assert_allclose(found, want, rtol=2e-6)
  np.testing.assert_array_equal(index, want_index)
  distance._nearest_batch.clear_cache()


def test_near_duplicates_and_copies_keep_their_distance():
  references = images(1, 500, (16, 16, 3), np.uint8)
  queries = references[:20].copy()
  queries[:10, 0, 0, 0] ^= 1  # one pixel by one: RMSE 1.4e-4
  found, index = distance.nearest(queries, references, 2)
  np.testing.assert_array_equal(index[:, 0], np.arange(20))
  np.testing.assert_allclose(found[:10, 0], 1 / 255 / np.sqrt(768), rtol=1e-6)
  np.testing.assert_array_equal(found[10:, 0], 0.0)


def test_ties_go_to_the_lower_index():
  references = np.repeat(images(1, 5, (4, 4, 1), np.uint8), 3, axis=0)
  _, index = distance.nearest(references[::3], references, 3)
  np.testing.assert_array_equal(index, np.arange(15).reshape(5, 3))


def test_batches_change_nothing(monkeypatch):
  queries = images(0, 33, (8, 8, 1), np.float32)
  references = images(1, 100, (8, 8, 1), np.float32)
  whole = distance.nearest(queries, references, 5)
  monkeypatch.setattr(distance, '_GATHER_FLOATS', 4 * 64 * 37)
  for one, two in zip(
    whole, distance.nearest(queries, references, 5), strict=True
  ):
    np.testing.assert_allclose(one, two, atol=1e-7)


def test_more_pixels_than_an_int32_sum_holds():
  references = images(1, 3, (200, 200, 1), np.uint8)
  queries = 255 - references
  found, index = distance.nearest(queries, references, 3)
  want, want_index = naive(queries, references, 3)
  np.testing.assert_allclose(found, want, rtol=2e-6)
  np.testing.assert_array_equal(index, want_index)


def test_no_queries_is_no_error():
  references = images(1, 9, (4, 4, 1), np.uint8)
  found, index = distance.nearest(references[:0], references, 2)
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
    distance.nearest(queries, references, k)
