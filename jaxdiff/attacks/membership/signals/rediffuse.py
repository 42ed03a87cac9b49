"""ReDiffuse: the mean of reconstructed variations (Li et al. 2025).

(1)  rediffuse            root mean |x0 - mean of n variations|^2: noised to t,
                          denoised in steps of k: no gradient, no e
(2)  rediffuse_published  from t = 200 in steps of 100 down to timestep 0,
                          n = 10; the authors' verdict is a network's, here a
                          threshold
"""

from typing import Any

import jax
import jax.numpy as jnp
import pandas as pd

from jaxdiff.attacks.membership.signals import base
from jaxdiff.diffusion import processes, schedules

# The first of its draws; the losses' start at 0.
_DRAW = 1000
_PUBLISHED = base.Settings((200,), variations=10, variation_stride=100)


def queries(c: base.Settings) -> pd.DataFrame:
  """A column a timestep that steps of k reach."""
  return base.table([
    ('rediffuse', t, 0, 0, '', c.variations * (t // c.variation_stride))
    for t in base.reached(c, c.variation_stride)
  ])  # fmt: skip


def make(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (1); the last step, from k, leads to the predicted image."""
  stride = c.variation_stride
  timesteps = jnp.asarray(base.reached(c, stride))

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def variation(t: jax.Array, draw: jax.Array) -> jax.Array:
      eps = base.noise(keys, t, _DRAW + draw, x0)
      x_t = processes.add_noise(schedule, x0, eps, base.at(x0, t))

      def step(number: jax.Array, x: jax.Array) -> jax.Array:
        start = t - number * stride
        a, s = schedule.signal_scale(start), schedule.noise_scale(start)
        eps_hat = eps_fn(x, base.at(x0, start), cond)
        x0_hat = (x - s * eps_hat) / a
        end = start - stride
        a, s = schedule.signal_scale(end), schedule.noise_scale(end)
        return jnp.where(end > 0, a * x0_hat + s * eps_hat, x0_hat)

      return jax.lax.fori_loop(0, t // stride, step, x_t)

    def query(t: jax.Array) -> jax.Array:
      total = jax.lax.fori_loop(
        0,
        c.variations,
        lambda draw, sum_: sum_ + variation(t, draw),
        jnp.zeros_like(x0),
      )
      error = jnp.square(x0 - total / c.variations).mean(axis=base.pixels(x0))
      return jnp.sqrt(error)

    return jax.lax.map(query, timesteps).T

  return signal_fn


def make_published(
  eps_fn: processes.EpsFn, schedule: schedules.Schedule, c: base.Settings
) -> base.SignalFn:
  """Equation (2): the last step leads to timestep 0, not to the image."""
  del c
  published = _PUBLISHED

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    t, k = published.timesteps[0], published.variation_stride

    def variation(draw: jax.Array) -> jax.Array:
      eps = base.noise(keys, t, _DRAW + draw, x0)
      x_t = processes.add_noise(schedule, x0, eps, base.at(x0, t))

      def step(number: jax.Array, x: jax.Array) -> jax.Array:
        start = t - number * k
        return base.ddim(
          schedule, x, eps_fn(x, base.at(x0, start), cond), start, start - k
        )

      return jax.lax.fori_loop(0, t // k, step, x_t)

    total = jax.lax.fori_loop(
      0,
      published.variations,
      lambda draw, sum_: sum_ + variation(draw),
      jnp.zeros_like(x0),
    )
    error = jnp.square(x0 - total / published.variations).mean(
      axis=base.pixels(x0)
    )
    return jnp.sqrt(error)[:, None]

  return signal_fn


SIGNALS = {
  'rediffuse': base.of_noise(queries, make, place=6, stride='variation_stride'),
  'rediffuse_published': base.of_noise(
    lambda c: queries(_PUBLISHED).assign(name='rediffuse_published'),
    make_published,
    place=6,
    published=True,
    num_timesteps=1000,
  ),
}
