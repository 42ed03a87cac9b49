"""The U-Net's own promises; parity is tested in tests/interop."""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import layers, unet

pytestmark = pytest.mark.slow


@functools.cache
def small_net(**kwargs):
  net = unet.UNet(
    out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
    down_block_types=('DownBlock2D',) * 2, up_block_types=('UpBlock2D',) * 2,
    norm_num_groups=4, attention_head_dim=4, **kwargs,
  )  # fmt: skip
  x = jax.random.normal(jax.random.key(1), (4, 8, 8, 1))
  t = jnp.array([0, 10, 500, 999])
  labels = jnp.arange(4) if 'num_class_embeds' in kwargs else None
  params = net.init(jax.random.key(0), x, t, labels)
  # The last layers start at zero: move everything, so that all of it shows.
  leaves, tree = jax.tree.flatten(params)
  keys = jax.random.split(jax.random.key(2), len(leaves))
  moved = [
    leaf + 0.1 * jax.random.normal(key, leaf.shape)
    for leaf, key in zip(leaves, keys, strict=True)
  ]
  return net, jax.tree.unflatten(tree, moved), x, t


def test_bfloat16_compute_keeps_float32_parameters_and_output():
  net, params, x, t = small_net()
  half = net.copy(dtype=jnp.bfloat16)
  assert {leaf.dtype for leaf in jax.tree.leaves(half.init(
    jax.random.key(0), x, t))} == {jnp.dtype('float32')}  # fmt: skip
  exact = net.apply(params, x, t)
  rough = half.apply(params, x, t)
  assert rough.dtype == jnp.float32
  error = float(jnp.abs(exact - rough).max() / jnp.abs(exact).max())
  assert 0.0 < error < 0.05


def test_labels_and_conditional_nets_go_together():
  net, params, x, t = small_net()
  with pytest.raises(ValueError, match='class-conditional'):
    net.apply(params, x, t, jnp.arange(4))
  net, params, x, t = small_net(num_class_embeds=10)
  with pytest.raises(ValueError, match='missing'):
    net.apply(params, x, t)
  one = net.apply(params, x, t, jnp.arange(4))
  two = net.apply(params, x, t, jnp.arange(4) + 1)
  assert float(jnp.abs(one - two).max()) > 1e-4


def test_unknown_block_types_are_refused():
  net = unet.UNet(down_block_types=('Nope',) * 4)
  with pytest.raises(ValueError, match='AttnDownBlock2D'):
    net.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)), jnp.zeros(1, int))


def test_dropout_masks_go_with_the_example_not_the_batch():
  net, params, x, t = small_net(dropout=0.5)
  keys = jax.random.split(jax.random.key(3), 4)
  whole = net.apply(params, x, t, dropout_keys=keys)
  part = net.apply(params, x[2:], t[2:], dropout_keys=keys[2:])
  np.testing.assert_allclose(whole[2:], part, atol=1e-5)
  still = net.apply(params, x, t)
  np.testing.assert_array_equal(still, net.apply(params, x, t))
  assert float(jnp.abs(whole - still).max()) > 1e-3


def test_dropout_keeps_the_mean_and_differs_by_layer():
  keys = jax.random.split(jax.random.key(0), 8)
  x = jnp.ones((8, 40, 40, 1))
  one = layers.dropout(x, 0.3, keys, ('a',))
  two = layers.dropout(x, 0.3, keys, ('b',))
  assert abs(float(one.mean()) - 1.0) < 0.03
  np.testing.assert_allclose(np.unique(one), [0.0, 1.0 / 0.7], rtol=1e-5)
  assert float(jnp.abs(one - two).max()) > 0


@pytest.mark.parametrize('height', [1, 4, 5])
def test_dropout_asks_the_halves_of_random_words(height):
  keys = jax.random.split(jax.random.key(0), 2)
  x = jax.random.normal(jax.random.key(1), (2, height, 3, 2))
  got = np.asarray(layers.dropout(x, 0.3, keys, ('down', 'conv')))
  layer = zlib.crc32(b'down/conv') & 0x7FFFFFFF
  rows = (height + 1) // 2
  for one, image, key in zip(got, np.asarray(x), keys, strict=True):
    key = jax.random.fold_in(key, layer)
    words = np.asarray(jax.random.bits(key, (rows, 3, 2), jnp.uint32))
    for i, j, k in np.ndindex(*one.shape):
      word = int(words[i % rows, j, k])
      half = word >> 16 if i >= rows else word & 0xFFFF
      want = image[i, j, k] * 65536 / 45875 if half < 45875 else 0.0
      np.testing.assert_allclose(one[i, j, k], want, rtol=1e-6)


def test_an_odd_embedding_is_refused():
  with pytest.raises(ValueError, match='even'):
    layers.timestep_embedding(jnp.zeros(1), 3)
