"""Ambient noise: at large timesteps, images carry one noise for ever.

Shah et al. 2025, "Does Generation Require Memorization? Creative Diffusion
Models using Ambient Diffusion" (2502.21278): detail is learned at low noise
alone, so only there does a net see the images themselves. Above timestep n it
sees each with a noise e that is always the same, and never without. With a, s
signal and noise scale, r = a_t / a_n, eps a fresh noise and t > n:

(1)  x_n = a_n x0 + s_n e
(2)  x_t = r x_n + sqrt(q) s_t eps,  q = 1 - (r s_n / s_t)^2
(3)  E[x_n | x_t] = a_n q E[x0 | x_t] + (1 - q) / r x_t

The distribution of (2) is that of an image noised to t. A net that predicts x_n
by (3) learns E[x0 | x_t] from the x_n alone; solved for the noise, its target
is

(4)  eps' = eps / sqrt(q),  x0' = (x_t - s_t eps') / a_t

and q weighs an example, which bounds the error that is learned from: at t = n
there is nothing to learn. A mirror image carries the mirrored noise.
"""

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.diffusion import schedules


def fixed_noise(key: jax.Array, x0: jax.Array) -> jax.Array:
  """e of each image, which follows from its 8-bit pixels: as [B, H, W, C].

  Equal images have equal noise, wherever and whenever they are drawn, and
  mirror images mirrored noise.

  Args:
    key: of the run.
    x0: [B, H, W, C] in [-1, 1].
  """
  pixels = jnp.round((x0 + 1.0) * 127.5).astype(jnp.uint32)
  weights = jax.random.bits(jax.random.fold_in(key, 0), (2, *x0.shape[1:]))
  # Odd weights, so that every level of a pixel tells.
  weights = (weights | 1).reshape(1, 2, -1)

  def hashes(pixels: jax.Array) -> jax.Array:
    return (pixels.reshape(len(x0), 1, -1) * weights).sum(axis=2)

  here, mirrored = hashes(pixels), hashes(pixels[:, :, ::-1])
  turned = (mirrored[:, 0] < here[:, 0]) | (
    (mirrored[:, 0] == here[:, 0]) & (mirrored[:, 1] < here[:, 1])
  )
  root = jax.random.fold_in(key, 1)

  def one(hashed: jax.Array) -> jax.Array:
    own = jax.random.fold_in(jax.random.fold_in(root, hashed[0]), hashed[1])
    return jax.random.normal(own, x0.shape[1:])

  noise = jax.vmap(one)(jnp.where(turned[:, None], mirrored, here))
  return jnp.where(turned[:, None, None, None], noise[:, :, ::-1], noise)


def carried(
  schedule: schedules.Schedule,
  x0: jax.Array,
  eps: jax.Array,
  t: jax.Array,
  fixed: jax.Array,
  timestep: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
  """What stands for image and noise in the loss, equation (4).

  Args:
    schedule: noise schedule.
    x0: [B, H, W, C] in [-1, 1].
    eps: fresh noise, likewise.
    t: int [B].
    fixed: e of each image.
    timestep: n; up to it nothing is changed.

  Returns:
    x0' and eps' [B, H, W, C], whose x_t is that of (2), and the weight of each
    example's loss [B].
  """
  shape = (len(x0),) + (1,) * (x0.ndim - 1)
  table = np.asarray(schedule.alphas_cumprod)
  a_n, s_n = np.sqrt(table[timestep]), np.sqrt(1.0 - table[timestep])
  # In float64, where t is about n and q about 0.
  q = 1.0 - (table / table[timestep]) * (1.0 - table[timestep]) / (1.0 - table)
  q = np.where(np.arange(len(table)) > timestep, q, 1.0)
  weight = jnp.asarray(q, jnp.float32)[t]
  root = jnp.sqrt(weight).reshape(shape)
  a, s = (
    scale(t).reshape(shape)
    for scale in (schedule.signal_scale, schedule.noise_scale)
  )
  x_n = jnp.float32(a_n) * x0 + jnp.float32(s_n) * fixed
  x_t = a / jnp.float32(a_n) * x_n + root * s * eps
  target = eps / root
  above = (t > timestep).reshape(shape)
  return (
    jnp.where(above, (x_t - s * target) / a, x0),
    jnp.where(above, target, eps),
    weight,
  )
