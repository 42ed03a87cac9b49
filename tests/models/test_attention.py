"""Attention in blocks against its definition and the library's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import attention


def qkv(shape, dtype=jnp.float32):
  keys = jax.random.split(jax.random.key(0), 4)
  return [jax.random.normal(key, shape, dtype) for key in keys]


def naive(q, k, v):
  """A query, a head and an image at a time, float64."""
  q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
  out = np.zeros_like(q)
  for b, t, h in np.ndindex(q.shape[:3]):
    weights = np.exp(k[b, :, h] @ q[b, t, h] / np.sqrt(q.shape[-1]))
    out[b, t, h] = weights / weights.sum() @ v[b, :, h]
  return out


@pytest.mark.parametrize('entries', [1, 100, 2**19])
@pytest.mark.parametrize('shape', [(3, 6, 2, 4), (1, 1, 1, 3), (2, 9, 3, 1)])
def test_equals_its_naive_twin(shape, entries, monkeypatch):
  monkeypatch.setattr(attention, '_ENTRIES', entries)
  q, k, v, _ = qkv(shape)
  np.testing.assert_allclose(
    attention.in_blocks(q, k, v), naive(q, k, v), atol=1e-5
  )


@pytest.mark.parametrize(
  ('tile', 'together'), [(1, 8), (40, 8), (100, 1), (100, 8), (2**24, 8)]
)
@pytest.mark.parametrize('lengths', [(6, 6), (12, 5)])
def test_tiles_equal_the_naive_twin_and_their_gradients(
  lengths, tile, together
):
  q = qkv((3, lengths[0], 2, 4))[0]
  _, k, v, _ = qkv((3, lengths[1], 2, 4))
  tiled = lambda *x: attention.in_tiles(*x, tile, together)
  out, pull = jax.vjp(tiled, q, k, v)
  np.testing.assert_allclose(out, naive(q, k, v), atol=1e-5)
  g = jax.random.normal(jax.random.key(5), q.shape)
  wanted = jax.vjp(jax.nn.dot_product_attention, q, k, v)[1](g)
  for one, two in zip(pull(g), wanted, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)
  large = tiled(300.0 * q, k, v)
  assert np.isfinite(large).all()
  low = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  out = tiled(*low)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), naive(*low), atol=2e-2)


@pytest.mark.parametrize('keys', [6, 5])
def test_what_is_held_equals_the_naive_twin(keys):
  q, *_, g = qkv((3, 6, 2, 4))
  _, k, v, _ = qkv((3, keys, 2, 4))
  np.testing.assert_allclose(attention.held(q, k, v), naive(q, k, v), atol=1e-5)
  out, pull = jax.vjp(attention.held, q, k, v)
  np.testing.assert_allclose(out, naive(q, k, v), atol=1e-5)
  wanted = jax.vjp(jax.nn.dot_product_attention, q, k, v)[1](g)
  for one, two in zip(pull(g), wanted, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)
  large, pull = jax.vjp(attention.held, 300.0 * q, k, v)
  assert all(np.isfinite(x).all() for x in (large, *pull(g)))
  low = [x.astype(jnp.bfloat16) for x in (q, k, v)]
  out, pull = jax.vjp(attention.held, *low)
  grads = pull(g.astype(jnp.bfloat16))
  assert {x.dtype for x in (out, *grads)} == {jnp.dtype(jnp.bfloat16)}
  np.testing.assert_allclose(out.astype(jnp.float32), naive(*low), atol=2e-2)
  for one, two in zip(grads, wanted, strict=True):
    np.testing.assert_allclose(one.astype(jnp.float32), two, atol=4e-2)


@pytest.mark.parametrize('entries', [1, 2**19])
def test_gradients_equal_the_library_s(entries, monkeypatch):
  monkeypatch.setattr(attention, '_ENTRIES', entries)
  *inputs, g = qkv((3, 10, 2, 4))
  grads = [
    jax.vjp(kernel, *inputs)[1](g)
    for kernel in (attention.in_blocks, jax.nn.dot_product_attention)
  ]
  for one, two in zip(*grads, strict=True):
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_large_logits_stay_finite():
  q, k, v, g = qkv((1, 5, 1, 4))
  out, pull = jax.vjp(attention.in_blocks, 300.0 * q, k, v)
  assert np.isfinite(out).all()
  assert all(np.isfinite(x).all() for x in pull(g))


def test_bfloat16_in_and_out():
  q, k, v, _ = qkv((2, 8, 2, 4), jnp.bfloat16)
  out = attention.in_blocks(q, k, v)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(out.astype(jnp.float32), naive(q, k, v), atol=2e-2)
