"""What DP-SGD guarantees: by dp-accounting's privacy-loss distributions.

One training run is a composition of Gaussian mechanisms on samples drawn by
Poisson's law: R releases of class means, each with probability q_w an image and
noise sigma_w; one covariance of each class, of all its images, with noise
sigma_c; then T steps with q and sigma. The neighbouring relation is that of one
example more or less. Shares are of a public number, half of the images that
training sets are drawn from, and not of the training set itself: else one
example more would change how often all others are drawn.

A batch has room for so many rows that it overflows with a probability below
1e-20 in all of a run. What would be beyond is left out, which costs
1 + e^epsilon times as much of delta.

It holds for who does not know the seed of the run, from which noise and batches
follow.
"""

import dataclasses
import functools
import math

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import optimize

RELATION = 'one example more or less'
SAMPLING = 'every example by itself (Poisson)'
# Of a whole run: that some batch has more rows than there is room for.
_OVERFLOW = 1e-20
# Shares of the epsilon asked for beyond which none is looked at; the least
# noise.
_LEAST_SHARE, _LEAST_SIGMA = 1e-9, 0.1
# Intervals of losses that are counted together.
_FINE, _COARSE = 1e-4, 1e-3
# Rows of a batch are a multiple of this, so that devices share them.
MULTIPLE = 64


@dataclasses.dataclass(frozen=True)
class Mechanism:
  """What a training run tells of its examples.

  Attributes:
    count: the public number that shares are of.
    batch_size: expected.
    num_steps: T.
    noise_multiplier: sigma.
    warm_releases: R; 0 is none.
    warm_share: q_w.
    warm_noise: sigma_w.
    warm_covariance: sigma_c; 0 releases none.
  """

  count: int
  batch_size: int
  num_steps: int
  noise_multiplier: float
  warm_releases: int = 0
  warm_share: float = 0.0
  warm_noise: float = 0.0
  warm_covariance: float = 0.0

  @property
  def share(self) -> float:
    """q."""
    return self.batch_size / self.count


def rows(mean: float, most: int, num_steps: int) -> int:
  """Rows that a batch has room for.

  By Chernoff's bound, P(X >= r) <= exp(r - m - r log(r / m)) of Poisson's law
  of mean m, which no binomial of its mean exceeds there.

  Args:
    mean: of a batch, of the largest training set.
    most: examples of that.
    num_steps: of a run.
  """
  tail = math.log(_OVERFLOW / num_steps)
  room = math.ceil(mean) + 1
  while room < most and room - mean - room * math.log(room / mean) > tail:
    room += 1
  return filled(min(room, most))


def filled(rows_wanted: int) -> int:
  """Rows that devices can share, at least so many."""
  return -(-rows_wanted // MULTIPLE) * MULTIPLE


@functools.lru_cache(maxsize=64)
def _accountant(mechanism: Mechanism, interval: float = _FINE):
  import dp_accounting
  from dp_accounting import pld

  accountant = pld.PLDAccountant(
    dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    value_discretization_interval=interval,
  )
  if mechanism.warm_releases:
    accountant.compose(
      dp_accounting.PoissonSampledDpEvent(
        mechanism.warm_share,
        dp_accounting.GaussianDpEvent(mechanism.warm_noise),
      ),
      mechanism.warm_releases,
    )
  if mechanism.warm_covariance:
    accountant.compose(dp_accounting.GaussianDpEvent(mechanism.warm_covariance))
  if mechanism.num_steps:
    accountant.compose(
      dp_accounting.PoissonSampledDpEvent(
        mechanism.share,
        dp_accounting.GaussianDpEvent(mechanism.noise_multiplier),
      ),
      mechanism.num_steps,
    )
  return accountant


def epsilon(
  mechanism: Mechanism, delta: float, interval: float = _FINE
) -> float:
  """The smallest epsilon at a delta; infinite without noise.

  Args:
    mechanism: what is accounted for.
    delta: of the guarantee.
    interval: of losses that are counted together: the larger, the faster, and
      the more too large.
  """
  if not mechanism.noise_multiplier and mechanism.num_steps:
    return math.inf
  if not mechanism.warm_noise and mechanism.warm_releases:
    return math.inf
  accountant = _accountant(mechanism, interval)
  found = float(accountant.get_epsilon(delta))
  # What an overflow costs grows with epsilon, by hardly anything.
  for _ in range(3):
    if not math.isfinite(found) or found > 40.0:
      return math.inf
    left = delta - _OVERFLOW * (1.0 + math.exp(found + 1e-3))
    if left <= 0.0:
      return math.inf
    found = max(found, float(accountant.get_epsilon(left)))
  return found


@functools.lru_cache(maxsize=64)
def noise_multiplier(
  mechanism: Mechanism, target: float, delta: float
) -> float:
  """The smallest sigma that keeps to epsilon: to one part in a thousand.

  None is below 0.1, which is hardly noise, and slow to account for.

  Args:
    mechanism: whose own sigma is not used.
    target: epsilon, 40 at most.
    delta: of the guarantee.

  Raises:
    ValueError: if the releases of the first phase take it all already.
  """
  none = dataclasses.replace(mechanism, num_steps=0)
  if mechanism.warm_releases:
    taken = epsilon(none, delta, _COARSE)
    if taken >= target:
      raise ValueError(
        f'what training starts with takes epsilon {taken:.3g} by itself'
      )

  @functools.cache
  def excess(log_sigma: float, interval: float) -> float:
    """Above 0 where so much noise does not keep to epsilon."""
    with_sigma = dataclasses.replace(
      mechanism, noise_multiplier=math.exp(log_sigma)
    )
    found = epsilon(with_sigma, delta, interval) / target
    # It may be 0 or infinite.
    return math.log(min(max(found, _LEAST_SHARE), 1.0 / _LEAST_SHARE))

  high = 0.0
  while excess(high, _COARSE) > 0.0:
    high += math.log(2.0)
    if high > math.log(1e6):
      raise ValueError(f'no noise keeps to epsilon {target:g}')
  low = high - math.log(2.0)
  least = math.log(_LEAST_SIGMA)
  while excess(low, _COARSE) <= 0.0:
    if low == least:
      return _LEAST_SIGMA
    low, high = max(low - math.log(2.0), least), low
  for interval, precision in ((_COARSE, 2e-3), (_FINE, 2e-4)):
    root = optimize.brentq(excess, low, high, (interval,), xtol=precision)
    high = root + precision
    while excess(high, interval) > 0.0:
      high += precision
    # Coarse is too large, by little most often.
    step = 0.02
    low = max(root - step, least)
    while interval == _COARSE and excess(low, _FINE) <= 0.0:
      if low == least:
        return _LEAST_SIGMA
      step *= 2.0
      low = max(low - step, least)
  return math.exp(high)


def ceiling(mechanism: Mechanism, fprs: np.ndarray) -> np.ndarray:
  """The largest TPR of any membership attack at each FPR.

  Kairouz et al. 2015: TPR <= e^eps FPR + delta(eps) for every eps, and the same
  with members and others in each other's place. It is about an example that is
  in or out independently of all others.

  Args:
    mechanism: what attacks see the result of.
    fprs: [F].

  Returns:
    [F], at most 1; 1 everywhere without noise.
  """
  if not mechanism.noise_multiplier:
    return np.ones(len(fprs))
  grid = np.concatenate([[0.0], np.geomspace(1e-3, 50.0, 200)])
  deltas = np.asarray(_accountant(mechanism).get_delta(grid.tolist()))
  deltas = deltas + _OVERFLOW * (1.0 + np.exp(grid))
  fprs = np.asarray(fprs)[:, None]
  of_members = np.exp(grid)[None] * fprs + deltas[None]
  # The same of who is no member.
  of_others = 1.0 - np.exp(-grid)[None] * (1.0 - fprs - deltas[None])
  bounds = np.minimum(of_members, of_others).min(axis=1)
  return np.clip(bounds, 0.0, 1.0)
