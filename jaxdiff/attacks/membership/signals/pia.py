"""PIA: the noise that the model itself sees at timestep 0 (Kong et al. 2024).

(1)  pia   |e(a x0 + s e0, t) - e0|_4, e0 = e(x0, 0)
     pian  the same with e0 scaled to E|e0| of a standard normal
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules


def queries(c: base.Settings, name: str = 'pia') -> pd.DataFrame:
  """A column a timestep."""
  return base.table([(name, t, 0, 0, '', 2) for t in c.timesteps])


def make(
  eps_fn: processes.EpsFn,
  schedule: schedules.Schedule,
  c: base.Settings,
  normalised: bool = False,
) -> base.SignalFn:
  """Equation (1)."""

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys
    eps = eps_fn(x0, base.at(x0, 0), cond)
    if normalised:
      size = jnp.abs(eps).mean(axis=base.pixels(x0), keepdims=True)
      eps = eps * (math.sqrt(2.0 / math.pi) / size)

    def query(t: jax.Array) -> jax.Array:
      ts = base.at(x0, t)
      x_t = processes.add_noise(schedule, x0, eps, ts)
      return base.norm4(eps_fn(x_t, ts, cond) - eps)

    return jax.lax.map(query, jnp.asarray(c.timesteps)).T

  return signal_fn


def _calls(costs: pd.Series) -> float:
  """All timesteps share the call at 0."""
  return len(costs) + 1.0


SIGNALS = {
  'pia': base.of_noise(queries, make, place=2, calls=_calls),
  'pian': base.of_noise(
    lambda c: queries(c, 'pian'),
    functools.partial(make, normalised=True),
    place=3,
    calls=_calls,
  ),
}
