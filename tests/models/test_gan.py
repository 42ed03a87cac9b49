"""Generators and discriminators: shapes, labels, what starts at nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import gan

SHAPE = (8, 12, 3)
LABELS = jnp.array([0, 1, 1, 2])


def nets(net, num_classes=3, **fields):
  generator = gan.Generator(
    SHAPE, (8, 6), net, num_classes, cardinality=2, **fields
  )
  return generator, gan.Discriminator(
    (6, 8), net, num_classes, cardinality=2, **fields
  )


@pytest.mark.parametrize('net', gan.NETS)
@pytest.mark.parametrize('num_classes', [0, 3])
def test_shapes_and_labels(net, num_classes):
  generator, discriminator = nets(net, num_classes)
  labels = LABELS if num_classes else None
  z = jnp.tile(jax.random.normal(jax.random.key(1), (1, 5)), (4, 1))
  made, weights = generator.init_with_output(jax.random.key(0), z, labels)
  assert made.shape == (4, *SHAPE) and made.dtype == jnp.float32
  assert np.abs(made).max() <= 1.0
  score, _ = discriminator.init_with_output(
    jax.random.key(2), jnp.tile(made[:1], (4, 1, 1, 1)), labels
  )
  assert score.shape == (4,) and score.dtype == jnp.float32
  for rows in (made.reshape(4, -1), score[:, None]):
    np.testing.assert_allclose(rows[1], rows[2], rtol=1e-5, atol=1e-6)
    differ = np.abs(rows[0] - rows[1]).max() > 1e-4
    assert differ == bool(num_classes)
  assert len(jax.tree.leaves(weights)) > 3


@pytest.mark.parametrize('net', gan.NETS)
def test_an_image_does_not_depend_on_its_neighbours(net):
  """No norm and no statistic looks at the batch."""
  generator, discriminator = nets(net)
  z = jax.random.normal(jax.random.key(1), (4, 5))
  made, g = generator.init_with_output(jax.random.key(0), z, LABELS)
  score, d = discriminator.init_with_output(jax.random.key(2), made, LABELS)
  alone = generator.apply(g, z[2:3], LABELS[2:3])
  np.testing.assert_allclose(alone[0], made[2], atol=1e-6)
  alone = discriminator.apply(d, made[2:3], LABELS[2:3])
  np.testing.assert_allclose(alone[0], score[2], rtol=1e-5)


def test_blocks_start_as_nothing():
  x = jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
  block = gan.ResidualBlock(2, 4, jnp.float32)
  y, weights = block.init_with_output(jax.random.key(1), x)
  np.testing.assert_array_equal(x, y)
  assert weights['params']['conv2']['kernel'].shape == (3, 3, 4, 16)


def test_weights_stay_float32_in_bfloat16():
  generator, discriminator = nets('conv', dtype=jnp.bfloat16)
  z = jax.random.normal(jax.random.key(1), (4, 5))
  made, g = generator.init_with_output(jax.random.key(0), z, LABELS)
  score, d = discriminator.init_with_output(jax.random.key(2), made, LABELS)
  assert made.dtype == score.dtype == jnp.float32
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((g, d)))
