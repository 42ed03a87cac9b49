"""What DP-SGD guarantees: dp-accounting's numbers, and what no attack beats."""

import dataclasses
import math

import dp_accounting
from dp_accounting import pld
import numpy as np
import pytest
from scipy import stats

from jaxdiff.defences import accounting, class_means

ONE = accounting.Mechanism(
  count=1000, batch_size=50, num_steps=40, noise_multiplier=1.3
)
BOTH = dataclasses.replace(
  ONE, warm_releases=5, warm_share=0.1, warm_noise=4.0
)  # fmt: skip


@pytest.mark.parametrize('mechanism', [ONE, BOTH])
def test_epsilon_is_that_of_dp_accounting(mechanism):
  accountant = pld.PLDAccountant()
  for share, noise, count in (
    (0.05, 1.3, 40), (0.1, 4.0, mechanism.warm_releases),
  ):  # fmt: skip
    event = dp_accounting.PoissonSampledDpEvent(
      share, dp_accounting.GaussianDpEvent(noise)
    )
    if count:
      accountant.compose(event, count)
  want = accountant.get_epsilon(1e-5)
  assert accounting.epsilon(mechanism, 1e-5) == pytest.approx(want, rel=1e-4)
  assert accounting.epsilon(mechanism, 1e-5) >= want


def test_the_noise_is_the_smallest_that_keeps_to_epsilon():
  for target in (3.0,):
    sigma = accounting.noise_multiplier(BOTH, target, 1e-5)
    of = lambda noise: accounting.epsilon(
      dataclasses.replace(BOTH, noise_multiplier=noise), 1e-5
    )
    assert of(sigma) <= target < of(0.997 * sigma)


def test_what_no_noise_keeps_to():
  without = dataclasses.replace(ONE, noise_multiplier=0.0)
  assert accounting.epsilon(without, 1e-5) == math.inf
  assert (accounting.ceiling(without, np.array([0.01, 0.5])) == 1.0).all()
  loud = dataclasses.replace(BOTH, warm_noise=0.5)
  with pytest.raises(ValueError, match='class means alone'):
    accounting.noise_multiplier(loud, 1.0, 1e-5)
  assert accounting.epsilon(ONE, 1e-30) == math.inf


def test_batches_that_overflow_are_rarer_than_delta():
  for count, batch_size, steps in (
    (128, 64, 100), (30_000, 1024, 10_000), (4000, 50, 10),
  ):  # fmt: skip
    room = accounting.rows(batch_size, count, steps)
    tail = stats.binom.sf(room, count, batch_size / count)
    assert steps * tail <= 1e-20 and room % 64 == 0
    assert room <= min(2 * batch_size + 192, count + 63)


def test_the_ceiling_is_that_of_one_gaussian():
  """Without sampling, the best attack's ROC is known: the ceiling holds it."""
  one = accounting.Mechanism(
    count=10, batch_size=10, num_steps=1, noise_multiplier=2.0
  )
  fprs = np.geomspace(1e-3, 0.9, 20)
  best = stats.norm.cdf(stats.norm.ppf(fprs) + 1 / 2.0)
  found = accounting.ceiling(one, fprs)
  assert (found >= best - 1e-6).all()
  # The convex hull of lines that touch it: near it everywhere.
  assert (found <= best + 0.01).all()


def test_the_ceiling_at_known_epsilons():
  """delta 1e-5: the pure and the approximate part."""
  found = accounting.ceiling(ONE, np.array([0.0, 1.0]))
  assert 0.0 < found[0] < 1e-3 and found[1] == 1.0
  rising = accounting.ceiling(ONE, np.linspace(0.0, 1.0, 30))
  assert (np.diff(rising) >= 0.0).all()


def test_class_means_are_means_with_noise_of_their_size():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (600, 4, 4, 1)).astype(np.uint8)
  labels = np.arange(600) % 3
  images[labels == 1] = 255
  made, classes = class_means.releases(
    images, labels, 3, count=200, public=600, share=0.5, noise=0.0,
    rng=np.random.default_rng(1),
  )  # fmt: skip
  assert made.shape == (600, 4, 4, 1) and classes[:4].tolist() == [0, 1, 2, 0]
  x = images.reshape(600, -1) / 127.5 - 1.0
  for label in (0, 2):
    want = x[labels == label].mean(axis=0)
    got = made[classes == label].reshape(200, -1).mean(axis=0)
    assert np.abs(got - want).max() < 0.03
  noisy, _ = class_means.releases(
    images, labels, 3, count=200, public=600,
    share=0.5, noise=2.0, rng=np.random.default_rng(1),
  )  # fmt: skip
  same, _ = class_means.releases(
    images,
    labels,
    3,
    count=200,
    public=600,
    share=0.5,
    noise=2.0,
    rng=np.random.default_rng(1),
  )
  np.testing.assert_array_equal(noisy, same)
  # Of class 0, whose means are near 0 and so not clipped: 2 sqrt(16) / 100.
  spread = noisy[classes == 0].std(axis=0).mean()
  assert abs(spread / (2.0 * 4.0 * 3 / 300) - 1.0) < 0.15


def test_an_image_moves_a_release_by_its_norm_at_most():
  """And one class alone: what the noise is made for."""
  images = np.full((50, 2, 2, 1), 200, np.uint8)
  labels = np.arange(50) % 2
  settings = {'count': 1, 'share': 1.0, 'noise': 0.0, 'public': 50}
  sums = []
  for kept in (50, 49):
    made, _ = class_means.releases(
      images[:kept], labels[:kept], 2, rng=np.random.default_rng(0), **settings
    )
    sums.append(made.reshape(2, -1))
  moved = np.abs(sums[0] - sums[1])
  # As it is published: what the noise is divided by is no secret.
  assert np.sqrt((moved**2).sum()) <= 2.0 * 2 / 50 + 1e-5
  assert moved[0].max() < 1e-5
