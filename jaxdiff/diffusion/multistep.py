"""Solvers of higher order, of the same probability flow as DDIM.

With a, s and a', s' signal and noise scales at a step's two ends, and
lambda = log(a / s):

(1)  DDIM:  x' = a' x0_hat + s' eps_hat
(2)  PLMS (Liu et al. 2022, equations 9, 12; the paper's sampler): (1) with
       e_1 = eps_hat                             first step, then again with
       (e_1 + e_2) / 2                           e_2 at its end
       (3 e_n - e_m) / 2,  (23 e_n - 16 e_m + 5 e_l) / 12
       (55 e_n - 59 e_m + 37 e_l - 9 e_k) / 24   from then on
     of the last evaluations e_n, e_m, e_l, e_k; N steps take N + 1
(3)  DPM-Solver++ (2M) (Lu et al. 2022, algorithm 2), h = lambda' - lambda:
       x' = s' / s x + a' (1 - exp(-h)) (x0_hat + w (x0_hat - x0_before))
       w = h / (2 h_before)
     where w is 0 in the first step and where abar' is 1
(4)  Euler in sigma = s / a (Karras et al. 2022) is (1), written for x / a
(5)  Heun (Karras et al. 2022, algorithm 1), with d = eps_hat and sigma' > 0:
       x'' / a' = x / a + (sigma' - sigma) (d + d'') / 2,  d'' of (1)'s x'

A run starts from unit noise; in sigma, where a schedule's last abar is not 0,
diffusers starts runs that are not 'leading' from sigma eps, that is, from
`start` eps here.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import processes, schedules, steps

# Of equation (2): weights of the newest evaluation and the three before it.
_ADAMS = np.array([
  [1.0, 0.0, 0.0, 0.0],
  [1 / 2, 1 / 2, 0.0, 0.0],
  [3 / 2, -1 / 2, 0.0, 0.0],
  [23 / 12, -16 / 12, 5 / 12, 0.0],
  [55 / 24, -59 / 24, 37 / 24, -9 / 24],
])  # fmt: skip


class Multistep(NamedTuple):
  """Steps, and what a solver weighs at each; [n, ...].

  Attributes:
    step: as of every sampler.
    weights: PLMS: [n, 4] of equation (2); DPM-Solver++: [n, 2], 1 - exp(-h)
      and w.
  """

  step: steps.Step
  weights: jax.Array


def plms_steps(
  schedule: schedules.Schedule,
  num_steps: int,
  spacing: str,
  steps_offset: int = 0,
  final_alpha: bool = True,
) -> Multistep:
  """N + 1 evaluations: the first step is taken twice.

  Args:
    schedule: noise schedule.
    num_steps: N.
    spacing: one of `steps.TIMESTEP_SPACINGS`.
    steps_offset: as of `steps.make_steps`.
    final_alpha: likewise.
  """
  t = steps.spaced_timesteps(len(schedule), num_steps, spacing)
  if spacing == 'leading':
    t = t + np.int32(steps_offset)
  following = np.append(t[1:], -1)
  # From the first timestep, evaluated at its end; from there, and so on.
  evaluated = np.concatenate([t[:1], t[1:2], t[1:]])
  begun = np.concatenate([t[:1], t[:1], t[1:]])
  to = np.concatenate([following[:1], following[:1], following[1:]])
  table = steps.between(schedule, begun, to, end=1.0 if final_alpha else None)
  rows = np.minimum(np.arange(len(evaluated)), len(_ADAMS) - 1)
  return Multistep(
    table._replace(t=jnp.asarray(evaluated, jnp.int32)),
    jnp.asarray(_ADAMS[rows], jnp.float32),
  )


def plms(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  run: Multistep,
  *,
  clip_sample: bool,
  **unused: Any,
) -> jax.Array:
  """Equation (2); x0_hat is clipped if asked, which diffusers never does."""
  del keys, unused

  def body(carry, row):
    x, before, evaluations = carry
    (step, weights), number = row
    t = jnp.full((x.shape[0],), step.t)
    eps_hat, _ = processes.split_variance(eps_fn(x, t, cond), x)
    blend = jnp.tensordot(weights, jnp.stack([eps_hat, *evaluations]), axes=1)
    # The second evaluation goes on from where the first began.
    begun = jnp.where(number == 1, before, x)
    x0_hat = (begun - step.noise * blend) / step.signal
    if clip_sample:
      x0_hat = jnp.clip(x0_hat, -1.0, 1.0)
    out = step.signal_next * x0_hat + step.noise_next * blend
    kept = (eps_hat, *evaluations[:-1])
    evaluations = jax.tree.map(
      lambda new, old: jnp.where(number == 1, old, new), kept, evaluations
    )
    return (out, x, evaluations), None

  numbers = jnp.arange(len(run.weights))
  none = (jnp.zeros_like(x),) * 3
  return jax.lax.scan(body, (x, x, none), (run, numbers))[0][0]


def dpm_solver_steps(
  schedule: schedules.Schedule,
  num_steps: int,
  spacing: str,
  steps_offset: int = 0,
  final_alpha: bool = True,
) -> Multistep:
  """N steps, by diffusers' `DPMSolverMultistepScheduler`.

  Args:
    schedule: noise schedule.
    num_steps: N.
    spacing: one of `steps.TIMESTEP_SPACINGS`; 'leading' and 'linspace' leave
      out the last of N + 1 timesteps.
    steps_offset: as of `steps.make_steps`.
    final_alpha: likewise.
  """
  total = len(schedule)
  if spacing == 'leading':
    t = np.arange(num_steps + 1)[::-1][:-1] * (total // (num_steps + 1))
    t = t + steps_offset
  elif spacing == 'linspace':
    t = np.linspace(0, total - 1, num_steps + 1).round()[::-1][:-1]
  else:
    t = steps.spaced_timesteps(total, num_steps, spacing)
  t = t.astype(np.int32)
  step = steps.between(schedule, t, end=1.0 if final_alpha else None)
  abar = schedule.alphas_cumprod[t]
  rate = np.log(abar / (1.0 - abar)) / 2.0
  last = np.inf
  if not final_alpha:
    first = schedule.alphas_cumprod[0]
    last = np.log(first / (1.0 - first)) / 2.0
  h = np.diff(np.append(rate, last))
  weights = np.stack([-np.expm1(-h), np.zeros(num_steps)], axis=1)
  weights[1:, 1] = h[1:] / (2.0 * h[:-1])
  if final_alpha:
    weights[-1, 1] = 0.0
  return Multistep(step, jnp.asarray(weights, jnp.float32))


def dpm_solver(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  run: Multistep,
  *,
  clip_sample: bool,
  **unused: Any,
) -> jax.Array:
  """Equation (3)."""
  del keys, unused

  def body(carry, row: Multistep):
    x, before = carry
    step, (gain, ratio) = row
    x0_hat, _, _ = steps.estimate(eps_fn, x, step, cond, clip_sample)
    ahead = x0_hat + ratio * (x0_hat - before)
    x = step.noise_next / step.noise * x + step.signal_next * gain * ahead
    return (x, x0_hat), None

  return jax.lax.scan(body, (x, jnp.zeros_like(x)), run)[0][0]


def heun(
  eps_fn: processes.EpsFn,
  x: jax.Array,
  keys: jax.Array,
  cond: Any,
  run: steps.Step,
  *,
  clip_sample: bool,
  **unused: Any,
) -> jax.Array:
  """Equation (5): two evaluations a step but the last."""
  del keys, unused

  def flow(x: jax.Array, step: steps.Step) -> tuple[jax.Array, jax.Array]:
    """The x' of (1), and eps_hat, of x0_hat clipped if asked."""
    x0_hat, eps_hat, _ = steps.estimate(eps_fn, x, step, cond, clip_sample)
    if clip_sample:
      eps_hat = (x - step.signal * x0_hat) / step.noise
    return step.signal_next * x0_hat + step.noise_next * eps_hat, eps_hat

  def body(x: jax.Array, rows: tuple[steps.Step, steps.Step]):
    step, after = rows
    euler, begun = flow(x, step)
    _, ended = flow(euler, after)
    change = step.noise_next / step.signal_next - step.noise / step.signal
    out = x / step.signal + change * (begun + ended) / 2.0
    return step.signal_next * out, None

  before, last = (
    jax.tree.map(lambda leaf, part=part: leaf[part], run)
    for part in (slice(None, -1), -1)
  )
  after = jax.tree.map(lambda leaf: leaf[1:], run)
  x = jax.lax.scan(body, x, (before, after))[0]
  return flow(x, last)[0]


def start(schedule: schedules.Schedule, t: int, spacing: str) -> float:
  """By what diffusers' solvers in sigma multiply a run's first noise.

  sigma / sqrt(1 + sigma^2) at the first timestep, which is its noise scale,
  where runs are not 'leading'.
  """
  if spacing == 'leading':
    return 1.0
  return float(np.sqrt(1.0 - schedule.alphas_cumprod[t]))
