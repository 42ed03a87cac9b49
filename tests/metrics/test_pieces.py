"""Features of sets too large to be floats in memory are those of the whole."""

import numpy as np
import pytest

from jaxdiff.attacks.membership import image_features
from jaxdiff.metrics import frechet, pieces


@pytest.fixture
def images():
  rng = np.random.default_rng(0)
  coarse = rng.integers(0, 256, (1200, 4, 4, 3), np.uint8)
  return coarse.repeat(2, axis=1).repeat(2, axis=2)


def test_pieces_change_nothing(images, monkeypatch):
  labels = np.arange(len(images)) % 3
  whole = image_features.describe(images)
  logits = frechet.PcaLogits(images, labels)(images)
  monkeypatch.setattr(pieces, '_PIECE', 8 * images[0].size * 500)
  np.testing.assert_allclose(
    image_features.describe(images), whole, rtol=1e-4, atol=1e-5
  )
  np.testing.assert_allclose(
    frechet.PcaLogits(images, labels)(images), logits, rtol=1e-6, atol=1e-9
  )


def test_what_is_fitted_on_is_spread_evenly(images, monkeypatch):
  monkeypatch.setattr(pieces, '_FITTED', 8 * images[0].size * 500)
  some, rows = pieces.some(images, np.arange(len(images)))
  assert rows.tolist() == list(range(0, 1200, 3))
  np.testing.assert_array_equal(some, images[::3])
  # Components of some are about those of all: the same images are described.
  assert image_features.describe(images).shape[0] == len(images)
