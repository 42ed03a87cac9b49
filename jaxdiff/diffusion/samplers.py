"""Samplers: from noise to images, one scan each.

With abar = alphas_cumprod at timestep t, abar' at the next lower timestep of
the run (1 below the last), and x0_hat = (x_t - sqrt(1 - abar) eps_hat) /
sqrt(abar), clipped to [-1, 1] for pixels:

(1)  DDPM (Ho et al. 2020, equations 6, 7), alpha = abar / abar':
       x = sqrt(abar') (1 - alpha) / (1 - abar) x0_hat
         + sqrt(alpha) (1 - abar') / (1 - abar) x_t + sigma z
       sigma^2 = (1 - abar') / (1 - abar) (1 - alpha)     variance 'small'
       sigma^2 = 1 - alpha                                variance 'large'
       log sigma^2 = f log large + (1 - f) log small,  f = (v + 1) / 2
                                                  variance 'learned_range'
     where the network puts out v beside eps_hat (Nichol & Dhariwal 2021, 15)
(2)  DDIM (Song et al. 2021, equations 12, 16):
       sigma^2 = eta^2 (1 - abar') / (1 - abar) (1 - abar / abar')
       x = sqrt(abar') x0_hat + sqrt(1 - abar' - sigma^2) eps_hat + sigma z

No noise is added at the last step. Image i has a key of its own, folded from
(key, i): it is the same whatever the batch or device that makes it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes, schedules
from jaxdiff.runtime import prng

TIMESTEP_SPACINGS = ('leading', 'linspace', 'trailing')
VARIANCES = ('small', 'large', 'learned_range')


def spaced_timesteps(
  num_train_timesteps: int, num_steps: int, spacing: str = 'leading'
) -> np.ndarray:
  """Decreasing timesteps of a run, by diffusers' `timestep_spacing`.

  Args:
    num_train_timesteps: T.
    num_steps: length of the run, 1 .. T.
    spacing: one of TIMESTEP_SPACINGS.

  Returns:
    int32 [num_steps].

  Raises:
    ValueError: if the number of steps or the spacing makes no sense.
  """
  if not 1 <= num_steps <= num_train_timesteps:
    raise ValueError(
      f'num_steps: {num_steps} is not within 1 .. {num_train_timesteps}'
    )
  if spacing not in TIMESTEP_SPACINGS:
    raise ValueError(
      f'timestep_spacing: no {spacing!r}; there is '
      f'{", ".join(TIMESTEP_SPACINGS)}'
    )
  if spacing == 'leading':
    ascending = np.arange(num_steps) * (num_train_timesteps // num_steps)
    return ascending[::-1].astype(np.int32)
  if spacing == 'linspace':
    ascending = np.linspace(0, num_train_timesteps - 1, num_steps).round()
    return ascending[::-1].astype(np.int32)
  ratio = num_train_timesteps / num_steps
  descending = np.round(np.arange(num_train_timesteps, 0, -ratio)) - 1
  return descending[:num_steps].astype(np.int32)


class Step(NamedTuple):
  """What one step of a run knows; [num_steps] each, scalars under the scan."""

  t: jax.Array
  signal: jax.Array  # sqrt(abar)
  noise: jax.Array  # sqrt(1 - abar)
  signal_next: jax.Array  # sqrt(abar')
  noise_next: jax.Array  # sqrt(1 - abar'), 0 at the last step
  beta: jax.Array  # 1 - abar / abar'


def make_steps(
  schedule: schedules.Schedule, num_steps: int, spacing: str
) -> Step:
  """The tables of a run: made in float64, rounded once."""
  t = spaced_timesteps(len(schedule), num_steps, spacing)
  abar = schedule.alphas_cumprod[t]
  abar_next = np.append(abar[1:], 1.0)
  tables = (
    np.sqrt(abar),
    np.sqrt(1.0 - abar),
    np.sqrt(abar_next),
    np.sqrt(1.0 - abar_next),
    1.0 - abar / abar_next,
  )
  return Step(jnp.asarray(t), *(jnp.asarray(x, jnp.float32) for x in tables))


def estimate(
  eps_fn: processes.EpsFn,
  x_t: jax.Array,
  step: Step,
  cond: Any,
  clip_sample: bool,
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
  """x0_hat, clipped if asked, and the network's own eps_hat and v."""
  t = jnp.full((x_t.shape[0],), step.t)
  eps_hat, v = processes.split_variance(eps_fn(x_t, t, cond), x_t)
  x0_hat = (x_t - step.noise * eps_hat) / step.signal
  if clip_sample:
    x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
  return x0_hat, eps_hat, v


def _variance(step: Step, kind: str, v: jax.Array | None) -> jax.Array:
  """sigma^2 of equation (1)."""
  shrink = jnp.square(step.noise_next / step.noise)
  if kind == 'large':
    return step.beta
  if kind == 'small':
    return step.beta * shrink
  # The floor, diffusers', is for the last step, which adds no noise.
  assert v is not None, 'variance learned_range is of a net that learned one'
  small = jnp.log(jnp.maximum(step.beta * shrink, 1e-20))
  share = (v + 1.0) / 2.0
  return jnp.exp(share * jnp.log(step.beta) + (1.0 - share) * small)


def noise(keys: jax.Array, t: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Fresh noise of step t for every image; x_T has the number T of its own."""
  return prng.normal_each(
    jax.vmap(lambda key: jax.random.fold_in(key, t))(keys), shape
  )


def ddpm(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  steps: Step,
  *,
  clip_sample: bool,
  variance: str = 'small',
  eta: float = 0.0,
) -> jax.Array:
  """Ancestral sampling, equation (1)."""
  del eta

  def body(x: jax.Array, step: Step) -> tuple[jax.Array, None]:
    x0_hat, _, v = estimate(eps_fn, x, step, cond, clip_sample)
    shrink = jnp.square(step.noise_next / step.noise)
    mean = (
      step.signal_next * step.beta / jnp.square(step.noise) * x0_hat
      + jnp.sqrt(1.0 - step.beta) * shrink * x
    )
    deviation = jnp.sqrt(_variance(step, variance, v))
    sigma = jnp.where(step.noise_next > 0.0, deviation, 0.0)
    return mean + sigma * noise(keys, step.t, x.shape[1:]), None

  return jax.lax.scan(body, x, steps)[0]


def ddim(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  steps: Step,
  *,
  clip_sample: bool,
  variance: str = 'small',
  eta: float = 0.0,
) -> jax.Array:
  """Implicit sampling, equation (2); eta = 0 is deterministic."""
  del variance

  def body(x: jax.Array, step: Step) -> tuple[jax.Array, None]:
    x0_hat, eps_hat, _ = estimate(eps_fn, x, step, cond, clip_sample)
    sigma = eta * step.noise_next / step.noise * jnp.sqrt(step.beta)
    direction = jnp.sqrt(jnp.square(step.noise_next) - jnp.square(sigma))
    x = step.signal_next * x0_hat + direction * eps_hat
    if eta > 0.0:
      x = x + sigma * noise(keys, step.t, x.shape[1:])
    return x, None

  return jax.lax.scan(body, x, steps)[0]


SAMPLERS: dict[str, Callable[..., jax.Array]] = {'ddpm': ddpm, 'ddim': ddim}


def sample(
  eps_fn: processes.EpsFn,
  key: jax.Array,
  indices: jax.Array,
  cond: Any,
  *,
  schedule: schedules.Schedule,
  image_shape: tuple[int, int, int],
  sampler: str = 'ddim',
  num_steps: int = 50,
  timestep_spacing: str = 'leading',
  eta: float = 0.0,
  variance: str = 'small',
  clip_sample: bool = True,
) -> jax.Array:
  """Images by index.

  Args:
    eps_fn: noise predictor; with v for variance 'learned_range'.
    key: of the model's samples.
    indices: int32 [B] image numbers; image i depends on (key, i) alone.
    cond: None or a pytree with leading axis B.
    schedule: noise schedule.
    image_shape: (H, W, C).
    sampler: one of SAMPLERS.
    num_steps: denoising steps.
    timestep_spacing: one of TIMESTEP_SPACINGS.
    eta: DDIM's noise; 0 is deterministic, 1 is DDPM with variance 'small'.
    variance: DDPM's, one of VARIANCES.
    clip_sample: clip x0_hat to [-1, 1]; for pixels, not for latents.

  Returns:
    x0 float32 [B, H, W, C], clipped to [-1, 1] if `clip_sample`.
  """
  steps = make_steps(schedule, num_steps, timestep_spacing)
  keys = prng.fold_each(key, indices)
  x = noise(keys, jnp.asarray(len(schedule)), image_shape)
  x0 = SAMPLERS[sampler](
    eps_fn,
    x,
    keys,
    cond,
    steps,
    clip_sample=clip_sample,
    variance=variance,
    eta=eta,
  )
  return jnp.clip(x0, -1.0, 1.0) if clip_sample else x0
