"""Noise schedules as tables, in the words of diffusers' scheduler config.

(1)  x_t = signal_scale(t) x0 + noise_scale(t) eps,   eps ~ N(0, I)
(2)  signal_scale(t) = sqrt(alphas_cumprod[t])
     noise_scale(t)  = sqrt(1 - alphas_cumprod[t])
(3)  alphas_cumprod[t] = prod_{s <= t} (1 - beta_s)
(4)  q(x_{t-1} | x_t, x0) = N(on_x0 x0 + on_x_t x_t, small)
     on_x0  = sqrt(abar') beta / (1 - abar),  abar' = alphas_cumprod[t - 1]
     on_x_t = sqrt(1 - beta) (1 - abar') / (1 - abar)
     small  = beta (1 - abar') / (1 - abar),  large = beta

t is the 0-based integer timestep, 0 .. T - 1. Tables are made in float64 and
rounded once, so that 1 - alphas_cumprod is right at small t.
"""

from collections.abc import Callable
import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

# Where a schedule ends without signal (Lin et al. 2024, "Common diffusion noise
# schedules"), this is left, as in diffusers' solvers in sigma: an image is then
# found from the noise, with an error of some 1e-4.
_NO_SIGNAL = 2.0**-24


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
  """A table of alphas_cumprod, float64 [T], decreasing, in (0, 1)."""

  alphas_cumprod: np.ndarray

  def __len__(self) -> int:
    return len(self.alphas_cumprod)

  def signal_scale(self, t: jax.Array) -> jax.Array:
    """Equation (2): int [...] -> float32 [...]."""
    return jnp.asarray(np.sqrt(self.alphas_cumprod), jnp.float32)[t]

  def noise_scale(self, t: jax.Array) -> jax.Array:
    """Equation (2): int [...] -> float32 [...]."""
    return jnp.asarray(np.sqrt(1.0 - self.alphas_cumprod), jnp.float32)[t]

  def snr(self, t: jax.Array) -> jax.Array:
    """Signal-to-noise ratio alphas_cumprod / (1 - alphas_cumprod)."""
    table = self.alphas_cumprod / (1.0 - self.alphas_cumprod)
    return jnp.asarray(table, jnp.float32)[t]


def linear(num: int, beta_start: float, beta_end: float) -> np.ndarray:
  """Betas of Ho et al. (2020): evenly spaced."""
  return np.linspace(beta_start, beta_end, num)


def scaled_linear(num: int, beta_start: float, beta_end: float) -> np.ndarray:
  """Betas of latent diffusion: square roots evenly spaced."""
  return np.linspace(math.sqrt(beta_start), math.sqrt(beta_end), num) ** 2


def squaredcos_cap_v2(
  num: int, beta_start: float, beta_end: float
) -> np.ndarray:
  """Betas of Nichol & Dhariwal (2021): cosine, capped at 0.999."""
  del beta_start, beta_end
  angle = (np.arange(num + 1) / num + 0.008) / 1.008 * math.pi / 2
  alpha_bar = np.cos(angle) ** 2
  return np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


BETA_SCHEDULES: dict[str, Callable[[int, float, float], np.ndarray]] = {
  'linear': linear,
  'scaled_linear': scaled_linear,
  'squaredcos_cap_v2': squaredcos_cap_v2,
}


def make(
  beta_schedule: str = 'linear',
  num_train_timesteps: int = 1000,
  beta_start: float = 1e-4,
  beta_end: float = 0.02,
  rescale_betas_zero_snr: bool = False,
) -> Schedule:
  """A schedule by diffusers' names, equation (3).

  Args:
    beta_schedule: one of BETA_SCHEDULES.
    num_train_timesteps: T.
    beta_start: the first beta.
    beta_end: the last.
    rescale_betas_zero_snr: square roots of alphas_cumprod are moved and
      stretched so that the last is 0, of whose square _NO_SIGNAL is left.

  Raises:
    ValueError: for an unknown `beta_schedule`.
  """
  if beta_schedule not in BETA_SCHEDULES:
    raise ValueError(
      f'beta_schedule: no {beta_schedule!r}; there is '
      f'{", ".join(BETA_SCHEDULES)}'
    )
  betas = BETA_SCHEDULES[beta_schedule](
    num_train_timesteps, beta_start, beta_end
  )
  abar = np.cumprod(1.0 - betas)
  if rescale_betas_zero_snr:
    roots = np.sqrt(abar)
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    abar = np.square(roots)
    abar[-1] = min(_NO_SIGNAL, abar[-2] / 2)
  return Schedule(abar)


class Posterior(NamedTuple):
  """Equation (4), float64 [T] each.

  `log_small` at t = 0, where the variance is 0, is that of t = 1 (Nichol &
  Dhariwal 2021).
  """

  on_x0: np.ndarray
  on_x_t: np.ndarray
  log_small: np.ndarray
  log_large: np.ndarray


def posterior(schedule: Schedule) -> Posterior:
  """Tables of equation (4)."""
  abar = schedule.alphas_cumprod
  before = np.append(1.0, abar[:-1])
  beta = 1.0 - abar / before
  small = beta * (1.0 - before) / (1.0 - abar)
  small[0] = small[1] if len(small) > 1 else beta[0]
  return Posterior(
    on_x0=np.sqrt(before) * beta / (1.0 - abar),
    on_x_t=np.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - abar),
    log_small=np.log(small),
    log_large=np.log(beta),
  )
