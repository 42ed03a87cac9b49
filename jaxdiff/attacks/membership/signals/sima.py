"""SimA: the size of the noise seen in the image itself (SimA, 2025).

(1)  sima  |e(x0, t)|_4: no noise is added
"""

from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules


def queries(c: base.Settings) -> pd.DataFrame:
  """A column a timestep."""
  return base.table([('sima', t, 0, 0, '', 1) for t in c.timesteps])


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (1)."""
  del schedule

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys
    return jax.lax.map(
      lambda t: base.norm4(eps_fn(x0, base.at(x0, t), cond)),
      jnp.asarray(c.timesteps),
    ).T

  return signal_fn


SIGNALS = {'sima': base.of_noise(queries, make, place=5)}
