"""Inception-v3 as FID uses it (Szegedy et al. 2016; Heusel et al. 2017).

The network of TensorFlow's 2015-12-05 graph, up to its last pooling: average
pools leave the border out of their count, the last block pools by maximum, and
images are scaled to 299 pixels without smoothing. For inference alone: batch
norms are folded into the convolutions before them (`interop.inception`).
"""

from collections.abc import Sequence

from flax import linen as nn
import jax
import jax.numpy as jnp

SIZE = 299

# Kernels.
_K1, _K3, _K5, _ROW, _COLUMN = (1, 1), (3, 3), (5, 5), (1, 7), (7, 1)
_STEM = (
  ('Conv2d_1a_3x3', 32, 2, 'VALID'),
  ('Conv2d_2a_3x3', 32, 1, 'VALID'),
  ('Conv2d_2b_3x3', 64, 1, 'SAME'),
)


class _Conv(nn.Module):
  """Convolution, bias, ReLU."""

  features: int
  kernel: tuple[int, int] = _K1
  stride: int = 1
  padding: str = 'SAME'

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    conv = nn.Conv(
      self.features,
      self.kernel,
      (self.stride, self.stride),
      self.padding,
      precision=jax.lax.Precision.HIGHEST,
      name='conv',
    )
    return nn.relu(conv(x))


def _average(x: jax.Array) -> jax.Array:
  return nn.avg_pool(x, _K3, padding='SAME', count_include_pad=False)


def _shrink(x: jax.Array) -> jax.Array:
  return nn.max_pool(x, _K3, (2, 2))


class _Mixed(nn.Module):
  """Branches side by side.

  Attributes:
    branches: a name and its layers (suffix, features, kernel) each; the last
      layer strides if `stride` is 2.
    pool: features of the pooled branch; 0 pools alone, by maximum and stride.
    stride: 1 or 2.
  """

  branches: Sequence[tuple[str, tuple]]
  pool: int
  stride: int = 1

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out = []
    for name, layers in self.branches:
      y = x
      for number, (suffix, features, kernel) in enumerate(layers, 1):
        last = number == len(layers) and self.stride == 2
        stride, padding = (2, 'VALID') if last else (1, 'SAME')
        conv = _Conv(features, kernel, stride, padding, name=name + suffix)
        y = conv(y)
      out.append(y)
    if not self.pool:
      return jnp.concatenate([*out, _shrink(x)], axis=-1)
    out.append(_Conv(self.pool, name='branch_pool')(_average(x)))
    return jnp.concatenate(out, axis=-1)


class _Split(nn.Module):
  """The last blocks: 3 x 3 as a row and a column side by side."""

  largest: bool

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    def both(y, name, suffix):
      row = _Conv(384, (1, 3), name=f'{name}_{suffix}a')(y)
      column = _Conv(384, (3, 1), name=f'{name}_{suffix}b')(y)
      return [row, column]

    out = [_Conv(320, name='branch1x1')(x)]
    out += both(_Conv(384, name='branch3x3_1')(x), 'branch3x3', '2')
    y = _Conv(448, name='branch3x3dbl_1')(x)
    y = _Conv(384, _K3, name='branch3x3dbl_2')(y)
    out += both(y, 'branch3x3dbl', '3')
    pooled = (
      nn.max_pool(x, _K3, padding='SAME') if self.largest else _average(x)
    )
    out.append(_Conv(192, name='branch_pool')(pooled))
    return jnp.concatenate(out, axis=-1)


def _block_a(pool: int) -> tuple:
  double = (('_1', 64, _K1), ('_2', 96, _K3), ('_3', 96, _K3))
  return (
    (
      ('branch1x1', (('', 64, _K1),)),
      ('branch5x5', (('_1', 48, _K1), ('_2', 64, _K5))),
      ('branch3x3dbl', double),
    ),
    pool,
  )


def _block_c(width: int) -> tuple:
  single = (('_1', width, _K1), ('_2', width, _ROW), ('_3', 192, _COLUMN))
  double = (
    ('_1', width, _K1),
    ('_2', width, _COLUMN),
    ('_3', width, _ROW),
    ('_4', width, _COLUMN),
    ('_5', 192, _ROW),
  )
  return (
    (
      ('branch1x1', (('', 192, _K1),)),
      ('branch7x7', single),
      ('branch7x7dbl', double),
    ),
    192,
  )


_BLOCK_B = (
  (
    ('branch3x3', (('', 384, _K3),)),
    ('branch3x3dbl', (('_1', 64, _K1), ('_2', 96, _K3), ('_3', 96, _K3))),
  ),
  0,
  2,
)
_BLOCK_D = (
  (
    ('branch3x3', (('_1', 192, _K1), ('_2', 320, _K3))),
    (
      'branch7x7x3',
      (
        ('_1', 192, _K1),
        ('_2', 192, _ROW),
        ('_3', 192, _COLUMN),
        ('_4', 192, _K3),
      ),
    ),
  ),
  0,
  2,
)
_MIXED = {
  'Mixed_5b': _block_a(32),
  'Mixed_5c': _block_a(64),
  'Mixed_5d': _block_a(64),
  'Mixed_6a': _BLOCK_B,
  'Mixed_6b': _block_c(128),
  'Mixed_6c': _block_c(160),
  'Mixed_6d': _block_c(160),
  'Mixed_6e': _block_c(192),
  'Mixed_7a': _BLOCK_D,
}


class Inception(nn.Module):
  """x0 [B, H, W, C] in [-1, 1], C 1 or 3 -> features float32 [B, 2048]."""

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    x = jnp.broadcast_to(x, (*x.shape[:-1], 3))
    shape = (len(x), SIZE, SIZE, 3)
    x = jax.image.resize(x, shape, 'linear', antialias=False)
    for name, features, stride, padding in _STEM:
      x = _Conv(features, _K3, stride, padding, name=name)(x)
    x = _shrink(x)
    x = _Conv(80, name='Conv2d_3b_1x1')(x)
    x = _Conv(192, _K3, padding='VALID', name='Conv2d_4a_3x3')(x)
    x = _shrink(x)
    for name, block in _MIXED.items():
      x = _Mixed(*block, name=name)(x)
    x = _Split(largest=False, name='Mixed_7b')(x)
    x = _Split(largest=True, name='Mixed_7c')(x)
    return x.mean(axis=(1, 2))
