"""The per-example denoising loss and its weightings.

(1)  loss(x0, t, eps) = w(t) mean_pixels |output - target|^2

The paper's L (section 3.1, equation 1) sums where (1) averages over pixels;
with prediction type epsilon and weighting uniform they differ by the constant
H W C. Weightings are in terms of the target that the network predicts:
min_snr_gamma is Hang et al. (2023), with gamma = 5.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import processes, schedules

MIN_SNR_GAMMA = 5.0


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
  """Equation (1), one number an example.

  Args:
    predict_fn: (x_t, t, cond) -> the network's output, [B, H, W, C].
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
  output = predict_fn(x_t, t, cond)
  wanted = processes.target(schedule, x0, eps, t, prediction_type)
  error = jnp.square(output - wanted).mean(axis=tuple(range(1, x0.ndim)))
  return WEIGHTINGS[weighting](schedule.snr(t), prediction_type) * error
