"""The steps of a run: timesteps, tables, noise, and what a net says there.

Solvers go from timestep to timestep with abar = alphas_cumprod at the one and
abar' at the other. The last abar' is 1; pipelines of latents end at that of
timestep 0 (diffusers' `set_alpha_to_one: false`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes, schedules
from jaxdiff.runtime import prng

TIMESTEP_SPACINGS = ('leading', 'linspace', 'trailing')


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
  schedule: schedules.Schedule,
  num_steps: int,
  spacing: str,
  steps_offset: int = 0,
  final_alpha: bool = True,
) -> Step:
  """The tables of a run: made in float64, rounded once.

  Args:
    schedule: noise schedule.
    num_steps: of the run.
    spacing: one of TIMESTEP_SPACINGS.
    steps_offset: added to 'leading' timesteps.
    final_alpha: the run ends at abar 1, otherwise at that of timestep 0.
  """
  t = spaced_timesteps(len(schedule), num_steps, spacing)
  if spacing == 'leading':
    t = t + np.int32(steps_offset)
  return between(schedule, t, end=1.0 if final_alpha else None)


def between(
  schedule: schedules.Schedule,
  t: np.ndarray,
  following: np.ndarray | None = None,
  end: float | None = 1.0,
) -> Step:
  """Tables of steps from timesteps to others.

  Args:
    schedule: noise schedule.
    t: int [n].
    following: int [n], where each step goes; below 0 is the end. The next of
      `t`, then the end, if None.
    end: abar there; None takes that of timestep 0.

  Raises:
    ValueError: if there is no such timestep.
  """
  if t.max() >= len(schedule):
    raise ValueError(
      f'timestep {t.max()} is none of {len(schedule)}: fewer steps, or a '
      'smaller steps_offset'
    )
  if following is None:
    following = np.append(t[1:], -1)
  last = schedule.alphas_cumprod[0] if end is None else end
  abar = schedule.alphas_cumprod[t]
  abar_next = np.where(
    following < 0, last, schedule.alphas_cumprod[np.maximum(following, 0)]
  )
  tables = (
    np.sqrt(abar),
    np.sqrt(1.0 - abar),
    np.sqrt(abar_next),
    np.sqrt(1.0 - abar_next),
    1.0 - abar / abar_next,
  )
  return Step(
    jnp.asarray(t, jnp.int32), *(jnp.asarray(x, jnp.float32) for x in tables)
  )


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


def noise(keys: jax.Array, t: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Fresh noise of step t for every image; x_T has the number T of its own."""
  return prng.normal_each(
    jax.vmap(lambda key: jax.random.fold_in(key, t))(keys), shape
  )
