"""The denoising loss with fresh noise (Carlini et al. 2023, section 4.2).

(1)  loss  mean |eps - e(a x0 + s eps, t)|^2
"""

from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules


def queries(c: base.Settings) -> pd.DataFrame:
  """Columns of the loss: timestep, draw, mirrored."""
  return base.table([
    ('loss', t, draw, mirrored, '', 1)
    for t in c.timesteps
    for draw in range(c.draws)
    for mirrored in range(2 if c.flip else 1)
  ])  # fmt: skip


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (1)."""
  table = base.columns(queries(c), 't', 'draw', 'flip')

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def query(column: tuple[jax.Array, ...]) -> jax.Array:
      t, draw, flip = column
      x = jnp.where(flip == 1, x0[:, :, ::-1], x0)
      eps = base.noise(keys, t, draw, x0)
      return base.loss_at(eps_fn, schedule, x, eps, t, cond)

    return jax.lax.map(query, table).T

  return signal_fn


SIGNALS = {'loss': base.of_noise(queries, make, place=0)}
