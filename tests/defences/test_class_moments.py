"""Noised means and covariances of classes: their noise, and what is bounded."""

import numpy as np
import pytest

from jaxdiff.defences import class_moments


def test_class_means_are_means_with_noise_of_their_size():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (600, 4, 4, 1)).astype(np.uint8)
  labels = np.arange(600) % 3
  images[labels == 1] = 255
  made = class_moments.releases(
    images, labels, 3, count=200, public=600, share=0.5, noise=0.0,
    rng=np.random.default_rng(1),
  )  # fmt: skip
  assert made.shape == (200, 3, 4, 4, 1)
  x = images.reshape(600, -1) / 127.5 - 1.0
  for label in (0, 2):
    want = x[labels == label].mean(axis=0)
    got = made[:, label].reshape(200, -1).mean(axis=0)
    assert np.abs(got - want).max() < 0.03
  noisy = class_moments.releases(
    images, labels, 3, count=200, public=600,
    share=0.5, noise=2.0, rng=np.random.default_rng(1),
  )  # fmt: skip
  same = class_moments.releases(
    images, labels, 3, count=200, public=600,
    share=0.5, noise=2.0, rng=np.random.default_rng(1),
  )  # fmt: skip
  np.testing.assert_array_equal(noisy, same)
  spread = noisy[:, 0].std(axis=0).mean()
  assert abs(spread / (2.0 * 4.0 * 3 / 300) - 1.0) < 0.15


def test_an_image_moves_a_release_by_its_norm_at_most():
  """And one class alone: what the noise is made for."""
  images = np.full((50, 2, 2, 1), 200, np.uint8)
  labels = np.arange(50) % 2
  settings = {'count': 1, 'share': 1.0, 'noise': 0.0, 'public': 50}
  sums = []
  for kept in (50, 49):
    made = class_moments.releases(
      images[:kept], labels[:kept], 2, rng=np.random.default_rng(0), **settings
    )
    sums.append(made.reshape(2, -1))
  moved = np.abs(sums[0] - sums[1])
  # As it is published: what the noise is divided by is no secret.
  assert np.sqrt((moved**2).sum()) <= 2.0 * 2 / 50 + 1e-5
  assert moved[0].max() < 1e-5


def normal_images(rng, count, label):
  """uint8 [count, 4, 4, 1] that vary along one direction of each class."""
  mean = np.linspace(90, 160, 16)
  along = np.where(np.arange(16) % (label + 2) == 0, 1.0, -1.0) / 4.0
  x = mean + 60.0 * rng.normal(size=(count, 1)) * along
  x = x + 4.0 * rng.normal(size=x.shape)
  return np.clip(np.round(x), 0, 255).astype(np.uint8).reshape(-1, 4, 4, 1)


def drawn(images, labels, means, noise, count=4000, seed=0, public=None):
  return class_moments.draws(
    images, labels, 2, means, count=count, public=public or len(images),
    noise=noise, rng=np.random.default_rng(seed),
  )  # fmt: skip


@pytest.fixture(scope='module')
def two_classes():
  rng = np.random.default_rng(0)
  images = np.concatenate([normal_images(rng, 3000, k) for k in range(2)])
  labels = np.repeat(np.arange(2), 3000)
  order = rng.permutation(6000)
  images, labels = images[order], labels[order]
  x = images.reshape(6000, -1) / 127.5 - 1.0
  means = np.stack([x[labels == k].mean(axis=0) for k in range(2)])
  return images, labels, means.reshape(2, 4, 4, 1)


def test_without_noise_images_have_the_covariance_of_their_class(two_classes):
  images, labels, means = two_classes
  made = drawn(images, labels, means, 0.0, 20_000).reshape(20_000, 2, 16)
  x = images.reshape(6000, -1) / 127.5 - 1.0
  for label in range(2):
    rest = x[labels == label] - means[label].reshape(-1)
    assert np.linalg.norm(rest, axis=1).max() < 2.0  # none is shortened
    want = sum(np.outer(r, r) for r in rest) / 3000
    got = np.cov(made[:, label].T)
    assert np.abs(got - want).max() < 0.05 * np.abs(want).max()
    found = made[:, label].mean(axis=0)
    assert np.abs(found - means[label].reshape(-1)).max() < 0.01


def test_noise_leaves_the_directions_that_rise_above_it(two_classes):
  """One a class, of the variance that it has; all others are not varied."""
  images, labels, means = two_classes
  noise = 4.0
  edge = noise * 4.0 * 2 / 6000 * np.sqrt(32.0)
  made = drawn(images, labels, means, noise).reshape(-1, 2, 16)
  for label in range(2):
    values = np.linalg.eigvalsh(np.cov(made[:, label].T))
    assert (np.abs(values[:-1]) < 1e-5).all()
    assert values[-1] == pytest.approx((60 / 127.5) ** 2, rel=0.15)
    assert values[-1] > edge > (4 / 127.5) ** 2
  np.testing.assert_array_equal(
    made, drawn(images, labels, means, noise).reshape(-1, 2, 16)
  )


def test_noise_alone_ends_at_its_edge():
  """Largest eigenvalues of E are near sqrt(2 D), and none far beyond."""
  rng = np.random.default_rng(0)
  largest = [
    np.linalg.eigvalsh(class_moments._symmetric(200, rng))[-1]
    for _ in range(20)
  ]
  assert np.abs(np.asarray(largest) / np.sqrt(400) - 1.0).max() < 0.06
  many = np.stack([class_moments._symmetric(5, rng) for _ in range(4000)])
  assert np.abs(many - many.transpose(0, 2, 1)).max() == 0.0
  variance = many.var(axis=0)
  np.testing.assert_allclose(np.diag(variance), 1.0, rtol=0.15)
  np.testing.assert_allclose(variance[np.triu_indices(5, 1)], 0.5, rtol=0.15)
  # The normal law of symmetric matrices: all directions of norm 1 alike.
  direction = np.ones((5, 5)) / 5.0
  along = (many * direction).sum(axis=(1, 2))
  assert along.var() == pytest.approx(1.0, rel=0.15)


def test_an_image_moves_a_covariance_by_its_bound_at_most(monkeypatch):
  """However far from the mean it is, and of its own class alone."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 2, 2, 1)).astype(np.uint8)
  images[-1] = 255
  labels = np.arange(40) % 2
  means = np.full((2, 2, 2, 1), -0.9)
  seen = []
  monkeypatch.setattr(
    class_moments, '_root_beyond',
    lambda matrix, edge: seen.append(matrix) or np.zeros((4, 4)),
  )  # fmt: skip
  for kept in (40, 39):
    drawn(images[:kept], labels[:kept], means, 0.0, 1, public=40)
  moved = [np.linalg.norm(seen[k] - seen[k + 2]) * 40 / 2 for k in range(2)]
  assert moved[0] < 1e-12
  # rho^2 = D / 4, which an image so far from the mean takes whole.
  assert moved[1] == pytest.approx(1.0, abs=1e-9)
