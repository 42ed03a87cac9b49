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

Solvers of higher order are in `multistep`. No noise is added at the last step.
Image i has a key of its own, folded from (key, i): it is the same whatever the
batch or device that makes it.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import multistep, processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runtime import prng

VARIANCES = ('small', 'large', 'learned_range')


def _variance(
  step: steps_lib.Step, kind: str, v: jax.Array | None
) -> jax.Array:
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


def ddpm(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  steps: steps_lib.Step,
  *,
  clip_sample: bool,
  variance: str = 'small',
  eta: float = 0.0,
) -> jax.Array:
  """Ancestral sampling, equation (1)."""
  del eta

  def body(x: jax.Array, step: steps_lib.Step) -> tuple[jax.Array, None]:
    x0_hat, _, v = steps_lib.estimate(eps_fn, x, step, cond, clip_sample)
    shrink = jnp.square(step.noise_next / step.noise)
    mean = (
      step.signal_next * step.beta / jnp.square(step.noise) * x0_hat
      + jnp.sqrt(1.0 - step.beta) * shrink * x
    )
    deviation = jnp.sqrt(_variance(step, variance, v))
    sigma = jnp.where(step.noise_next > 0.0, deviation, 0.0)
    return mean + sigma * steps_lib.noise(keys, step.t, x.shape[1:]), None

  return jax.lax.scan(body, x, steps)[0]


def ddim(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  steps: steps_lib.Step,
  *,
  clip_sample: bool,
  variance: str = 'small',
  eta: float = 0.0,
) -> jax.Array:
  """Implicit sampling, equation (2); eta = 0 is deterministic."""
  del variance

  def body(x: jax.Array, step: steps_lib.Step) -> tuple[jax.Array, None]:
    x0_hat, eps_hat, _ = steps_lib.estimate(eps_fn, x, step, cond, clip_sample)
    sigma = eta * step.noise_next / step.noise * jnp.sqrt(step.beta)
    direction = jnp.sqrt(jnp.square(step.noise_next) - jnp.square(sigma))
    x = step.signal_next * x0_hat + direction * eps_hat
    if eta > 0.0:
      x = x + sigma * steps_lib.noise(keys, step.t, x.shape[1:])
    return x, None

  return jax.lax.scan(body, x, steps)[0]


SAMPLERS: dict[str, Callable[..., jax.Array]] = {
  'ddpm': ddpm,
  'ddim': ddim,
  'plms': multistep.plms,
  'dpm_solver': multistep.dpm_solver,
  'heun': multistep.heun,
}
# Those whose steps have tables of their own.
_STEPS = {
  'plms': multistep.plms_steps,
  'dpm_solver': multistep.dpm_solver_steps,
}


def check_steps(
  sampler: str, num_steps: int, num_train_timesteps: int, spacing: str
) -> None:
  """Raises ValueError for runs that a sampler does not have."""
  least, most = 1, num_train_timesteps
  if sampler == 'plms':
    least = 2
  elif sampler == 'dpm_solver' and spacing != 'trailing':
    most -= 1  # of one timestep more the last is left out
  if not least <= num_steps <= most:
    raise ValueError(
      f'sample.num_steps: {num_steps} is not within {least} .. {most}, which '
      f'{sampler} has'
    )


def evaluations(sampler: str, num_steps: int) -> int:
  """How often a run asks the network."""
  return {'plms': num_steps + 1, 'heun': 2 * num_steps - 1}.get(
    sampler, num_steps
  )


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
  steps_offset: int = 0,
  final_alpha: bool = True,
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
    steps_offset: added to 'leading' timesteps.
    final_alpha: runs end at abar 1, otherwise at that of timestep 0.

  Returns:
    x0 float32 [B, H, W, C], clipped to [-1, 1] if `clip_sample`.
  """
  keys = prng.fold_each(key, indices)
  x = steps_lib.noise(keys, jnp.asarray(len(schedule)), image_shape)
  return run(
    eps_fn,
    x,
    keys,
    cond,
    schedule=schedule,
    sampler=sampler,
    num_steps=num_steps,
    timestep_spacing=timestep_spacing,
    eta=eta,
    variance=variance,
    clip_sample=clip_sample,
    steps_offset=steps_offset,
    final_alpha=final_alpha,
  )


def run(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  *,
  schedule: schedules.Schedule,
  sampler: str,
  num_steps: int,
  timestep_spacing: str,
  eta: float = 0.0,
  variance: str = 'small',
  clip_sample: bool = True,
  steps_offset: int = 0,
  final_alpha: bool = True,
) -> jax.Array:
  """What `sample` makes of first noise x [B, H, W, C] and keys [B].

  Raises:
    ValueError: as `check_steps`, or if `steps_offset` leads past the schedule.
  """
  check_steps(sampler, num_steps, len(schedule), timestep_spacing)
  steps = _STEPS.get(sampler, steps_lib.make_steps)(
    schedule, num_steps, timestep_spacing, steps_offset, final_alpha
  )
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
