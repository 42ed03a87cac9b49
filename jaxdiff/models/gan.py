"""Generators and discriminators of GANs, without normalisation layers.

After R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN!", section
4): residual blocks of pointwise and grouped 3x3 convolutions whose last layer
starts at zero, bilinear resampling, no normalisation, no state beside the
weights. A label's embedding is put beside the latent of the generator, and

    D(x, y) = <features(x), embedding(y)> / sqrt(width)

is the discriminator, of a learned constant where there are no labels.
"""

from flax import linen as nn
import jax
import jax.numpy as jnp

# 'mlp' takes the channels for the widths of dense layers.
NETS = ('mlp', 'conv')

_SLOPE = 0.2
# He et al. 2015, for leaky rectifiers.
_KERNEL_INIT = nn.initializers.variance_scaling(
  2.0 / (1.0 + _SLOPE**2), 'fan_in', 'normal'
)
_LINEAR_INIT = nn.initializers.lecun_normal()
_EMBED_INIT = nn.initializers.normal(1.0)


def _act(x: jax.Array) -> jax.Array:
  return nn.leaky_relu(x, _SLOPE)


class ResidualBlock(nn.Module):
  """x + 1x1(act(3x3 in groups(act(1x1(act(x))))), which starts as x.

  Attributes:
    expansion: channels within, as a multiple of those of x.
    cardinality: groups of the 3x3 convolution.
    dtype: of the compute.
  """

  expansion: int
  cardinality: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    """[B, H, W, C] -> [B, H, W, C]."""
    width = x.shape[-1]
    inner = self.expansion * width
    h = nn.Conv(
      inner, (1, 1), kernel_init=_KERNEL_INIT, dtype=self.dtype, name='conv1'
    )(_act(x))
    h = nn.Conv(
      inner,
      (3, 3),
      feature_group_count=self.cardinality,
      kernel_init=_KERNEL_INIT,
      dtype=self.dtype,
      name='conv2',
    )(_act(h))
    h = nn.Conv(
      width,
      (1, 1),
      use_bias=False,
      kernel_init=nn.initializers.zeros_init(),
      dtype=self.dtype,
      name='conv3',
    )(_act(h))
    return x + h


def _linear(width: int, dtype: jnp.dtype, name: str) -> nn.Conv:
  """A pointwise change of channels."""
  return nn.Conv(
    width, (1, 1), use_bias=False, kernel_init=_LINEAR_INIT, dtype=dtype,
    name=name,
  )  # fmt: skip


class Generator(nn.Module):
  """Latents and labels into images.

  Attributes:
    image_shape: (H, W, C).
    channels: of each level, from the smallest images to the largest; of an MLP
      the widths of its hidden layers.
    net: one of NETS.
    num_classes: labels; 0 is unconditional.
    blocks_per_level: residual blocks.
    expansion: of their inner channels.
    cardinality: of their 3x3 convolutions.
    dtype: of the compute.
  """

  image_shape: tuple[int, int, int]
  channels: tuple[int, ...]
  net: str = 'conv'
  num_classes: int = 0
  blocks_per_level: int = 1
  expansion: int = 2
  cardinality: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, z: jax.Array, labels: jax.Array | None) -> jax.Array:
    """z [B, Z] standard normal, labels int [B] -> float32 [B, H, W, C]."""
    if self.num_classes:
      embed = nn.Embed(
        self.num_classes, z.shape[-1], embedding_init=_EMBED_INIT, name='embed'
      )
      z = jnp.concatenate([z, embed(labels)], axis=-1)
    z = z.astype(self.dtype)
    if self.net == 'mlp':
      h = z
      for k, width in enumerate(self.channels):
        h = _act(
          nn.Dense(
            width, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=f'hidden{k}'
          )(h)
        )
      pixels = self.image_shape[0] * self.image_shape[1] * self.image_shape[2]
      x = nn.Dense(
        pixels, kernel_init=_LINEAR_INIT, dtype=self.dtype, name='output'
      )(h).reshape(-1, *self.image_shape)
      return jnp.tanh(x.astype(jnp.float32))
    height, width, colours = self.image_shape
    scale = 2 ** (len(self.channels) - 1)
    shape = (height // scale, width // scale, self.channels[0])
    basis = self.param('basis', nn.initializers.normal(1.0), shape)
    h = nn.Dense(
      shape[-1], use_bias=False, kernel_init=_LINEAR_INIT, dtype=self.dtype,
      name='project',
    )(z)  # fmt: skip
    h = basis.astype(self.dtype)[None] * h[:, None, None, :]
    for level, features in enumerate(self.channels):
      if level:
        h = _linear(features, self.dtype, f'widen{level}')(h)
        shape = (len(h), 2 * h.shape[1], 2 * h.shape[2], features)
        h = jax.image.resize(h, shape, 'bilinear')
      for block in range(self.blocks_per_level):
        h = ResidualBlock(
          self.expansion, self.cardinality, self.dtype,
          name=f'level{level}_block{block}',
        )(h)  # fmt: skip
    x = _linear(colours, self.dtype, 'output')(h)
    return jnp.tanh(x.astype(jnp.float32))


class Discriminator(nn.Module):
  """Images and labels into a number each, larger for what looks real.

  Attributes: those of `Generator`, with channels from the largest images to
  the smallest.
  """

  channels: tuple[int, ...]
  net: str = 'conv'
  num_classes: int = 0
  blocks_per_level: int = 1
  expansion: int = 2
  cardinality: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array, labels: jax.Array | None) -> jax.Array:
    """x [B, H, W, C] in [-1, 1], labels int [B] -> float32 [B]."""
    h = x.astype(self.dtype)
    if self.net == 'mlp':
      h = h.reshape(len(h), -1)
      for k, width in enumerate(self.channels):
        h = _act(
          nn.Dense(
            width, kernel_init=_KERNEL_INIT, dtype=self.dtype, name=f'hidden{k}'
          )(h)
        )
    else:
      for level, features in enumerate(self.channels):
        h = _linear(features, self.dtype, f'widen{level}')(h)
        for block in range(self.blocks_per_level):
          h = ResidualBlock(
            self.expansion, self.cardinality, self.dtype,
            name=f'level{level}_block{block}',
          )(h)  # fmt: skip
        if level < len(self.channels) - 1:
          h = nn.avg_pool(h, (2, 2), strides=(2, 2))
      size = h.shape[1] * h.shape[2]
      basis = self.param(
        'basis', nn.initializers.normal(size**-0.5), h.shape[1:]
      )
      h = (h * basis.astype(self.dtype)[None]).sum(axis=(1, 2))
    width = h.shape[-1]
    h = nn.Dense(
      width, kernel_init=_LINEAR_INIT, dtype=self.dtype, name='features'
    )(h).astype(jnp.float32)
    if self.num_classes:
      embed = nn.Embed(
        self.num_classes, width, embedding_init=_EMBED_INIT, name='embed'
      )
      wanted = embed(labels)
    else:
      wanted = self.param('wanted', _EMBED_INIT, (width,))[None]
    return (h * wanted).sum(axis=-1) / jnp.sqrt(jnp.float32(width))
