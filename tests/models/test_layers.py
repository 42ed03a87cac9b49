"""Layers that are computed another way on a TPU, against their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import attention, layers, norms


def naive(x, kernel):
  """A pixel and a tap at a time, float64: [B, H, W, C] -> [B, 2 H, 2 W, F]."""
  doubled = np.repeat(np.repeat(np.asarray(x, np.float64), 2, 1), 2, 2)
  batch, height, width, _ = doubled.shape
  out = np.zeros((batch, height, width, kernel.shape[3]))
  for i, j, u, v in np.ndindex(height, width, 3, 3):
    row, column = i + u - 1, j + v - 1
    if 0 <= row < height and 0 <= column < width:
      out[:, i, j] += doubled[:, row, column] @ np.asarray(
        kernel[u, v], np.float64
      )
  return out


@pytest.mark.parametrize('convolve', [layers._of_doubled, layers._dilated])
@pytest.mark.parametrize('shape', [(2, 3, 5, 4), (1, 1, 1, 2)])
def test_a_convolution_of_doubled_images_is_its_definition(convolve, shape):
  x = jax.random.normal(jax.random.key(0), shape)
  kernel = jax.random.normal(jax.random.key(1), (3, 3, shape[3], 6))
  np.testing.assert_allclose(
    convolve(x, kernel), naive(x, kernel), rtol=1e-5, atol=1e-5
  )


def test_both_ways_have_the_same_gradients():
  x = jax.random.normal(jax.random.key(0), (2, 3, 5, 4))
  kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 6))
  g = jax.random.normal(jax.random.key(2), (2, 6, 10, 6))
  one, two = (
    jax.vjp(convolve, x, kernel)[1](g)
    for convolve in (layers._of_doubled, layers._dilated)
  )
  for a, b in zip(one, two, strict=True):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def lowered(function, *args, platform):
  traced = jax.jit(function).trace(*args)
  return traced.lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_of_the_program_decides_not_the_machine():
  x, kernel = jnp.zeros((2, 4, 4, 8)), jnp.zeros((3, 3, 8, 8))
  dilated = 'lhs_dilate = [2, 2]'
  texts = {
    platform: lowered(layers.conv_of_double, x, kernel, platform=platform)
    for platform in ('cpu', 'tpu', 'cuda')
  }
  assert {k: dilated in v for k, v in texts.items()} == {
    'cpu': False,
    'tpu': True,
    'cuda': False,
  }
  q = jnp.zeros((2, 16, 2, 4))
  texts = {
    platform: lowered(attention.attention, q, q, q, platform=platform)
    for platform in ('cpu', 'tpu', 'cuda')
  }
  # In blocks there is a loop over them.
  assert {k: 'stablehlo.while' in v for k, v in texts.items()} == {
    'cpu': True,
    'tpu': False,
    'cuda': False,
  }


def test_a_bfloat16_norm_of_a_distant_mean():
  """Where one pass would lose digits, bfloat16 has lost more before."""
  x = 30.0 + jax.random.normal(jax.random.key(0), (2, 16, 16, 8))
  x = x.astype(jnp.bfloat16)
  norm = norms.GroupNorm(2, 1e-5, jnp.bfloat16)
  got = norm.apply(norm.init(jax.random.key(0), x), x).astype(jnp.float32)
  wide = np.asarray(x.astype(jnp.float32), np.float64).reshape(2, 256, 2, 4)
  mean = wide.mean(axis=(1, 3), keepdims=True)
  variance = wide.var(axis=(1, 3), keepdims=True)
  want = ((wide - mean) / np.sqrt(variance + 1e-5)).reshape(got.shape)
  np.testing.assert_allclose(got, want, atol=2e-2, rtol=1e-2)


def test_parts_of_a_concatenation_change_nothing():
  keys = jax.random.split(jax.random.key(0), 3)
  parts = [
    jax.random.normal(key, (2, 4, 4, width)).astype(jnp.bfloat16)
    for key, width in zip(keys, (6, 10), strict=False)
  ]
  norm = norms.GroupNorm(4, 1e-5, jnp.bfloat16)
  joined = jnp.concatenate(parts, axis=-1)
  params = norm.init(keys[2], joined)
  g = jax.random.normal(keys[2], joined.shape).astype(jnp.bfloat16)

  def by_parts(*parts):
    return norm.apply(
      params, jnp.concatenate(parts, axis=-1), jax.nn.silu, parts=parts
    )

  def whole(*parts):
    return norm.apply(params, jnp.concatenate(parts, axis=-1), jax.nn.silu)

  for one, two in zip(
    *(
      (out, *pull(g))
      for out, pull in (jax.vjp(fn, *parts) for fn in (by_parts, whole))
    ),
    strict=True,
  ):
    np.testing.assert_array_equal(one, two)
