"""Tiled distances and graphs against a naive float64 twin."""

import jax
import numpy as np
import pytest

from jaxdiff.metrics import tiled_distance
from jaxdiff.runtime import mesh, products


def naive(images, grid):
  """Pair by pair, tile by tile."""
  x = images.astype(np.float64) / 255.0
  count, height, width, _ = x.shape
  h, w = height // grid, width // grid
  out = np.zeros((count, count))
  for a in range(count):
    for b in range(count):
      out[a, b] = max(
        np.sqrt(np.mean(np.square(
          x[a, i * h : (i + 1) * h, j * w : (j + 1) * w]
          - x[b, i * h : (i + 1) * h, j * w : (j + 1) * w]
        )))
        for i in range(grid)
        for j in range(grid)
      )  # fmt: skip
  return out


def groups(seed, count, shape, spread):
  """Noisy copies of count // 4 images of smooth patches, four of each."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count // 4, 4, 4, shape[2]))
  base = coarse.repeat(shape[0] // 4, axis=1).repeat(shape[1] // 4, axis=2)
  noise = rng.normal(0, spread, (count, *shape))
  images = base.repeat(4, axis=0) + noise
  return np.clip(np.rint(images), 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
  ('shape', 'grid'),
  [((16, 16, 3), 4), ((32, 16, 1), 2), ((12, 12, 3), 3), ((5, 7, 2), 1)],
)
def test_distances_equal_the_naive_twin(shape, grid):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (11, *shape), np.uint8)
  images[3] = images[5]
  images[7] = images[6] ^ 1
  found = tiled_distance.tile_distances(images, grid)
  np.testing.assert_allclose(found, naive(images, grid), rtol=3e-7, atol=1e-12)
  assert found[3, 5] == 0.0
  np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize('side', [48, 240])  # 2^12 values a tile, and 2^17
@pytest.mark.parametrize('kind', products.PRODUCTS)
def test_pieces_of_a_tile_are_exact(kind, side, monkeypatch):
  monkeypatch.setattr(products, 'of_whole', lambda mesh, numbers: kind)
  # Black against white is the extreme.
  images = np.zeros((3, 2 * side, 2 * side, 3), np.uint8)
  images[1] = 255
  images[2, :side] = 255
  found = tiled_distance.tile_distances(images, 2)
  np.testing.assert_array_equal(found, 1.0 - np.eye(3))


@pytest.mark.parametrize('cached', [0, 2**14, 2**30])
def test_how_much_of_a_tile_is_multiplied_at_once_changes_nothing(
  cached, monkeypatch
):
  monkeypatch.setattr(products, 'of_whole', lambda mesh, numbers: 'int8')
  monkeypatch.setattr(tiled_distance, '_CACHED', cached)
  tiled_distance._add_tile.clear_cache()
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (5, 64, 96, 3), np.uint8)
  found = tiled_distance.tile_distances(images, 2)
  tiled_distance._add_tile.clear_cache()
  np.testing.assert_allclose(found, naive(images, 2), rtol=3e-7, atol=1e-12)


def test_one_tile_apart_is_apart():
  """What the distance is for: the same background hides nothing."""
  rng = np.random.default_rng(0)
  images = np.repeat(rng.integers(0, 256, (1, 32, 32, 3), np.uint8), 2, axis=0)
  images[1, :8, :8] = 255 - images[0, :8, :8]
  plain = np.sqrt(np.square(np.diff(images / 255.0, axis=0)).mean())
  tiled = tiled_distance.tile_distances(images)[0, 1]
  assert tiled == pytest.approx(4.0 * plain, rel=1e-6)


@pytest.mark.parametrize('tau', [0.0, 0.03, 0.06, 0.1, 0.3])
@pytest.mark.parametrize(
  ('shape', 'grid'), [((32, 32, 3), 4), ((64, 64, 1), 2), ((12, 12, 3), 4)]
)
def test_graph_has_exactly_the_edges(tau, shape, grid):
  images = groups(1, 40, shape, 12.0)
  images[1] = images[0]
  want = naive(images, grid)
  edges, distances = tiled_distance.tile_graph(images, tau, grid)
  first, second = np.nonzero(np.triu(want <= tau, 1))
  np.testing.assert_array_equal(edges, np.stack([first, second], axis=1))
  np.testing.assert_allclose(distances, want[first, second], rtol=3e-7)


def test_a_pair_at_tau_is_an_edge_and_just_above_is_none():
  images = np.full((2, 16, 16, 1), 100, np.uint8)
  images[1] += 3  # every tile at 3 / 255
  assert len(tiled_distance.tile_graph(images, 3 / 255 + 1e-9)[0]) == 1
  assert len(tiled_distance.tile_graph(images, 3 / 255 - 1e-9)[0]) == 0


def test_the_pooled_bound_is_below_and_not_idle():
  images = groups(2, 40, (32, 32, 3), 6.0)
  exact = np.square(naive(images, 4) * 255.0) * 8 * 8 * 3
  bound = tiled_distance._pooled_squares(images, 4)
  assert (bound <= exact * (1 + 1e-9) + 1e-6).all()
  apart = exact > np.median(exact)
  assert (bound[apart] > 0.9 * exact[apart]).all()


@pytest.mark.parametrize('number', [1, 2, 4])
@pytest.mark.parametrize('grid', [1, 2, 4])
def test_devices_change_nothing(number, grid):
  images = groups(3, 20, (32, 32, 3), 12.0)
  devices = mesh.make(1, jax.devices()[:number])
  found = tiled_distance.tile_distances(images, grid, devices)
  np.testing.assert_allclose(found, naive(images, grid), rtol=3e-7, atol=1e-12)


def test_one_image_and_none():
  images = groups(3, 4, (8, 8, 1), 1.0)
  assert tiled_distance.tile_distances(images[:1]).tolist() == [[0.0]]
  for count in (0, 1):
    edges, distances = tiled_distance.tile_graph(images[:count], 0.1)
    assert edges.shape == (0, 2) and distances.shape == (0,)


@pytest.mark.parametrize(
  ('images', 'message'),
  [
    (np.zeros((2, 8, 8, 1), np.float32), 'uint8'),
    (np.zeros((2, 64), np.uint8), 'n, H, W, C'),
    (np.zeros((2, 10, 8, 1), np.uint8), '4 x 4 tiles'),
  ],
)
def test_bad_images_are_refused(images, message):
  for call in (
    tiled_distance.tile_distances,
    lambda x: tiled_distance.tile_graph(x, 0.1),
  ):
    with pytest.raises(ValueError, match=message):
      call(images)
