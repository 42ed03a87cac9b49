"""Noising, and what a network's output says about noise and image.

With a = signal_scale(t), s = noise_scale(t), a^2 + s^2 = 1:

(1)  x_t = a x0 + s eps
(2)  epsilon:       output = eps        x0_hat = (x_t - s output) / a
(3)  sample:        output = x0         eps_hat = (x_t - a output) / s
(4)  v_prediction:  output = a eps - s x0
                    x0_hat = a x_t - s output,  eps_hat = s x_t + a output

(4) is Salimans & Ho (2022); guidance is Ho & Salimans (2022).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import schedules

# eps_fn(x_t [B, H, W, C], t int [B], cond) -> eps_hat [B, H, W, C]; with a
# learned variance, on demand, [B, H, W, 2 C]: eps_hat and v (see `samplers`).
EpsFn = Callable[[jax.Array, jax.Array, Any], jax.Array]

# predict_fn(x_t, t, cond) -> a network's output, of any prediction type.
PredictFn = Callable[[jax.Array, jax.Array, Any], jax.Array]

PREDICTION_TYPES = ('epsilon', 'sample', 'v_prediction')


def _scales(
  schedule: schedules.Schedule, t: jax.Array, like: jax.Array
) -> tuple[jax.Array, jax.Array]:
  """signal_scale and noise_scale of t [B], shaped to multiply `like`."""
  shape = t.shape + (1,) * (like.ndim - t.ndim)
  return (
    schedule.signal_scale(t).reshape(shape),
    schedule.noise_scale(t).reshape(shape),
  )


def add_noise(
  schedule: schedules.Schedule, x0: jax.Array, eps: jax.Array, t: jax.Array
) -> jax.Array:
  """Equation (1): x0, eps [B, H, W, C], t int [B] -> x_t."""
  a, s = _scales(schedule, t, x0)
  return a * x0 + s * eps


def target(
  schedule: schedules.Schedule,
  x0: jax.Array,
  eps: jax.Array,
  t: jax.Array,
  prediction_type: str,
) -> jax.Array:
  """What the network should have put out, equations (2) to (4)."""
  check_prediction_type(prediction_type)
  if prediction_type == 'epsilon':
    return eps
  if prediction_type == 'sample':
    return x0
  a, s = _scales(schedule, t, x0)
  return a * eps - s * x0


def to_eps(
  schedule: schedules.Schedule,
  output: jax.Array,
  x_t: jax.Array,
  t: jax.Array,
  prediction_type: str,
) -> jax.Array:
  """eps_hat from the network's output, equations (2) to (4)."""
  check_prediction_type(prediction_type)
  if prediction_type == 'epsilon':
    return output
  a, s = _scales(schedule, t, x_t)
  if prediction_type == 'sample':
    return (x_t - a * output) / s
  return s * x_t + a * output


def to_x0(
  schedule: schedules.Schedule,
  output: jax.Array,
  x_t: jax.Array,
  t: jax.Array,
  prediction_type: str,
) -> jax.Array:
  """x0_hat from the network's output, equations (2) to (4)."""
  check_prediction_type(prediction_type)
  if prediction_type == 'sample':
    return output
  a, s = _scales(schedule, t, x_t)
  if prediction_type == 'epsilon':
    return (x_t - s * output) / a
  return a * x_t - s * output


def check_prediction_type(prediction_type: str) -> None:
  """Raises ValueError for an unknown prediction type."""
  if prediction_type not in PREDICTION_TYPES:
    raise ValueError(
      f'prediction_type: no {prediction_type!r}; there is '
      f'{", ".join(PREDICTION_TYPES)}'
    )


def make_eps_fn(
  predict_fn: PredictFn,
  schedule: schedules.Schedule,
  prediction_type: str,
  *,
  with_variance: bool = False,
) -> EpsFn:
  """An eps_fn from a network of any prediction type.

  Args:
    predict_fn: the network; its output has C channels, or 2 C with a learned
      variance.
    schedule: noise schedule.
    prediction_type: one of PREDICTION_TYPES.
    with_variance: append what a network of 2 C channels says about it.
  """

  def eps_fn(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    output, variance = split_variance(predict_fn(x_t, t, cond), x_t)
    eps_hat = to_eps(schedule, output, x_t, t, prediction_type)
    if variance is not None and with_variance:
      return jnp.concatenate([eps_hat, variance], axis=-1)
    return eps_hat

  return eps_fn


def split_variance(
  output: jax.Array, x_t: jax.Array
) -> tuple[jax.Array, jax.Array | None]:
  """The prediction, and v where there are twice as many channels as in x_t."""
  channels = x_t.shape[-1]
  if output.shape[-1] == channels:
    return output, None
  return output[..., :channels], output[..., channels:]


def guide(eps_fn: EpsFn, null_cond: Any, scale: float) -> EpsFn:
  """Classifier-free guidance: eps_null + scale (eps_cond - eps_null).

  Args:
    eps_fn: of a net trained with conditions dropped at random.
    null_cond: one null condition, a pytree without the leading batch axis.
    scale: 1 is plain conditional sampling, 0 unconditional.

  Returns:
    Another eps_fn, twice as dear: both halves go through as one batch. A
    learned variance is the conditional one.
  """

  def guided(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    null = jax.tree.map(
      lambda c, n: jnp.broadcast_to(jnp.asarray(n, c.dtype), c.shape),
      cond,
      null_cond,
    )
    both = jax.tree.map(lambda c, n: jnp.concatenate([c, n]), cond, null)
    eps = eps_fn(jnp.tile(x_t, (2, 1, 1, 1)), jnp.tile(t, 2), both)
    eps, variance = split_variance(eps, x_t)
    eps_cond, eps_null = jnp.split(eps, 2)
    eps = eps_null + scale * (eps_cond - eps_null)
    if variance is None:
      return eps
    return jnp.concatenate([eps, jnp.split(variance, 2)[0]], axis=-1)

  return guided
