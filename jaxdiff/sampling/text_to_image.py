"""Images from texts: encode, denoise and decode, each a program of its own.

Their weights need not be on a device together. Latents are those of Rombach et
al. (2022); texts are conditions by classifier-free guidance (Ho & Salimans
2022).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxdiff.diffusion import processes, samplers, schedules

Cond = dict[str, jax.Array]


def encode(
  nets: Sequence[Any], params: Sequence[Any], tokens: Sequence[jax.Array]
) -> Cond:
  """Texts as a denoiser sees them.

  Args:
    nets: text encoders, Flax modules: one of Stable Diffusion 1 and 2, two of
      XL.
    params: of each.
    tokens: int32 [B, T] for each.

  Returns:
    `tokens` [B, T, D]; of two encoders, which are taken before their last
    layer, side by side, and `pooled` [B, P] of the second.
  """
  found = [
    net.apply(weights, ids)
    for net, weights, ids in zip(nets, params, tokens, strict=True)
  ]
  if len(found) == 1:
    return {'tokens': found[0].last}
  rows = jnp.concatenate([each.penultimate for each in found], axis=-1)
  return {'tokens': rows, 'pooled': found[-1].projected}


def with_sizes(cond: Cond, height: int, width: int) -> Cond:
  """The condition of XL for images that were never cropped: [B, 6] more."""
  sizes = jnp.array([height, width, 0, 0, height, width], jnp.float32)
  batch = len(cond['tokens'])
  return cond | {'time_ids': jnp.broadcast_to(sizes, (batch, 6))}


def null_of(empty: Cond, zeros: bool) -> Cond:
  """The condition of no text, from that of an empty one.

  Args:
    empty: `encode` of an empty text, with sizes if the net takes them.
    zeros: in place of its numbers, XL's way; sizes stay.
  """
  return {
    name: jnp.zeros_like(row) if zeros and name != 'time_ids' else row
    for name, row in empty.items()
  }


def denoise(
  net: Any,
  params: Any,
  noise: jax.Array,
  keys: jax.Array,
  cond: Cond,
  null: Cond,
  *,
  schedule: schedules.Schedule,
  prediction_type: str,
  guidance_scale: float,
  **options: Any,
) -> jax.Array:
  """Latents from noise.

  Args:
    net: the denoiser, a Flax module.
    params: its weights.
    noise: [B, h, w, C], as a run begins.
    keys: [B], for samplers that add noise.
    cond: of every row.
    null: of none (`null_of`).
    schedule: noise schedule.
    prediction_type: of the denoiser.
    guidance_scale: 1 is without guidance, at half the cost.
    **options: of `samplers.run`.

  Returns:
    float32 [B, h, w, C], scaled as the denoiser has them.
  """
  eps_fn = processes.make_eps_fn(
    lambda x, t, c: net.apply(params, x, t, c), schedule, prediction_type
  )
  if guidance_scale != 1.0:
    eps_fn = processes.guide(eps_fn, null, guidance_scale)
  return samplers.run(eps_fn, noise, keys, cond, schedule=schedule, **options)


def decode(
  net: Any,
  params: Any,
  latents: jax.Array,
  scaling_factor: float,
  shift_factor: float,
) -> jax.Array:
  """Images in [-1, 1] of scaled latents [B, h, w, C]."""
  z = latents / scaling_factor + shift_factor
  return jnp.clip(net.apply(params, z, method='decode'), -1.0, 1.0)
