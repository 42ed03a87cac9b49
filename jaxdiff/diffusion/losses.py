"""The per-example denoising loss and its weightings.

(1)  loss(x0, t, eps) = w(t) mean_pixels |output - target|^2

The paper's L (section 3.1, equation 1) sums where (1) averages over pixels;
with prediction type epsilon and weighting uniform they differ by the constant
H W C. A network with a learned variance (2 C channels) is trained by the hybrid
loss of Nichol & Dhariwal (2021, section 3.1), with T terms of which one is
drawn, and lambda = 0.001; no gradient reaches the mean through the bound:

(2)  loss = (1) + lambda T bound(t)
(3)  bound(t) = KL(q(x_{t-1} | x_t, x0) || p(x_{t-1} | x_t)) / ln 2,  t > 0
                -log2 P(x0's 256 levels | x_1),                       t = 0
     mean over pixels: bits a dimension

Weightings are in terms of the target that the network predicts:
min_snr_gamma is Hang et al. (2023), with gamma = 5.
"""

from collections.abc import Callable
import math
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import processes, schedules

MIN_SNR_GAMMA = 5.0
BOUND_WEIGHT = 1e-3
# The least probability of a pixel's level, so that its logarithm is finite.
_LEAST = 1e-12


def uniform(snr: jax.Array, prediction_type: str) -> jax.Array:
  """Weight 1 on the target, as Ho et al. (2020)."""
  del prediction_type
  return jnp.ones_like(snr)


def min_snr_gamma(snr: jax.Array, prediction_type: str) -> jax.Array:
  """min(SNR, 5) on x0, expressed on the target."""
  on_x0 = jnp.minimum(snr, MIN_SNR_GAMMA)
  on_target = {
    'sample': on_x0,
    'epsilon': on_x0 / snr,
    'v_prediction': on_x0 / (snr + 1.0),
  }
  return on_target[prediction_type]


WEIGHTINGS: dict[str, Callable[[jax.Array, str], jax.Array]] = {
  'uniform': uniform,
  'min_snr_gamma': min_snr_gamma,
}


def denoising_loss(
  predict_fn: processes.PredictFn,
  x0: jax.Array,
  t: jax.Array,
  eps: jax.Array,
  cond: Any,
  *,
  schedule: schedules.Schedule,
  prediction_type: str = 'epsilon',
  weighting: str = 'uniform',
) -> jax.Array:
  """Equation (1), or (2) for a learned variance; one number an example.

  Args:
    predict_fn: (x_t, t, cond) -> the network's output, [B, H, W, C]; with a
      learned variance, 2 C channels.
    x0: float32 [B, H, W, C] in [-1, 1].
    t: int32 [B].
    eps: float32 [B, H, W, C] standard normal.
    cond: None or a pytree with leading axis B.
    schedule: noise schedule.
    prediction_type: one of `processes.PREDICTION_TYPES`.
    weighting: one of WEIGHTINGS.

  Returns:
    float32 [B].
  """
  x_t = processes.add_noise(schedule, x0, eps, t)
  output, v = processes.split_variance(predict_fn(x_t, t, cond), x_t)
  wanted = processes.target(schedule, x0, eps, t, prediction_type)
  error = jnp.square(output - wanted).mean(axis=_pixels(x0))
  loss = WEIGHTINGS[weighting](schedule.snr(t), prediction_type) * error
  if v is None:
    return loss
  x0_hat = processes.to_x0(
    schedule, jax.lax.stop_gradient(output), x_t, t, prediction_type
  )
  bound = variational_bound(schedule, x0, x_t, t, x0_hat, v)
  return loss + BOUND_WEIGHT * len(schedule) * bound


def variational_bound(
  schedule: schedules.Schedule,
  x0: jax.Array,
  x_t: jax.Array,
  t: jax.Array,
  x0_hat: jax.Array,
  v: jax.Array,
) -> jax.Array:
  """Equation (3), bits a dimension: [B].

  Args:
    schedule: noise schedule.
    x0: [B, H, W, C] in [-1, 1], of 256 levels.
    x_t: likewise, noised.
    t: int32 [B].
    x0_hat: the network's estimate of x0.
    v: the network's interpolation between the variances, about [-1, 1].
  """
  shape = t.shape + (1,) * (x0.ndim - 1)
  table = lambda values: jnp.asarray(values, jnp.float32)[t].reshape(shape)
  posterior = schedules.posterior(schedule)
  small, large = table(posterior.log_small), table(posterior.log_large)
  share = (v + 1.0) / 2.0
  log_variance = share * large + (1.0 - share) * small
  on_x0, on_x_t = table(posterior.on_x0), table(posterior.on_x_t)
  mean = on_x0 * x0 + on_x_t * x_t
  mean_hat = on_x0 * x0_hat + on_x_t * x_t
  divergence = 0.5 * (
    log_variance
    - small
    + jnp.exp(small - log_variance)
    + jnp.square(mean - mean_hat) * jnp.exp(-log_variance)
    - 1.0
  )
  nats = jnp.where(
    t.reshape(shape) == 0,
    -_log_level(x0, mean_hat, jnp.exp(0.5 * log_variance)),
    divergence,
  )
  return nats.mean(axis=_pixels(x0)) / math.log(2.0)


def _log_level(x: jax.Array, mean: jax.Array, sigma: jax.Array) -> jax.Array:
  """log P of a pixel's level under a normal; the outermost are open."""
  cdf = lambda z: jax.scipy.stats.norm.cdf(z / sigma)
  half = 1.0 / 255.0
  # Of the lower tail on either side: near 1 a difference would be rounding.
  off = jnp.abs(x - mean)
  level = cdf(half - off) - cdf(-half - off)
  level = jnp.where(x > 0.999, cdf(mean - x + half), level)
  level = jnp.where(x < -0.999, cdf(x + half - mean), level)
  return jnp.log(jnp.maximum(level, _LEAST))


def _pixels(x: jax.Array) -> tuple[int, ...]:
  return tuple(range(1, x.ndim))
