"""Inpainting by RePaint: pixels that are known lead those that are not.

Lugmayr et al. (2022), algorithm 1, on the timesteps of a shortened run. With
abar = alphas_cumprod at timestep t, abar' at the next lower timestep of the
run (1 below the last), m = 1 where a pixel is known, z standard normal:

(1)  known:    y = sqrt(abar') x0 + sqrt(1 - abar') z
(2)  unknown:  u = sqrt(abar') x0_hat + sqrt(1 - abar' - sigma^2) eps_hat
                 + sigma z,   sigma^2 = eta^2 (1 - abar') / (1 - abar)
                                              (1 - abar / abar')
(3)  x = m y + (1 - m) u
(4)  back up, from abar' to a lower abar'':
     x = sqrt(abar'' / abar') x + sqrt(1 - abar'' / abar') z

eta = 1 is DDPM, as in RePaint; eta = 0 with one pass is as fast as DDIM. (4)
goes `jump_length` steps of the run at once, at every `jump_length`-th of them,
so that each stretch is walked down `jump_n_sample` times: as diffusers'
RePaintScheduler has it. Where the run skips timesteps, the scheduler moves up
by the betas of timesteps one stride too high; (4) does not.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes, schedules
from jaxdiff.diffusion import steps as steps_lib


def walk(num_steps: int, jump_length: int, jump_n_sample: int) -> np.ndarray:
  """Steps of the run in the order in which they are taken, with the repeats.

  Args:
    num_steps: of the run down without repeats.
    jump_length: steps that (4) goes back up.
    jump_n_sample: times that each stretch is walked down; 1 never goes back.

  Returns:
    int [M]: each entry is a step down from that level, num_steps - 1 first and
    0 last; where an entry is not one below the entry before, (4) comes between.
  """
  left = dict.fromkeys(
    range(0, num_steps - jump_length, jump_length), jump_n_sample - 1
  )
  order, level = [], num_steps
  while level >= 1:
    level -= 1
    order.append(level)
    if left.get(level, 0) > 0:
      left[level] -= 1
      level += jump_length
  return np.array(order)


class _Move(NamedTuple):
  """One entry of a walk; [M] each, scalars under the scan."""

  step: steps_lib.Step
  number: jax.Array
  jumps: jax.Array  # (4) first?
  keep: jax.Array  # sqrt(abar'' / abar') of (4), 1 without
  add: jax.Array  # sqrt(1 - abar'' / abar') of (4), 0 without


def make_moves(
  schedule: schedules.Schedule,
  num_steps: int,
  jump_length: int,
  jump_n_sample: int,
) -> _Move:
  """The tables of a walk: made in float64, rounded once."""
  t = np.arange(num_steps) * (len(schedule) // num_steps)
  # One entry more for the clean image, at level -1.
  abar = np.append(schedule.alphas_cumprod[t], 1.0)
  order = walk(num_steps, jump_length, jump_n_sample)
  reached = np.append(order[0], order[:-1] - 1)
  ratio = np.where(order == reached, 1.0, abar[order] / abar[reached])
  tables = (
    np.sqrt(abar[order]),
    np.sqrt(1.0 - abar[order]),
    np.sqrt(abar[order - 1]),
    np.sqrt(1.0 - abar[order - 1]),
    1.0 - abar[order] / abar[order - 1],
    np.sqrt(ratio),
    np.sqrt(1.0 - ratio),
  )
  *step, keep, add = (jnp.asarray(x, jnp.float32) for x in tables)
  return _Move(
    steps_lib.Step(jnp.asarray(t[order], jnp.int32), *step),
    jnp.arange(len(order)),
    jnp.asarray(order != reached),
    keep,
    add,
  )


def down(
  eps_fn: processes.EpsFn,
  x_t: jax.Array,
  x0: jax.Array,
  known: jax.Array,
  z: jax.Array,
  cond: Any,
  step: steps_lib.Step,
  *,
  eta: float,
  clip_sample: bool,
) -> jax.Array:
  """Equations (1) to (3): x at the next lower level."""
  x0_hat, eps_hat, _ = steps_lib.estimate(eps_fn, x_t, step, cond, clip_sample)
  sigma = eta * step.noise_next / step.noise * jnp.sqrt(step.beta)
  direction = jnp.sqrt(jnp.square(step.noise_next) - jnp.square(sigma))
  unknown = step.signal_next * x0_hat + direction * eps_hat + sigma * z
  return jnp.where(known, step.signal_next * x0 + step.noise_next * z, unknown)


def inpaint(
  eps_fn: processes.EpsFn,
  keys: jax.Array,
  x0: jax.Array,
  known: jax.Array,
  cond: Any,
  *,
  schedule: schedules.Schedule,
  num_steps: int = 250,
  jump_length: int = 10,
  jump_n_sample: int = 10,
  eta: float = 1.0,
  clip_sample: bool = True,
) -> jax.Array:
  """Images whose known pixels are given and whose others are drawn.

  Args:
    eps_fn: noise predictor.
    keys: keys [B], one an image: its result depends on nothing else random.
    x0: float32 [B, H, W, C]; pixels that are not known do not matter.
    known: bool [B, H, W, 1].
    cond: None or a pytree with leading axis B.
    schedule: noise schedule.
    num_steps: of the run, at most as many as the schedule has.
    jump_length: see `walk`.
    jump_n_sample: see `walk`.
    eta: noise of (2); 1 is DDPM, 0 none.
    clip_sample: clip x0_hat to [-1, 1]; for pixels, not for latents.

  Returns:
    x0 float32 [B, H, W, C]; known pixels are those given.
  """
  moves = make_moves(schedule, num_steps, jump_length, jump_n_sample)
  x0 = jnp.where(known, x0, 0.0)

  def draw(number: jax.Array) -> jax.Array:
    return steps_lib.noise(keys, number, x0.shape[1:])

  def body(x: jax.Array, move: _Move) -> tuple[jax.Array, None]:
    x = jax.lax.cond(
      move.jumps,
      lambda x: move.keep * x + move.add * draw(2 * move.number + 1),
      lambda x: x,
      x,
    )
    z = draw(2 * move.number)
    return down(
      eps_fn, x, x0, known, z, cond, move.step, eta=eta, clip_sample=clip_sample
    ), None

  x = draw(jnp.asarray(2 * len(moves.number)))
  x = jax.lax.scan(body, x, moves)[0]
  return jnp.clip(x, -1.0, 1.0) if clip_sample else x
