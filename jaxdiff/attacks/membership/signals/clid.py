"""CLiD: how much less a caption says once it is shortened (Zhai et al. 2024).

(1)  L(c) = mean over t = 440, 450, 460 of |eps - e(x_t, t, c)|^2
(2)  D_k = L(c_k) - L(c),  c_1, c_2, c_3 the thirds of the caption by its
     characters and c_4 the empty one: the authors' "clip" reduction
(3)  clid  the columns L(c) and -mean D_k

A member's caption tells its net more. The authors weigh the two columns, each
less its median and over its quartiles' distance, by an alpha that is best on a
shadow model; without one, as here, they weigh the same. Their encodings of
images are random; here they are modes, and noise is keyed.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules

_TIMESTEPS = (440, 450, 460)
# The first of its draws; the losses' start at 0.
_DRAW = 3000
# Shortened captions.
NUM_REDUCED = 4


def reduced(caption: str) -> list[str]:
  """The shortened captions of equation (2)."""
  ends = [k * len(caption) // 3 for k in range(4)]
  return [caption[a:b] for a, b in zip(ends, ends[1:], strict=False)] + ['']


def queries(c: base.Settings) -> pd.DataFrame:
  """Columns of equation (3)."""
  del c
  middle, calls = _TIMESTEPS[1], len(_TIMESTEPS)
  return base.table([
    ('clid', middle, 0, 0, 'loss', calls),
    ('clid', middle, 0, 0, 'discrepancy', NUM_REDUCED * calls),
  ])  # fmt: skip


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (3); `cond['reduced']` holds further conditions, [B, 4, ...]."""
  del c

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    whole = {name: leaf for name, leaf in cond.items() if name != 'reduced'}
    every = jax.tree.map(
      lambda leaf, more: jnp.concatenate(
        [leaf[None], jnp.moveaxis(more, 1, 0)]
      ),
      whole,
      cond['reduced'],
    )

    def loss(t: jax.Array, given: Any) -> jax.Array:
      eps = base.noise(keys, t, _DRAW, x0)
      return base.loss_at(eps_fn, schedule, x0, eps, t, given)

    def of_caption(given: Any) -> jax.Array:
      timesteps = jnp.asarray(_TIMESTEPS)
      return jax.lax.map(lambda t: loss(t, given), timesteps).mean(axis=0)

    losses = jax.lax.map(of_caption, every)
    return jnp.stack([losses[0], losses[0] - losses[1:].mean(axis=0)], axis=1)

  return signal_fn


def score(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
  """Both columns, alike: [K, N, 2 T] -> [K, N, T], larger for members."""
  del keep, left_out
  pairs = signals.reshape(*signals.shape[:2], -1, 2)
  low, middle, high = np.quantile(
    pairs, (0.25, 0.5, 0.75), axis=1, keepdims=True
  )
  tiny = np.finfo(pairs.dtype).tiny
  return -((pairs - middle) / np.maximum(high - low, tiny)).sum(axis=-1)


SIGNALS = {
  'clid': base.of_noise(
    queries, make, place=8, captions=True, num_timesteps=1000, score=score
  )
}
