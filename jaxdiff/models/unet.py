"""The denoising U-Net, block for block diffusers' `UNet2DModel`, in NHWC.

Attributes carry the names of diffusers' `config.json`, which is the project's
interchange format. Architecture: Ho et al. (2020), appendix B; scale-shift
norms and learned variance (six output channels): Nichol & Dhariwal (2021).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import layers

DOWN_BLOCKS = ('DownBlock2D', 'AttnDownBlock2D')
UP_BLOCKS = ('UpBlock2D', 'AttnUpBlock2D')


class UNet(nn.Module):
  """Predicts noise, image or velocity from a noised image and its timestep.

  `num_class_embeds` counts the rows of the class embedding. A net trained with
  classifier-free guidance owns one row more than there are classes: the last
  is the null label.
  """

  out_channels: int = 3
  block_out_channels: Sequence[int] = (128, 256, 256, 256)
  layers_per_block: int = 2
  down_block_types: Sequence[str] = (
    'DownBlock2D',
    'AttnDownBlock2D',
    'DownBlock2D',
    'DownBlock2D',
  )
  up_block_types: Sequence[str] = (
    'UpBlock2D',
    'UpBlock2D',
    'AttnUpBlock2D',
    'UpBlock2D',
  )
  add_attention: bool = True
  attention_head_dim: int | None = 8
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  dropout: float = 0.0
  downsample_padding: int = 1
  flip_sin_to_cos: bool = True
  freq_shift: float = 0.0
  resnet_time_scale_shift: str = 'default'
  num_class_embeds: int | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x_t: jax.Array,
    t: jax.Array,
    labels: jax.Array | None = None,
    *,
    dropout_keys: jax.Array | None = None,
  ) -> jax.Array:
    """One forward pass.

    Args:
      x_t: [B, H, W, C] noised images, H and W divisible by 2^(levels - 1).
      t: [B] 0-based integer timesteps.
      labels: int32 [B] class labels; None exactly when `num_class_embeds` is.
      dropout_keys: [B] JAX keys while training; None is deterministic.

    Returns:
      float32 [B, H, W, out_channels].

    Raises:
      ValueError: if the net is conditional and labels are missing, or the
        other way round; or if a block type is unknown.
    """
    if (labels is None) != (self.num_class_embeds is None):
      raise ValueError(
        'labels go with a class-conditional net: num_class_embeds is '
        f'{self.num_class_embeds}, labels are '
        f'{"missing" if labels is None else "given"}'
      )
    for types, known in (
      (self.down_block_types, DOWN_BLOCKS),
      (self.up_block_types, UP_BLOCKS),
    ):
      if len(types) != len(self.block_out_channels) or set(types) - set(known):
        raise ValueError(
          f'block types {tuple(types)}: one of {known} for each of the '
          f'{len(self.block_out_channels)} block_out_channels'
        )
    channels = self.block_out_channels
    levels = len(channels)

    emb = layers.timestep_embedding(
      t,
      channels[0],
      flip_sin_to_cos=self.flip_sin_to_cos,
      freq_shift=self.freq_shift,
    ).astype(self.dtype)
    emb = layers.TimestepEmbedding(
      4 * channels[0], self.dtype, name='time_embedding'
    )(emb)
    if self.num_class_embeds is not None:
      emb = emb + nn.Embed(
        self.num_class_embeds,
        4 * channels[0],
        dtype=self.dtype,
        name='class_embedding',
      )(labels)

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
        if kind == 'AttnDownBlock2D':
          h = self._attention(f'{scope}_attentions_{j}')(h)
        skips.append(h)
      if i < levels - 1:
        h = layers.Downsample(
          self.downsample_padding,
          self.dtype,
          name=f'{scope}_downsamplers_0',
        )(h)
        skips.append(h)

    h = self._resnet(channels[-1], 'mid_block_resnets_0')(h, emb, dropout_keys)
    if self.add_attention:
      h = self._attention('mid_block_attentions_0')(h)
    h = self._resnet(channels[-1], 'mid_block_resnets_1')(h, emb, dropout_keys)

    for i, kind in enumerate(self.up_block_types):
      scope = f'up_blocks_{i}'
      for j in range(self.layers_per_block + 1):
        h = jnp.concatenate([h, skips.pop()], axis=-1)
        h = self._resnet(channels[levels - 1 - i], f'{scope}_resnets_{j}')(
          h, emb, dropout_keys
        )
        if kind == 'AttnUpBlock2D':
          h = self._attention(f'{scope}_attentions_{j}')(h)
      if i < levels - 1:
        h = layers.Upsample(self.dtype, name=f'{scope}_upsamplers_0')(h)

    h = layers.group_norm(
      self.norm_num_groups, self.norm_eps, self.dtype, 'conv_norm_out'
    )(h)
    return layers.conv3x3(
      self.out_channels,
      'conv_out',
      self.dtype,
      kernel_init=layers.ZERO_INIT,
    )(nn.silu(h)).astype(jnp.float32)

  def _resnet(self, features: int, name: str) -> layers.ResnetBlock:
    return layers.ResnetBlock(
      features,
      self.norm_num_groups,
      self.norm_eps,
      self.dropout,
      self.resnet_time_scale_shift,
      self.dtype,
      name=name,
    )

  def _attention(self, name: str) -> layers.Attention:
    return layers.Attention(
      self.attention_head_dim,
      self.norm_num_groups,
      self.norm_eps,
      self.dtype,
      name=name,
    )
