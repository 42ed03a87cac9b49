"""Group normalisation against its definition and Flax's."""

from flax import linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import layers, norms


def inputs(dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 6)
  x = 3.0 + jax.random.normal(keys[0], (2, 3, 5, 8), dtype)
  params = {
    'scale': jax.random.normal(keys[1], (8,)),
    'bias': jax.random.normal(keys[2], (8,)),
  }
  more, shift = (jax.random.normal(key, (2, 8)) for key in keys[3:5])
  return x, {'params': params}, more, shift, jax.random.normal(keys[5], x.shape)


def test_is_its_definition():
  x, params, more, shift, _ = inputs()
  got = norms.GroupNorm(2, 1e-5).apply(params, x, jnp.tanh, more, shift)
  for b in range(2):
    for c in range(8):
      group = slice(c // 4 * 4, c // 4 * 4 + 4)
      part = np.asarray(x[b, :, :, group], np.float64)
      y = (np.asarray(x[b, :, :, c]) - part.mean()) / np.sqrt(part.var() + 1e-5)
      y = params['params']['scale'][c] * y + params['params']['bias'][c]
      np.testing.assert_allclose(
        got[b, :, :, c], np.tanh(y * more[b, c] + shift[b, c]), atol=1e-5
      )


@pytest.mark.parametrize('act', [None, *layers.ACTIVATIONS.values()])
@pytest.mark.parametrize('scaled', [False, True])
@pytest.mark.parametrize('small', [0, norms._SMALL])
def test_gradients_equal_those_of_flax(act, scaled, small, monkeypatch):
  monkeypatch.setattr(norms, '_SMALL', small)
  x, params, more, shift, g = inputs()

  def ours(params, x, more, shift):
    extra = (more, shift) if scaled else ()
    return norms.GroupNorm(2, 1e-5).apply(params, x, act, *extra)

  def theirs(params, x, more, shift):
    norm = nn.GroupNorm(2, epsilon=1e-5, use_fast_variance=False)
    y = norm.apply(params, x)
    if scaled:
      y = y * more[:, None, None] + shift[:, None, None]
    return y if act is None else act(y)

  got, pull = jax.vjp(ours, params, x, more, shift)
  want, pull_theirs = jax.vjp(theirs, params, x, more, shift)
  np.testing.assert_allclose(got, want, atol=1e-5)
  for one, two in zip(
    jax.tree.leaves(pull(g)), jax.tree.leaves(pull_theirs(g)), strict=True
  ):
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('rows', [1, 2])
@pytest.mark.parametrize('dtype', [jnp.float32, jnp.bfloat16])
def test_what_was_added_has_the_gradient_of_a_sum_over_pixels(rows, dtype):
  x, params, _, _, g = inputs(dtype)
  added = jax.random.normal(jax.random.key(7), (rows, 8), dtype)
  norm = norms.GroupNorm(2, 1e-5, dtype)

  def ours(params, x, added):
    told = jax.lax.stop_gradient(added)[:, None, None]
    return norm.apply(params, x + told, jnp.tanh, added=added)

  def summed(params, x, added):
    return norm.apply(params, x + added[:, None, None], jnp.tanh)

  got, pull = jax.vjp(ours, params, x, added)
  want, pull_summed = jax.vjp(summed, params, x, added)
  np.testing.assert_array_equal(got, want)
  tolerance = 2e-5 if dtype == jnp.float32 else 0.1
  for one, two in zip(
    jax.tree.leaves(pull(g.astype(dtype))),
    jax.tree.leaves(pull_summed(g.astype(dtype))),
    strict=True,
  ):
    np.testing.assert_allclose(
      one.astype(jnp.float32), two.astype(jnp.float32), atol=tolerance
    )


def test_a_large_mean_costs_no_digits():
  x = 1e4 + jax.random.normal(jax.random.key(0), (1, 16, 16, 4))
  norm = norms.GroupNorm(1, 1e-5)
  got = norm.apply(norm.init(jax.random.key(0), x), x)
  wide = np.asarray(x, np.float64)
  np.testing.assert_allclose(
    got, (wide - wide.mean()) / np.sqrt(wide.var() + 1e-5), atol=2e-3
  )


def test_bfloat16_keeps_float32_statistics():
  x, params, _, _, _ = inputs(jnp.bfloat16)
  norm = norms.GroupNorm(2, 1e-5, jnp.bfloat16)
  got, pull = jax.vjp(lambda x: norm.apply(params, x), x)
  want = norms.GroupNorm(2, 1e-5).apply(params, x.astype(jnp.float32))
  assert got.dtype == pull(jnp.ones_like(got))[0].dtype == jnp.bfloat16
  np.testing.assert_allclose(got.astype(jnp.float32), want, atol=2e-2)
