"""What DP-SGD guarantees: dp-accounting's numbers, and what no attack beats."""

import dataclasses
import math

import dp_accounting
from dp_accounting import pld
import numpy as np
import pytest
from scipy import stats

from jaxdiff.defences import accounting

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


def test_a_covariance_is_one_gaussian_mechanism_more():
  mechanism = dataclasses.replace(BOTH, warm_covariance=3.0)
  accountant = pld.PLDAccountant()
  accountant.compose(dp_accounting.GaussianDpEvent(3.0))
  for share, noise, count in ((0.05, 1.3, 40), (0.1, 4.0, 5)):
    event = dp_accounting.PoissonSampledDpEvent(
      share, dp_accounting.GaussianDpEvent(noise)
    )
    accountant.compose(event, count)
  want = accountant.get_epsilon(1e-5)
  assert accounting.epsilon(mechanism, 1e-5) == pytest.approx(want, rel=1e-4)
  assert want > accounting.epsilon(BOTH, 1e-5) + 0.3


def test_the_noise_is_the_smallest_that_keeps_to_epsilon():
  for target in (3.0,):
    sigma = accounting.noise_multiplier(BOTH, target, 1e-5)
    of = lambda noise: accounting.epsilon(
      dataclasses.replace(BOTH, noise_multiplier=noise), 1e-5
    )
    assert of(sigma) <= target < of(0.997 * sigma)


@pytest.mark.parametrize(
  ('count', 'batch_size', 'steps', 'target', 'delta'),
  [
    (64, 16, 250, 0.05, 0.05), (1000, 32, 100, 0.01, 0.01),
    (1000, 10, 5, 1.0, 0.1), (30_000, 1, 1, 10.0, 1e-4),
  ],
)  # fmt: skip
def test_epsilons_of_nothing_end(count, batch_size, steps, target, delta):
  """With a large delta epsilon is 0 from some noise on, or whatever it is."""
  mechanism = accounting.Mechanism(count, batch_size, steps, 0.0)
  sigma = accounting.noise_multiplier(mechanism, target, delta)
  kept = dataclasses.replace(mechanism, noise_multiplier=sigma)
  # Coarse is too large, but at the least noise, where fine takes long, enough.
  interval = 1e-4 if sigma > 0.1 else 1e-3
  assert sigma >= 0.1 and accounting.epsilon(kept, delta, interval) <= target


def test_what_no_noise_keeps_to():
  without = dataclasses.replace(ONE, noise_multiplier=0.0)
  assert accounting.epsilon(without, 1e-5) == math.inf
  assert (accounting.ceiling(without, np.array([0.01, 0.5])) == 1.0).all()
  loud = dataclasses.replace(BOTH, warm_noise=0.5)
  with pytest.raises(ValueError, match='by itself'):
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
