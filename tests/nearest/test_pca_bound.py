"""The sketch's features against float64, above all those of whole numbers."""

import jax
import numpy as np
import pytest

from jaxdiff.nearest import kernels, pca_bound


def photos(count, pixels, seed=0):
  """uint8 [count, pixels] of falling variance, black and white at the ends."""
  rng = np.random.default_rng(seed)
  latent = rng.standard_normal((count, 40)) * np.geomspace(60.0, 2.0, 40)
  turn = rng.standard_normal((40, pixels)) / np.sqrt(40)
  noise = rng.standard_normal((count, pixels))
  values = 8.0 * latent @ turn + 8.0 * noise + 127.0
  return np.clip(np.rint(values), 0, 255).astype(np.uint8)


@pytest.mark.parametrize('pixels', [256, 3072, 12288])
def test_sums_with_a_whole_basis_are_exact_in_any_order(pixels):
  images = photos(64, pixels)
  centre = pca_bound.mean_image(images).astype(np.float64)
  basis = pca_bound.make_basis(images, centre.astype(np.float32), 31)
  whole, turn = pca_bound.whole_basis(basis, centre)
  np.testing.assert_array_equal(whole, np.rint(whole))
  # The worst image there can be, and a bad order: all of one sign first.
  for column in whole.T[:4]:
    image = np.where(column > 0, 255.0, 0.0)
    terms = np.sort((image - centre) * column)
    for ordered in (terms, terms[::-1]):
      partial = np.cumsum(ordered, dtype=np.float32)
      np.testing.assert_array_equal(partial, np.cumsum(ordered))
  np.testing.assert_allclose(
    (whole @ turn).T @ whole @ turn, np.eye(31), atol=1e-12
  )
  np.testing.assert_array_equal(turn, np.triu(turn))
  # The span is nearly the same: no basis vector lost more than a hundredth.
  kept = np.linalg.norm((whole @ turn).T @ basis, axis=0)
  assert (kept > 0.99).all()


def test_too_many_pixels_have_no_whole_basis():
  basis = np.zeros((2**16, 1))
  basis[0] = 1.0
  assert pca_bound.whole_basis(basis, np.full(2**16, 128.0)) is None


@pytest.mark.parametrize('m', [31, 63])
@pytest.mark.parametrize('kind', [np.uint8, np.float32])
def test_features_are_within_their_error_of_float64(m, kind):
  images = photos(600, 768)
  images[:2] = [[0], [255]]
  images = images if kind == np.uint8 else images.astype(np.float32) / 255
  centre = pca_bound.mean_image(images)
  made = pca_bound.Sketch(images, centre, 63)
  assert (made._turn is not None) == (kind == np.uint8)
  features, norms = made.features(images, m)
  basis = made._basis[:, :m]
  basis = np.linalg.qr(basis)[0]  # whatever made it orthonormal
  centred = images.astype(np.float64) - centre
  inside = centred @ basis
  rest = np.sqrt(np.square(centred - inside @ basis.T).sum(axis=1))
  size = np.linalg.norm(centred, axis=1)
  room = pca_bound.error(768, m) * size
  assert (np.abs(features[:, -1] - rest) <= room).all()
  inner = features[:, :-1].astype(np.float64)
  # Up to sign the coordinates are those of any basis of the same spans.
  assert (np.abs(np.abs(inner) - np.abs(inside)) <= room[:, None]).all()
  np.testing.assert_allclose(
    norms, np.linalg.norm(features.astype(np.float64), axis=1), rtol=1e-12
  )


@pytest.mark.parametrize('count', [1, 4, 58, 3000])
def test_top_in_parts_is_top(count):
  values = np.random.default_rng(0).standard_normal((5, 3776), np.float32)
  values[1, 100:] = -np.inf  # of a query that visits few blocks
  values[2] = np.round(values[2])  # ties
  best, place = jax.jit(kernels._top, static_argnums=1)(values, count)
  want = -np.sort(-values, axis=1)[:, :count]
  np.testing.assert_array_equal(best, want)
  np.testing.assert_array_equal(np.take_along_axis(values, place, 1), want)
  assert all(len(set(row)) == count for row in np.asarray(place).tolist())
