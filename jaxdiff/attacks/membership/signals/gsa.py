"""GSA: the size of each layer's gradient (Pang et al. 2025).

(1)  gsa  |d L / d W|^2 of every layer W, L the mean of the denoising loss over
          ten timesteps
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runtime import prng

# The draw of its noise; the losses' start at 0.
DRAW = 3000
# Timesteps of its loss, evenly spaced.
_STEPS = 10
# Examples whose gradients are in memory together.
_GRADIENTS = 4


def queries(c: base.Settings, params: Any) -> pd.DataFrame:
  """A column a layer; `t` is -1: the mean over ten timesteps.

  Args:
    c: not asked.
    params: of one model, or their shapes.
  """
  del c
  names = [
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(params)
  ]
  cost = 3.0 * _STEPS / len(names)  # forward, and backward for two
  return base.table([('gsa', -1, 0, 0, name, cost) for name in names])


def make(
  eps_fn_of: base.EpsFnOf, schedule: schedules.Schedule, c: base.Settings
) -> base.MeasureFn:
  """Equation (1): (params, x0, cond, keys) -> [B, number of layers]."""
  del c
  num = len(schedule)
  timesteps = np.unique(np.arange(_STEPS) * num // _STEPS)

  def of_example(params: Any, example: tuple[Any, ...]) -> jax.Array:
    x0, cond, key = jax.tree.map(lambda leaf: leaf[None], example)
    keys = jnp.repeat(key, len(timesteps))
    many = jax.tree.map(
      lambda leaf: jnp.repeat(leaf, len(timesteps), axis=0), (x0, cond)
    )
    ts = jnp.asarray(timesteps, jnp.int32)
    key_of_draw = jax.vmap(
      lambda key, t: jax.random.fold_in(jax.random.fold_in(key, t), DRAW)
    )(keys, ts)
    eps = prng.normal_each(key_of_draw, x0.shape[1:])

    def loss(params: Any) -> jax.Array:
      x_t = processes.add_noise(schedule, many[0], eps, ts)
      return jnp.square(eps_fn_of(params)(x_t, ts, many[1]) - eps).mean()

    grads = jax.tree.leaves(jax.grad(loss)(params))
    return jnp.stack([jnp.square(grad).sum() for grad in grads])

  def signal_fn(
    params: Any, x0: jax.Array, cond: Any, keys: jax.Array
  ) -> jax.Array:
    return jax.lax.map(
      lambda example: of_example(params, example),
      (x0, cond, keys),
      batch_size=_GRADIENTS,
    )

  return signal_fn


SIGNALS = {'gsa': base.Signal(queries, make, learned=True)}
