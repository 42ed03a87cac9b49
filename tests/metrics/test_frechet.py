"""Frechet distance: closed forms, scipy's square root, and its interval."""

import numpy as np
import pytest
from scipy import linalg

from jaxdiff.data import datasets
from jaxdiff.metrics import frechet


def normal(rng, count, width, scale=1.0, shift=0.0):
  mix = rng.standard_normal((width, width)) / np.sqrt(width)
  return scale * rng.standard_normal((count, width)) @ mix + shift


def test_equals_the_textbook_formula():
  rng = np.random.default_rng(0)
  one = frechet.moments(normal(rng, 50, 6))
  two = frechet.moments(normal(rng, 70, 6, 2.0, 0.5))
  root = linalg.sqrtm(one.covariance @ two.covariance).real
  want = np.square(one.mean - two.mean).sum() + np.trace(
    one.covariance + two.covariance - 2.0 * root
  )
  np.testing.assert_allclose(frechet.distance(one, two), want, rtol=1e-9)
  np.testing.assert_allclose(frechet.distance(two, one), want, rtol=1e-9)
  assert frechet.distance(one, one) < 1e-9


def test_of_one_feature_it_is_known_in_closed_form():
  one = frechet.Moments(np.array([1.0]), np.array(4.0))
  two = frechet.Moments(np.array([3.0]), np.array(9.0))
  assert frechet.distance(one, two) == pytest.approx(2.0**2 + (3.0 - 2.0) ** 2)


def test_fewer_images_than_features_are_no_trouble():
  rng = np.random.default_rng(0)
  one, two = (frechet.moments(normal(rng, 5, 20)) for _ in range(2))
  assert np.isfinite(frechet.distance(one, two))
  assert frechet.distance(one, one) < 1e-9
  with pytest.raises(ValueError, match='no covariance'):
    frechet.moments(np.zeros((1, 3)))


def test_worse_images_are_farther():
  digits = datasets.digits()
  rng = np.random.default_rng(0)
  real, other = digits.images[:800], digits.images[800:1600]
  features = frechet.PcaLogits(real, digits.labels[:800])
  reference = frechet.moments(features(real))
  far = []
  for noise in (0.0, 16.0, 48.0):
    noised = other + noise * rng.standard_normal(other.shape)
    noised = np.clip(np.rint(noised), 0, 255).astype(np.uint8)
    far.append(frechet.distance(frechet.moments(features(noised)), reference))
  assert far[0] < far[1] < far[2]
  # Half of the classes are missing: the logits tell.
  few = other[digits.labels[800:1600] < 5]
  missing = frechet.distance(frechet.moments(features(few)), reference)
  assert missing > 2.0 * far[0]


def test_one_class_has_no_logits_and_flat_directions_no_say():
  digits = datasets.digits()
  images = digits.images[:50]
  features = frechet.PcaLogits(images, np.zeros(50, int))
  assert features(images).shape == (50, 49)  # 50 images span 49 directions
  assert features(images).var(axis=0).sum() == pytest.approx(1.0, rel=0.05)
  # Pixels that were always dark, and no longer are.
  new = np.full_like(images, 255)
  assert np.abs(features(new)).max() < 1e3


def test_the_interval_covers_at_its_rate():
  # The distance that it estimates: between samples of this size, on average.
  rng = np.random.default_rng(0)
  draw = lambda count, shift: rng.standard_normal((count, 3)) + shift
  want = np.mean(
    [
      frechet.distance(
        frechet.moments(draw(200, 0.5)), frechet.moments(draw(200, 0.0))
      )
      for _ in range(400)
    ]
  )
  covered = 0
  for seed in range(100):
    _, low, high = frechet.with_interval(
      draw(200, 0.5), draw(200, 0.0), 200, 100, np.random.default_rng(seed)
    )
    covered += low <= want <= high
  assert 88 <= covered <= 100


def test_the_numbers_of_images_make_no_distance_larger():
  """A perfect generator is as far as a fresh half is, however much it draws."""
  rng = np.random.default_rng(1)
  draw = lambda count: normal(np.random.default_rng(7), 4000, 12)[
    rng.permutation(4000)[:count]
  ]
  halves, samples = [], []
  for _ in range(100):
    training, control, made = draw(128), draw(128), draw(2048)
    for found, features in ((halves, control), (samples, made)):
      found.append(frechet.with_interval(features, training, 128, 2, rng)[0])
  assert np.mean(samples) == pytest.approx(np.mean(halves), rel=0.08)
  # As they are, the samples seem far nearer: fewer is farther.
  plain = frechet.distance(
    frechet.moments(draw(2048)), frechet.moments(draw(128))
  )
  assert plain < 0.8 * np.mean(halves)
