"""Neighbours by the farthest tile, against a loop over pairs and tiles."""

import jax
import numpy as np
import pytest

from jaxdiff.attacks.extraction import neighbours
from jaxdiff.metrics import tiled_distance
from jaxdiff.nearest import index, tiled
from jaxdiff.runtime import mesh, products


def naive(queries, references, k, grid):
  """One pair and tile at a time."""
  height, width = (side // grid for side in queries.shape[1:3])
  out = np.zeros((len(queries), len(references)))
  for s, query in enumerate(queries.astype(float)):
    for n, reference in enumerate(references.astype(float)):
      error = np.square(query - reference)
      out[s, n] = max(
        error[i * height : (i + 1) * height, j * width : (j + 1) * width].mean()
        for i in range(grid)
        for j in range(grid)
      )
  order = np.argsort(out, axis=1, kind='stable')[:, :k]
  return np.sqrt(np.take_along_axis(out, order, axis=1)) / 255.0, order


def images(seed, count, size=8, channels=1, levels=256):
  rng = np.random.default_rng(seed)
  shape = (count, size, size, channels)
  return (rng.integers(0, levels, shape) * (255 // (levels - 1))).astype(
    np.uint8
  )


@pytest.mark.parametrize(
  ('channels', 'grid', 'levels'),
  [(1, 4, 256), (3, 2, 256), (3, 1, 2), (1, 8, 2)],
)
def test_equals_the_naive_twin(channels, grid, levels, monkeypatch):
  monkeypatch.setattr(tiled, '_REFERENCES', 16)  # several blocks, one of them
  monkeypatch.setattr(tiled, '_QUERIES', 8)  # not whole
  monkeypatch.setattr(tiled, '_HELD_PIXELS', 20 * 64 * channels)
  queries = images(0, 21, channels=channels, levels=levels)
  references = images(1, 37, channels=channels, levels=levels)
  references[5] = references[30] = queries[3]
  want = naive(queries, references, 37, grid)
  for number in (1, 4):
    made = tiled.TiledIndex(
      references, grid, mesh.make(1, jax.devices()[:number])
    )
    # More than are held at a time, too.
    for k in (7, 37):
      got = made.nearest(queries, k)
      np.testing.assert_array_equal(got[1], want[1][:, :k])
      np.testing.assert_allclose(got[0], want[0][:, :k], rtol=1e-6)
    got = made.nearest(queries, 7)
  assert list(got[1][3, :2]) == [5, 30] and got[0][3, 1] == 0.0


@pytest.mark.parametrize('kind', products.PRODUCTS)
def test_every_product_says_the_same(kind, monkeypatch):
  monkeypatch.setattr(products, 'of_whole', lambda mesh, numbers: kind)
  queries = images(0, 9, size=40, channels=3)
  references = images(1, 30, size=40, channels=3, levels=2)
  got = tiled.TiledIndex(references, 2).nearest(queries, 30)  # 1,200 a tile
  want = naive(queries, references, 30, 2)
  np.testing.assert_array_equal(got[1], want[1])
  np.testing.assert_allclose(got[0], want[0], rtol=1e-6)


def test_black_beside_white_in_large_tiles_is_exact():
  """The largest sums there are: 2^15 values of squared difference 255^2."""
  black = np.zeros((1, 128, 256, 1), np.uint8)
  references = np.concatenate([255 - black, black, 254 - black])
  distance, order = tiled.TiledIndex(references, 1).nearest(black, 3)
  assert list(order[0]) == [1, 2, 0]
  np.testing.assert_allclose(distance[0], [0.0, 254 / 255, 1.0], rtol=1e-6)


def test_one_tile_is_the_plain_distance_and_the_graph_has_the_same():
  queries, references = images(2, 9, channels=3), images(3, 40, channels=3)
  plain = index.nearest(queries, references, 5)
  got = tiled.TiledIndex(references, 1).nearest(queries, 5)
  np.testing.assert_array_equal(got[1], plain[1])
  np.testing.assert_allclose(got[0], plain[0], rtol=1e-6)
  graph = tiled_distance.tile_distances(references, 4)
  distance, order = tiled.TiledIndex(references, 4).nearest(references, 40)
  np.testing.assert_array_equal(
    distance, np.take_along_axis(graph, order, axis=1)
  )


def test_a_common_background_is_no_copy_by_tiles():
  """A white margin makes all near; the pictures in the corner differ."""
  rng = np.random.default_rng(4)
  references = np.full((30, 16, 16, 1), 255, np.uint8)
  references[:, :4, :4] = rng.integers(0, 256, (30, 4, 4, 1))
  query = np.full((1, 16, 16, 1), 255, np.uint8)
  query[:, :4, :4] = rng.integers(0, 256, (1, 4, 4, 1))
  plain = index.nearest(query, references, 1)[0][0, 0]
  by_tiles = tiled.TiledIndex(references, 4).nearest(query, 1)[0][0, 0]
  # All that differs is in one of 16 tiles.
  np.testing.assert_allclose(by_tiles, 4.0 * plain, rtol=1e-5)


def test_mirrored_and_moved_samples_are_found_among_groups():
  references = images(5, 40)
  references[7, -1] = references[7, -2]  # what moves out at an edge is lost
  references[8] = references[7] ^ 1
  group = np.arange(40)
  group[8] = 7
  query = references[7:8, :, ::-1]
  query = np.pad(query, ((0, 0), (1, 0), (0, 0), (0, 0)), 'edge')[:, :-1]
  made = tiled.TiledIndex(references, 4)

  def nearest(*settings):
    distance, found = neighbours.nearest_images(
      query, made, np.arange(40), 3, *settings
    )
    return distance[0, 0], list(found[0])

  assert nearest(True, None, 1)[0] == 0.0
  assert nearest(True, None, 1)[1][:2] == [7, 8]
  distance, found = nearest(True, group, 1)
  assert distance == 0.0 and found[0] == 7 and 8 not in found
  for flip, shift in ((False, 1), (True, 0)):
    assert nearest(flip, group, shift)[0] > 0.1


@pytest.mark.parametrize(
  ('shape', 'dtype', 'grid', 'words'),
  [
    ((4, 9, 8, 1), np.uint8, 4, 'do not divide'),
    ((4, 8, 8, 1), np.float32, 4, 'uint8'),
    ((4, 256, 256, 1), np.uint8, 1, 'finer grid'),
  ],
)
def test_what_has_no_tiles_is_refused(shape, dtype, grid, words):
  with pytest.raises(ValueError, match=words):
    tiled.TiledIndex(np.zeros(shape, dtype), grid)


def test_other_queries_and_too_many_neighbours_are_refused():
  made = tiled.TiledIndex(images(0, 4), 4)
  with pytest.raises(ValueError, match='queries are'):
    made.nearest(images(0, 4, size=4), 1)
  with pytest.raises(ValueError, match='there are 4 references'):
    made.nearest(images(0, 4), 5)
