"""The denoising U-Net, block for block diffusers' `UNet2DModel`, in NHWC.

Attributes carry the names of diffusers' `config.json`, which is the project's
interchange format. Architecture: Ho et al. (2020), appendix B; scale-shift
norms and learned variance (six output channels): Nichol & Dhariwal (2021).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import layers, norms

DOWN_BLOCKS = ('DownBlock2D', 'AttnDownBlock2D', 'ResnetDownsampleBlock2D')
UP_BLOCKS = ('UpBlock2D', 'AttnUpBlock2D', 'ResnetUpsampleBlock2D')
# How the attention blocks change the sides; the other blocks have their own.
RESAMPLE_TYPES = ('conv', 'resnet')
TIME_SCALE_SHIFTS = ('default', 'scale_shift')
TIME_EMBEDDINGS = ('positional', 'learned')
CLASS_EMBEDDINGS = (None, 'timestep')
MID_BLOCKS = (None, 'UNetMidBlock2D')


class UNet(nn.Module):
  """Predicts noise, image or velocity from a noised image and its timestep.

  `num_class_embeds` counts the rows of the class embedding. A net trained with
  classifier-free guidance owns one row more than there are classes: the last
  is the null label. With `class_embed_type` 'timestep', labels go through a
  sinusoidal embedding instead.
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
  mid_block_type: str | None = 'UNetMidBlock2D'
  mid_block_scale_factor: float = 1.0
  add_attention: bool = True
  attention_head_dim: int | None = 8
  attn_norm_num_groups: int | None = None
  norm_num_groups: int = 32
  norm_eps: float = 1e-5
  act_fn: str = 'silu'
  dropout: float = 0.0
  downsample_padding: int = 1
  downsample_type: str = 'conv'
  upsample_type: str = 'conv'
  time_embedding_type: str = 'positional'
  time_embedding_dim: int | None = None
  num_train_timesteps: int | None = None
  flip_sin_to_cos: bool = True
  freq_shift: float = 0.0
  resnet_time_scale_shift: str = 'default'
  class_embed_type: str | None = None
  num_class_embeds: int | None = None
  center_input_sample: bool = False
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
      labels: int32 [B] class labels, of a conditional net alone.
      dropout_keys: [B] JAX keys while training; None is deterministic.

    Returns:
      float32 [B, H, W, out_channels].

    Raises:
      ValueError: if the net is conditional and labels are missing, or the
        other way round; or if a block type is unknown.
    """
    self._check(labels is not None)
    channels = self.block_out_channels
    levels = len(channels)
    if self.center_input_sample:
      x_t = 2.0 * x_t - 1.0
    emb = self._embed(t, labels)
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
        name = f'{scope}_downsamplers_0'
        if self._by_resnet(kind, self.downsample_type):
          resnet = self._resnet(channels[i], name, resample='down')
          h = resnet(h, emb, dropout_keys)
        else:
          h = layers.Downsample(self.downsample_padding, self.dtype, name=name)(
            h
          )
        skips.append(h)

    if self.mid_block_type is not None:
      h = self._mid_block(h, emb, dropout_keys)

    for i, kind in enumerate(self.up_block_types):
      scope = f'up_blocks_{i}'
      features = channels[levels - 1 - i]
      for j in range(self.layers_per_block + 1):
        parts = (h, skips.pop())
        h = jnp.concatenate(parts, axis=-1)
        h = self._resnet(features, f'{scope}_resnets_{j}')(
          h, emb, dropout_keys, parts
        )
        if kind == 'AttnUpBlock2D':
          h = self._attention(f'{scope}_attentions_{j}')(h)
      if i < levels - 1:
        name = f'{scope}_upsamplers_0'
        if self._by_resnet(kind, self.upsample_type):
          h = self._resnet(features, name, resample='up')(h, emb, dropout_keys)
        else:
          h = layers.Upsample(self.dtype, name=name)(h)

    h = norms.GroupNorm(
      self.norm_num_groups, self.norm_eps, self.dtype, name='conv_norm_out'
    )(h, nn.silu)
    return layers.conv3x3(
      self.out_channels,
      'conv_out',
      self.dtype,
      kernel_init=layers.ZERO_INIT,
    )(h).astype(jnp.float32)

  def _check(self, labelled: bool) -> None:
    conditional = (
      self.num_class_embeds is not None or self.class_embed_type is not None
    )
    if labelled != conditional:
      raise ValueError(
        'labels go with a class-conditional net: num_class_embeds is '
        f'{self.num_class_embeds}, labels are '
        f'{"given" if labelled else "missing"}'
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

  def _embed(self, t: jax.Array, labels: jax.Array | None) -> jax.Array:
    """Timestep and label as one vector: [B, E]."""
    width = self.block_out_channels[0]
    features = self.time_embedding_dim or 4 * width
    sinusoid = lambda number: layers.timestep_embedding(
      number,
      width,
      flip_sin_to_cos=self.flip_sin_to_cos,
      freq_shift=self.freq_shift,
    ).astype(self.dtype)
    if self.time_embedding_type == 'learned':
      assert self.num_train_timesteps is not None
      project = nn.Embed(
        self.num_train_timesteps, width, dtype=self.dtype, name='time_proj'
      )
    else:
      project = sinusoid
    dense = lambda name: layers.TimestepEmbedding(
      features, self.dtype, name=name
    )
    emb = dense('time_embedding')(project(t))
    if self.class_embed_type == 'timestep':
      return emb + dense('class_embedding')(project(labels))
    if self.num_class_embeds is not None:
      emb = emb + nn.Embed(
        self.num_class_embeds,
        features,
        dtype=self.dtype,
        name='class_embedding',
      )(labels)
    return emb

  def _mid_block(
    self, h: jax.Array, emb: jax.Array, dropout_keys: jax.Array | None
  ) -> jax.Array:
    scale = self.mid_block_scale_factor
    resnet = lambda j: self._resnet(
      self.block_out_channels[-1], f'mid_block_resnets_{j}', output_scale=scale
    )
    h = resnet(0)(h, emb, dropout_keys)
    if self.add_attention:
      groups = self.attn_norm_num_groups
      if groups is None and self.resnet_time_scale_shift == 'default':
        groups = self.norm_num_groups
      h = layers.Attention(
        self.attention_head_dim,
        groups,
        self.norm_eps,
        scale,
        self.dtype,
        name='mid_block_attentions_0',
      )(h)
    return resnet(1)(h, emb, dropout_keys)

  def _by_resnet(self, kind: str, resample_type: str) -> bool:
    """Whether a block changes the sides in a residual block."""
    return kind.startswith('Resnet') or (
      kind.startswith('Attn') and resample_type == 'resnet'
    )

  def _resnet(
    self,
    features: int,
    name: str,
    output_scale: float = 1.0,
    resample: str | None = None,
  ) -> layers.ResnetBlock:
    return layers.ResnetBlock(
      features,
      self.norm_num_groups,
      self.norm_eps,
      self.dropout,
      self.resnet_time_scale_shift,
      self.act_fn,
      output_scale,
      resample,
      self.dtype,
      name=name,
    )

  def _attention(self, name: str) -> layers.Attention:
    return layers.Attention(
      self.attention_head_dim,
      self.norm_num_groups,
      self.norm_eps,
      dtype=self.dtype,
      name=name,
    )
