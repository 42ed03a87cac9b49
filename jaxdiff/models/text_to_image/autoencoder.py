"""Images to latents and back: `AutoencoderKL`, in NHWC.

Rombach et al. (2022), section 3.1. Attributes carry the names of diffusers'
`config.json`. Latents are scaled outside:

(1)  z = (encode(x) - shift_factor) scaling_factor

so that the denoiser sees numbers of about unit variance.
"""

from collections.abc import Sequence
from typing import NamedTuple

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import layers, norms

DOWN_BLOCKS = ('DownEncoderBlock2D',)
UP_BLOCKS = ('UpDecoderBlock2D',)
# diffusers fixes the epsilon of every norm.
_EPSILON = 1e-6
# Bounds of the logarithm of the variance.
_LOG_VARIANCE = (-30.0, 20.0)


class Latents(NamedTuple):
  """A Gaussian of latents: float32 [B, h, w, C] each.

  Attributes:
    mean: also its mode.
    deviation: standard deviation.
  """

  mean: jax.Array
  deviation: jax.Array


class Autoencoder(nn.Module):
  """Call `encode` and `decode` by `net.apply(..., method=)`."""

  out_channels: int = 3
  latent_channels: int = 4
  block_out_channels: Sequence[int] = (128, 256, 512, 512)
  layers_per_block: int = 2
  norm_num_groups: int = 32
  act_fn: str = 'silu'
  use_quant_conv: bool = True
  use_post_quant_conv: bool = True
  mid_block_add_attention: bool = True
  dtype: jnp.dtype = jnp.float32

  def setup(self) -> None:
    options = (
      tuple(self.block_out_channels),
      self.layers_per_block,
      self.norm_num_groups,
      self.act_fn,
      self.mid_block_add_attention,
      self.dtype,
    )
    self.encoder = Encoder(2 * self.latent_channels, *options)
    self.decoder = Decoder(self.out_channels, *options)
    pointwise = lambda features: nn.Conv(features, (1, 1), dtype=self.dtype)
    if self.use_quant_conv:
      self.quant_conv = pointwise(2 * self.latent_channels)
    if self.use_post_quant_conv:
      self.post_quant_conv = pointwise(self.latent_channels)

  def __call__(self, x: jax.Array) -> jax.Array:
    """Images through the mode of their latents and back."""
    return self.decode(self.encode(x).mean)

  def encode(self, x: jax.Array) -> Latents:
    """[B, H, W, channels] in [-1, 1] -> [B, H / f, W / f, latent_channels]."""
    h = self.encoder(x)
    if self.use_quant_conv:
      h = self.quant_conv(h)
    mean, log_variance = jnp.split(h.astype(jnp.float32), 2, axis=-1)
    return Latents(mean, jnp.exp(0.5 * jnp.clip(log_variance, *_LOG_VARIANCE)))

  def decode(self, z: jax.Array) -> jax.Array:
    """Latents, not scaled, -> float32 [B, f h, f w, out_channels]."""
    h = z.astype(self.dtype)
    if self.use_post_quant_conv:
      h = self.post_quant_conv(h)
    return self.decoder(h)


class _Half(nn.Module):
  """What encoder and decoder have in common."""

  out_channels: int
  block_out_channels: tuple[int, ...]
  layers_per_block: int
  norm_num_groups: int
  act_fn: str
  mid_block_add_attention: bool
  dtype: jnp.dtype

  def _resnet(self, features: int, name: str) -> layers.ResnetBlock:
    return layers.ResnetBlock(
      features,
      self.norm_num_groups,
      _EPSILON,
      act_fn=self.act_fn,
      dtype=self.dtype,
      name=name,
    )

  def _middle(self, h: jax.Array) -> jax.Array:
    features = self.block_out_channels[-1]
    h = self._resnet(features, 'mid_block_resnets_0')(h, None, None)
    if self.mid_block_add_attention:
      h = layers.Attention(
        None,
        self.norm_num_groups,
        _EPSILON,
        dtype=self.dtype,
        name='mid_block_attentions_0',
      )(h)
    return self._resnet(features, 'mid_block_resnets_1')(h, None, None)

  def _out(self, h: jax.Array) -> jax.Array:
    h = norms.GroupNorm(
      self.norm_num_groups, _EPSILON, self.dtype, name='conv_norm_out'
    )(h, layers.ACTIVATIONS[self.act_fn])
    h = layers.conv3x3(self.out_channels, 'conv_out', self.dtype)(h)
    return h.astype(jnp.float32)


class Encoder(_Half):
  """[B, H, W, C] -> [B, H / f, W / f, out_channels]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    channels = self.block_out_channels
    h = layers.conv3x3(channels[0], 'conv_in', self.dtype)(x.astype(self.dtype))
    for i, features in enumerate(channels):
      scope = f'down_blocks_{i}'
      for j in range(self.layers_per_block):
        h = self._resnet(features, f'{scope}_resnets_{j}')(h, None, None)
      if i < len(channels) - 1:
        h = layers.Downsample(0, self.dtype, name=f'{scope}_downsamplers_0')(h)
    return self._out(self._middle(h))


class Decoder(_Half):
  """[B, h, w, C] -> [B, f h, f w, out_channels]."""

  @nn.compact
  def __call__(self, z: jax.Array) -> jax.Array:
    channels = self.block_out_channels[::-1]
    h = layers.conv3x3(channels[0], 'conv_in', self.dtype)(z)
    h = self._middle(h)
    for i, features in enumerate(channels):
      scope = f'up_blocks_{i}'
      for j in range(self.layers_per_block + 1):
        h = self._resnet(features, f'{scope}_resnets_{j}')(h, None, None)
      if i < len(channels) - 1:
        h = layers.Upsample(self.dtype, name=f'{scope}_upsamplers_0')(h)
    return self._out(h)
