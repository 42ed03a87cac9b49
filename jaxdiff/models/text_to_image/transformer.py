"""Attention to a text from a feature map: `Transformer2DModel` of diffusers.

Rombach et al. (2022), section 3.3 and appendix E.2.1. A map's pixels are a
sequence; each block attends to the map itself, then to the text, then goes
through a gated dense layer (GEGLU, Shazeer 2020).
"""

import functools

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import attention, layers, norms

# diffusers fixes both, whatever the epsilon of the net's other norms.
_MAP_EPSILON, _EPSILON = 1e-6, 1e-5
# Width of the gated layer over that of its input.
_WIDER = 4


class Transformer(nn.Module):
  """Blocks of attention, with a residual around them.

  Attributes:
    num_heads: of each attention.
    num_blocks: one after the other.
    num_groups: of the norm of the map.
    linear: projects by dense layers, otherwise by 1 x 1 convolutions.
    upcast: queries and keys are multiplied in float32.
    dtype: of the compute.
  """

  num_heads: int
  num_blocks: int
  num_groups: int
  linear: bool = False
  upcast: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
    """x [B, H, W, C], tokens [B, L, D] -> [B, H, W, C]."""
    h = norms.GroupNorm(self.num_groups, _MAP_EPSILON, self.dtype, name='norm')(
      x
    )
    h = self._project(h, 'proj_in').reshape(x.shape[0], -1, x.shape[-1])
    for number in range(self.num_blocks):
      h = Block(
        self.num_heads,
        self.upcast,
        self.dtype,
        name=f'transformer_blocks_{number}',
      )(h, tokens)
    h = self._project(h.reshape(x.shape), 'proj_out', layers.ZERO_INIT)
    return x + h

  def _project(
    self, x: jax.Array, name: str, init=layers.KERNEL_INIT
  ) -> jax.Array:
    options = {'kernel_init': init, 'dtype': self.dtype, 'name': name}
    if self.linear:
      return nn.Dense(x.shape[-1], **options)(x)
    return nn.Conv(x.shape[-1], (1, 1), **options)(x)


class Block(nn.Module):
  """`BasicTransformerBlock`: x [B, T, C], tokens [B, L, D] -> [B, T, C]."""

  num_heads: int
  upcast: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, tokens: jax.Array) -> jax.Array:
    norm = lambda name: nn.LayerNorm(_EPSILON, dtype=self.dtype, name=name)
    attend = functools.partial(
      CrossAttention, self.num_heads, self.upcast, self.dtype
    )
    h = norm('norm1')(x)
    x += attend(name='attn1')(h, h)
    x += attend(name='attn2')(norm('norm2')(x), tokens.astype(self.dtype))
    return x + GatedDense(self.dtype, name='ff')(norm('norm3')(x))


class CrossAttention(nn.Module):
  """From x [B, T, C] to the rows of y [B, L, D] -> [B, T, C]."""

  num_heads: int
  upcast: bool = False
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, y: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    dense = lambda name, **options: nn.Dense(
      channels, dtype=self.dtype, name=name, **options
    )
    heads = (self.num_heads, channels // self.num_heads)
    q, k, v = (
      dense(name, use_bias=False, kernel_init=layers.KERNEL_INIT)(rows).reshape(
        *rows.shape[:2], *heads
      )
      for name, rows in (('to_q', x), ('to_k', y), ('to_v', y))
    )
    if self.upcast:
      q, k, v = (each.astype(jnp.float32) for each in (q, k, v))
    h = attention.attention(q, k, v).astype(self.dtype).reshape(x.shape)
    return dense('to_out_0')(h)


class GatedDense(nn.Module):
  """GEGLU and a dense layer: [B, T, C] -> [B, T, C]."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = x.shape[-1]
    dense = lambda features, name: nn.Dense(
      features, dtype=self.dtype, name=name
    )
    h = dense(2 * _WIDER * channels, 'net_0_proj')(x)
    h, gate = jnp.split(h, 2, axis=-1)
    return dense(channels, 'net_2')(h * nn.gelu(gate, approximate=False))
