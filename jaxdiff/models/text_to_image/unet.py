"""The denoiser of Stable Diffusion: `UNet2DConditionModel`, in NHWC.

Attributes carry the names of diffusers' `config.json`. Rombach et al. (2022);
the `text_time` embedding is SDXL's (Podell et al. 2023, section 2.2).
"""

from collections.abc import Mapping, Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import layers, norms
from jaxdiff.models.text_to_image import transformer

DOWN_BLOCKS = ('DownBlock2D', 'CrossAttnDownBlock2D')
UP_BLOCKS = ('UpBlock2D', 'CrossAttnUpBlock2D')
MID_BLOCKS = ('UNetMidBlock2DCrossAttn',)
ADDITIONS = (None, 'text_time')


def per_level(value: int | Sequence[int], levels: int) -> tuple[int, ...]:
  """One number for each level, as diffusers reads a number for all."""
  if isinstance(value, int):
    return (value,) * levels
  return tuple(value)


class ConditionalUNet(nn.Module):
  """Predicts noise or velocity of latents from a timestep and a text.

  `attention_head_dim` is the number of heads of each level: diffusers' name for
  it is a mistake that its folders carry on.
  """

  out_channels: int = 4
  block_out_channels: Sequence[int] = (320, 640, 1280, 1280)
  layers_per_block: int = 2
  down_block_types: Sequence[str] = (
    *('CrossAttnDownBlock2D',) * 3,
    'DownBlock2D',
  )
  up_block_types: Sequence[str] = ('UpBlock2D', *('CrossAttnUpBlock2D',) * 3)
  mid_block_type: str = 'UNetMidBlock2DCrossAttn'
  attention_head_dim: int | Sequence[int] = 8
  transformer_layers_per_block: int | Sequence[int] = 1
  use_linear_projection: bool = False
  upcast_attention: bool = False
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  act_fn: str = 'silu'
  dropout: float = 0.0
  downsample_padding: int = 1
  flip_sin_to_cos: bool = True
  freq_shift: float = 0.0
  addition_embed_type: str | None = None
  addition_time_embed_dim: int | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_t: jax.Array,
    t: jax.Array,
    cond: Mapping[str, jax.Array],
    *,
    dropout_keys: jax.Array | None = None,
  ) -> jax.Array:
    """One forward pass.

    Args:
      x_t: [B, H, W, C] noised latents, H and W divisible by 2^(levels - 1).
      t: [B] 0-based timesteps.
      cond: `tokens` [B, L, D]; with `text_time` also `pooled` [B, P] and
        `time_ids` [B, 6], sizes and crops in pixels.
      dropout_keys: [B] JAX keys while training; None is deterministic.

    Returns:
      float32 [B, H, W, out_channels].

    Raises:
      ValueError: if a block type is unknown, or `cond` does not go with the
        net.
    """
    self._check(cond)
    channels, levels = self.block_out_channels, len(self.block_out_channels)
    heads = per_level(self.attention_head_dim, levels)
    depths = per_level(self.transformer_layers_per_block, levels)
    tokens = cond['tokens'].astype(self.dtype)
    emb = self._embed(t, cond)
    h = layers.conv3x3(channels[0], 'conv_in', self.dtype)(
      x_t.astype(self.dtype)
    )
    skips = [h]
    for i, kind in enumerate(self.down_block_types):
      scope = f'down_blocks_{i}'
      for j in range(self.layers_per_block):
        h = self._resnet(channels[i], f'{scope}_resnets_{j}')(
          h, emb, dropout_keys
        )
        if kind.startswith('CrossAttn'):
          name = f'{scope}_attentions_{j}'
          h = self._transformer(heads[i], depths[i], name)(h, tokens)
        skips.append(h)
      if i < levels - 1:
        h = layers.Downsample(
          self.downsample_padding, self.dtype, name=f'{scope}_downsamplers_0'
        )(h)
        skips.append(h)

    middle = lambda j: self._resnet(channels[-1], f'mid_block_resnets_{j}')
    h = middle(0)(h, emb, dropout_keys)
    h = self._transformer(heads[-1], depths[-1], 'mid_block_attentions_0')(
      h, tokens
    )
    h = middle(1)(h, emb, dropout_keys)

    for i, kind in enumerate(self.up_block_types):
      scope, level = f'up_blocks_{i}', levels - 1 - i
      for j in range(self.layers_per_block + 1):
        parts = (h, skips.pop())
        h = self._resnet(channels[level], f'{scope}_resnets_{j}')(
          jnp.concatenate(parts, axis=-1), emb, dropout_keys, parts
        )
        if kind.startswith('CrossAttn'):
          name = f'{scope}_attentions_{j}'
          h = self._transformer(heads[level], depths[level], name)(h, tokens)
      if i < levels - 1:
        h = layers.Upsample(self.dtype, name=f'{scope}_upsamplers_0')(h)

    h = norms.GroupNorm(
      self.norm_num_groups, self.norm_eps, self.dtype, name='conv_norm_out'
    )(h, layers.ACTIVATIONS[self.act_fn])
    return layers.conv3x3(
      self.out_channels, 'conv_out', self.dtype, kernel_init=layers.ZERO_INIT
    )(h).astype(jnp.float32)

  def _check(self, cond: Mapping[str, jax.Array]) -> None:
    levels = len(self.block_out_channels)
    for types, known in (
      (self.down_block_types, DOWN_BLOCKS),
      (self.up_block_types, UP_BLOCKS),
    ):
      if len(types) != levels or set(types) - set(known):
        raise ValueError(
          f'block types {tuple(types)}: one of {known} for each of the '
          f'{levels} block_out_channels'
        )
    if self.mid_block_type not in MID_BLOCKS:
      raise ValueError(
        f'mid_block_type {self.mid_block_type!r}: one of {MID_BLOCKS}'
      )
    if self.addition_embed_type not in ADDITIONS:
      raise ValueError(
        f'addition_embed_type {self.addition_embed_type!r}: one of {ADDITIONS}'
      )
    want = {'tokens'}
    if self.addition_embed_type is not None:
      want |= {'pooled', 'time_ids'}
    if set(cond) != want:
      raise ValueError(f'cond has {sorted(cond)}; the net takes {sorted(want)}')

  def _embed(self, t: jax.Array, cond: Mapping[str, jax.Array]) -> jax.Array:
    """Timestep, and sizes with the pooled text, as one vector: [B, E]."""
    width = self.block_out_channels[0]

    def sinusoid(number: jax.Array, dim: int) -> jax.Array:
      return layers.timestep_embedding(
        number,
        dim,
        flip_sin_to_cos=self.flip_sin_to_cos,
        freq_shift=self.freq_shift,
      ).astype(self.dtype)

    dense = lambda name: layers.TimestepEmbedding(
      4 * width, self.dtype, name=name
    )
    emb = dense('time_embedding')(sinusoid(t, width))
    if self.addition_embed_type is None:
      return emb
    assert self.addition_time_embed_dim is not None
    ids = cond['time_ids']
    sizes = sinusoid(ids.reshape(-1), self.addition_time_embed_dim)
    both = jnp.concatenate(
      [cond['pooled'].astype(self.dtype), sizes.reshape(len(ids), -1)], axis=1
    )
    return emb + dense('add_embedding')(both)

  def _resnet(self, features: int, name: str) -> layers.ResnetBlock:
    return layers.ResnetBlock(
      features,
      self.norm_num_groups,
      self.norm_eps,
      self.dropout,
      act_fn=self.act_fn,
      dtype=self.dtype,
      name=name,
    )

  def _transformer(
    self, heads: int, depth: int, name: str
  ) -> transformer.Transformer:
    return transformer.Transformer(
      heads,
      depth,
      self.norm_num_groups,
      self.use_linear_projection,
      self.upcast_attention,
      self.dtype,
      name=name,
    )
