"""SecMI's statistic: a step up and down again (Duan et al. 2023).

(1)  secmi            mean |[x' -> x_t] - x_t|^2, x' = [x_t -> x_(t + k)], x_t
                      reached from x0 in steps of k
(2)  secmi_published  (1) at t = 90, k = 10: the authors' t_SEC = 100
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules


def queries(c: base.Settings) -> pd.DataFrame:
  """A column a timestep that steps of k reach; all share one trajectory."""
  return base.table(
    [
      ('secmi', t, 0, 0, '', t // c.stride + 2)
      for t in base.reached(c, c.stride)
    ]
  )


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (1): the trajectory goes one step beyond the last timestep.

  Up and down again moves x by (s_t - a_t s_u / a_u) (e(up, u) - e(x, t)), in
  which x itself does not cancel.
  """
  wanted = np.array(base.reached(c, c.stride)) // c.stride
  level = schedule.alphas_cumprod[:: c.stride][: wanted.max() + 2]
  a, s = np.sqrt(level), np.sqrt(1.0 - level)
  moves = jnp.asarray(s[:-1] - a[:-1] * s[1:] / a[1:], jnp.float32)

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    del keys  # nothing is random
    eps = eps_fn(x0, base.at(x0, 0), cond)

    def step(carry, number):
      # x and e(x) at step `number`.
      x, eps = carry
      t, above = number * c.stride, (number + 1) * c.stride
      up = base.ddim(schedule, x, eps, t, above)
      eps_up = eps_fn(up, base.at(x0, above), cond)
      moved = moves[number] * (eps_up - eps)
      return (up, eps_up), jnp.square(moved).mean(axis=base.pixels(x0))

    _, errors = jax.lax.scan(step, (x0, eps), jnp.arange(wanted.max() + 1))
    return errors[wanted].T

  return signal_fn


_PUBLISHED = base.Settings((90,), stride=10)
SIGNALS = {
  # All timesteps lie on one trajectory.
  'secmi': base.of_noise(queries, make, place=1, stride='stride', calls=max),
  'secmi_published': base.of_noise(
    lambda c: queries(_PUBLISHED).assign(name='secmi_published'),
    lambda eps_fn, schedule, c: make(eps_fn, schedule, _PUBLISHED),
    place=1,
    published=True,
    num_timesteps=1000,
  ),
}
