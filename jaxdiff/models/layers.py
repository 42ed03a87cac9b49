"""Building blocks of the U-Net: those of diffusers' `UNet2DModel`, in NHWC.

Parameter trees mirror the names of diffusers' state dict (`norm1`, `conv1`,
`time_emb_proj`, `to_q`, ...), so that weights can be exchanged by renaming and
transposing alone.
"""

from collections.abc import Callable, Sequence
import functools
import math
import zlib

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import attention, norms

# Ho et al. (2020), "Denoising Diffusion Probabilistic Models": fan-average
# uniform kernels; the last layer of every residual branch starts at zero.
KERNEL_INIT = nn.initializers.variance_scaling(1.0, 'fan_avg', 'uniform')
ZERO_INIT = nn.initializers.zeros_init()

# diffusers' `act_fn`.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
  'silu': nn.silu,
  'swish': nn.silu,
  'relu': nn.relu,
  'gelu': functools.partial(nn.gelu, approximate=False),
  'mish': jax.nn.mish,
}


def timestep_embedding(
  t: jax.Array,
  dim: int,
  *,
  flip_sin_to_cos: bool = True,
  freq_shift: float = 0.0,
  max_period: float = 10_000.0,
) -> jax.Array:
  """Sinusoidal embedding of integer timesteps (Ho et al. 2020, appendix B).

  Args:
    t: [B] timesteps, integer or float.
    dim: width of the embedding; even.
    flip_sin_to_cos: cosines first, then sines (diffusers' default).
    freq_shift: subtracted from dim / 2 in the exponent's denominator.
    max_period: longest wavelength, in timesteps over 2 pi.

  Returns:
    float32 [B, dim].

  Raises:
    ValueError: if `dim` is odd.
  """
  if dim % 2:
    raise ValueError(f'timestep_embedding needs an even dim, got {dim}')
  half = dim // 2
  exponent = -math.log(max_period) * jnp.arange(half) / (half - freq_shift)
  angles = t.astype(jnp.float32)[:, None] * jnp.exp(exponent)[None, :]
  parts = [jnp.sin(angles), jnp.cos(angles)]
  return jnp.concatenate(parts[::-1] if flip_sin_to_cos else parts, axis=-1)


def dropout(
  x: jax.Array, rate: float, keys: jax.Array, path: tuple[str, ...]
) -> jax.Array:
  """Dropout with one key per example, so that masks ignore batch and device.

  A random word decides of two entries, by 16 bits each, and once for all of a
  step: left alone, a TPU's compiler draws the words anew in the convolution
  after it and in both of its gradients, which took longer than these.

  Args:
    x: [B, H, W, C] activations.
    rate: probability of zeroing an entry, in [0, 1), to the nearest 2^-16.
    keys: [B] JAX keys, one per example.
    path: name of the calling layer; folded in, so layers differ.

  Returns:
    [B, H, W, C] of x's dtype; kept entries are scaled by 1 / (1 - rate).
  """
  layer = zlib.crc32('/'.join(path).encode()) & 0x7FFFFFFF
  kept = max(1, round((1.0 - rate) * 2**16))
  height, *rest = x.shape[1:]

  def masks(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    key = jax.random.fold_in(key, layer)
    words = jax.random.bits(key, (-(-height // 2), *rest), jnp.uint32)
    return words & 0xFFFF < kept, words >> 16 < kept

  halves = jax.lax.optimization_barrier(jax.vmap(masks)(keys))
  keep = jnp.concatenate(halves, axis=1)[:, :height]
  keep = jax.lax.optimization_barrier(keep)
  return jnp.where(keep, x * (2**16 / kept), 0.0)


def conv3x3(
  features: int,
  name: str,
  dtype: jnp.dtype,
  *,
  strides: int = 1,
  padding=1,
  kernel_init=KERNEL_INIT,
  conv_general_dilated=None,
) -> nn.Conv:
  """A 3x3 convolution with PyTorch's explicit padding."""
  return nn.Conv(
    features,
    (3, 3),
    strides=strides,
    padding=padding,
    kernel_init=kernel_init,
    conv_general_dilated=conv_general_dilated,
    dtype=dtype,
    name=name,
  )


class _Conv3x3(nn.Module):
  """`conv3x3` before its bias is added, and the bias, [1, features]."""

  features: int
  dtype: jnp.dtype

  @nn.compact
  def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    shape = (3, 3, x.shape[-1], self.features)
    kernel = self.param('kernel', KERNEL_INIT, shape)
    bias = self.param('bias', ZERO_INIT, (self.features,))
    x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
    return _convolve(x, kernel, 1), bias[None, :]


class TimestepEmbedding(nn.Module):
  """Two dense layers from the sinusoidal embedding to [B, features]."""

  features: int
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, emb: jax.Array) -> jax.Array:
    dense = lambda name: nn.Dense(
      self.features, kernel_init=KERNEL_INIT, dtype=self.dtype, name=name
    )
    return dense('linear_2')(nn.silu(dense('linear_1')(emb)))


class ResnetBlock(nn.Module):
  """Residual block with group norm and time embedding (`ResnetBlock2D`).

  Attributes:
    features: output channels.
    num_groups: of the norms.
    epsilon: of the norms.
    dropout_rate: before the second convolution.
    time_scale_shift: 'default' adds the embedding before the second norm;
      'scale_shift' scales and shifts after it.
    act_fn: one of ACTIVATIONS.
    output_scale: the sum is divided by it.
    resample: 'up' or 'down' halves or doubles the sides; None keeps them.
    dtype: of the compute.
  """

  features: int
  num_groups: int
  epsilon: float = 1e-5
  dropout_rate: float = 0.0
  time_scale_shift: str = 'default'
  act_fn: str = 'silu'
  output_scale: float = 1.0
  resample: str | None = None
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(
    self,
    x: jax.Array,
    emb: jax.Array | None,
    dropout_keys: jax.Array | None,
    parts: Sequence[jax.Array] = (),
  ) -> jax.Array:
    """x [B, H, W, C], emb [B, E] -> [B, H', W', features].

    `emb` is None in nets that know no time; `dropout_keys` [B], or None to
    score or sample deterministically; `parts` that x is the concatenation of,
    if it is one.
    """
    act = ACTIVATIONS[self.act_fn]
    norm = lambda name: norms.GroupNorm(
      self.num_groups, self.epsilon, self.dtype, name=name
    )
    scale_shift = self.time_scale_shift == 'scale_shift'
    h = norm('norm1')(x, act, parts=parts)
    if self.resample == 'up':
      x, h = double(x), double(h)
    elif self.resample == 'down':
      x, h = (nn.avg_pool(a, (2, 2), strides=(2, 2)) for a in (x, h))
    h, added = _Conv3x3(self.features, self.dtype, name='conv1')(h)
    scale = shift = None
    if emb is not None:
      temb = nn.Dense(
        self.features * (2 if scale_shift else 1),
        kernel_init=KERNEL_INIT,
        dtype=self.dtype,
        name='time_emb_proj',
      )(act(emb))
      if scale_shift:
        scale, shift = jnp.split(temb, 2, axis=-1)
        scale = 1.0 + scale
      else:
        added = added + temb
    h = h + jax.lax.stop_gradient(added)[:, None, None, :]
    h = norm('norm2')(h, act, scale, shift, added=added)
    if dropout_keys is not None and self.dropout_rate > 0.0:
      h = dropout(h, self.dropout_rate, dropout_keys, self.path)
    h = conv3x3(self.features, 'conv2', self.dtype, kernel_init=ZERO_INIT)(h)
    if x.shape[-1] != self.features:
      x = nn.Conv(
        self.features,
        (1, 1),
        kernel_init=KERNEL_INIT,
        dtype=self.dtype,
        name='conv_shortcut',
      )(x)
    return (x + h) / self.output_scale


class Attention(nn.Module):
  """Self-attention over the pixels of a feature map, with a residual.

  Attributes:
    head_dim: channels of a head; None makes one head.
    num_groups: of the norm before it; None has no norm.
    epsilon: of the norm.
    output_scale: the sum is divided by it.
    dtype: of the compute.
  """

  head_dim: int | None
  num_groups: int | None
  epsilon: float = 1e-5
  output_scale: float = 1.0
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    batch, height, width, channels = x.shape
    head_dim = self.head_dim or channels
    dense = lambda name, init=KERNEL_INIT: nn.Dense(
      channels, kernel_init=init, dtype=self.dtype, name=name
    )
    h = x
    if self.num_groups is not None:
      h = norms.GroupNorm(
        self.num_groups, self.epsilon, self.dtype, name='group_norm'
      )(h)
    h = h.reshape(batch, height * width, channels)
    heads = (batch, height * width, channels // head_dim, head_dim)
    q, k, v = (
      dense(name)(h).reshape(heads) for name in ('to_q', 'to_k', 'to_v')
    )
    h = attention.attention(q, k, v).reshape(batch, height, width, channels)
    return (x + dense('to_out_0', ZERO_INIT)(h)) / self.output_scale


class Downsample(nn.Module):
  """Strided 3x3 convolution; padding 0 pads right and bottom (Ho et al.)."""

  padding: int = 1
  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    padding = self.padding if self.padding else ((0, 1), (0, 1))
    return conv3x3(x.shape[-1], 'conv', self.dtype, strides=2, padding=padding)(
      x
    )


def double(x: jax.Array) -> jax.Array:
  """Nearest neighbours: [B, H, W, C] -> [B, 2 H, 2 W, C]."""
  return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)


class Upsample(nn.Module):
  """Nearest-neighbour doubling, then a 3x3 convolution."""

  dtype: jnp.dtype = jnp.float32

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    return conv3x3(
      x.shape[-1],
      'conv',
      self.dtype,
      conv_general_dilated=lambda x, kernel, *args, **kwargs: conv_of_double(
        x, kernel
      ),
    )(x)


def conv_of_double(x: jax.Array, kernel: jax.Array) -> jax.Array:
  """A 3x3 convolution of `double`: [B, H, W, C] -> [B, 2 H, 2 W, features].

  On a TPU it is one of the image with zeros between its pixels,

  (1)  K4[u] = sum of K[u - a] over doubled pixels a in {0, 1}^2,

  4 of whose 16 taps meet a pixel, where K has 9: with gradients a third of the
  cycles, by v5e's compiler ([128, 16, 16, 256]).
  """
  return jax.lax.platform_dependent(
    x, kernel, tpu=_dilated, default=_of_doubled
  )


def _of_doubled(x: jax.Array, kernel: jax.Array) -> jax.Array:
  return _convolve(double(x), kernel, 1)


def _dilated(x: jax.Array, kernel: jax.Array) -> jax.Array:
  wide = kernel.astype(jnp.float32)
  moved = [
    jnp.pad(wide, ((down, 1 - down), (right, 1 - right), (0, 0), (0, 0)))
    for down in (0, 1)
    for right in (0, 1)
  ]
  taps = functools.reduce(jnp.add, moved)
  return _convolve(x, taps.astype(kernel.dtype), 2, lhs_dilation=(2, 2))


def _convolve(
  x: jax.Array, kernel: jax.Array, padding: int, **options
) -> jax.Array:
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (1, 1),
    [(padding, padding)] * 2,
    dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    **options,
  )
