"""PFAMI: how the loss changes from an image to its crops (Fu et al. 2023).

(1)  pfami            mean over crops of L(x0) - L(crop), L the denoising loss
(2)  pfami_published  mean over t = 0, 50 .. 450 of 1 - L(crop) / L(x0), one
                      crop of 0.81 of each side in whole pixels, a noise for
                      each; without the authors' optional reference model
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules

# The share of each side that a centred crop keeps.
CROPS = tuple(np.linspace(0.95, 0.70, 10).tolist())
# The first of its draws; the losses' start at 0.
_DRAW = 2000
# The published ones.
_TIMESTEPS = tuple(range(0, 500, 50))
_SHARE = CROPS[5]


def queries(c: base.Settings) -> pd.DataFrame:
  """A column a timestep."""
  cost = 1 + len(CROPS)
  return base.table([('pfami', t, 0, 0, '', cost) for t in c.timesteps])


def crop(x: jax.Array, share: jax.Array) -> jax.Array:
  """The centre of images [B, H, W, C], `share` of each side, at full size."""
  height, width = x.shape[1:3]
  scale = jnp.broadcast_to(1.0 / share, (2,))
  size = jnp.asarray([height, width], jnp.float32)
  return jax.vmap(
    lambda image: jax.image.scale_and_translate(
      image, image.shape, (0, 1), scale, 0.5 * size * (1.0 - scale),
      method='linear', antialias=False,
    )
  )(x)  # fmt: skip


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (1); the image and its crops get the same noise."""
  shares = jnp.asarray(CROPS, jnp.float32)

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def query(t: jax.Array) -> jax.Array:
      eps = base.noise(keys, t, _DRAW, x0)
      of_image = base.loss_at(eps_fn, schedule, x0, eps, t, cond)
      cropped = jax.lax.map(
        lambda share: base.loss_at(
          eps_fn, schedule, crop(x0, share), eps, t, cond
        ),
        shares,
      )
      return (of_image[None] - cropped).mean(axis=0)

    return jax.lax.map(query, jnp.asarray(c.timesteps)).T

  return signal_fn


def whole_crop(x: jax.Array, share: float) -> jax.Array:
  """The centre of images in whole pixels, at full size by linear interpolation.

  Args:
    x: [B, H, W, C].
    share: of each side; what is left of a pixel is cut off.
  """
  sides = [max(1, int(size * share)) for size in x.shape[1:3]]
  top, left = (
    round((size - side) / 2)
    for size, side in zip(x.shape[1:3], sides, strict=True)
  )
  part = x[:, top : top + sides[0], left : left + sides[1]]
  return jax.image.resize(part, x.shape, 'linear', antialias=False)


def make_published(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (2): relative, and each loss with a noise of its own."""
  del c

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    cropped = whole_crop(x0, _SHARE)

    def at(t: jax.Array) -> jax.Array:
      of_image, other = (
        base.loss_at(
          eps_fn,
          schedule,
          x,
          base.noise(keys, t, _DRAW + number, x0),
          t,
          cond,
        )
        for number, x in enumerate((x0, cropped), 1)
      )
      return 1.0 - other / of_image

    fluctuations = jax.lax.map(at, jnp.asarray(_TIMESTEPS))
    return fluctuations.mean(axis=0)[:, None]

  return signal_fn


SIGNALS = {
  'pfami': base.of_noise(queries, make, place=4),
  'pfami_published': base.of_noise(
    lambda c: base.table(
      [('pfami_published', -1, 0, 0, '', 2 * len(_TIMESTEPS))]
    ),
    make_published,
    place=4,
    published=True,
    num_timesteps=1000,
  ),
}
