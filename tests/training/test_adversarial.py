"""Losses of GANs against NumPy and finite differences; on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.models import gan
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng
from jaxdiff.training import adversarial, train_step

SHAPE, LATENT = (4, 4, 1), 3
GENERATOR = gan.Generator(SHAPE, (7,), 'mlp', 2)
DISCRIMINATOR = gan.Discriminator((6,), 'mlp', 2)
GAMMA = 0.7


def generate(params, z, labels):
  return GENERATOR.apply(params['generator'], z, labels)


def discriminate(params, x, labels):
  return DISCRIMINATOR.apply(params['discriminator'], x, labels)


@pytest.fixture(scope='module')
def params():
  labels = jnp.zeros((1,), int)
  return {
    'generator': GENERATOR.init(
      jax.random.key(0), jnp.zeros((1, LATENT)), labels
    ),
    'discriminator': DISCRIMINATOR.init(
      jax.random.key(1), jnp.zeros((1, *SHAPE)), labels
    ),
  }


X0 = np.random.default_rng(0).uniform(-1, 1, (8, *SHAPE)).astype(np.float32)
LABELS = np.arange(8) % 2


def latents():
  keys = prng.fold_each(jax.random.key(5), jnp.arange(8))
  return prng.normal_each(keys, (LATENT,))


def softplus(x):
  return np.logaddexp(0.0, np.asarray(x, np.float64))


def test_penalties_are_finite_differences(params):
  """R1 and R2: the squared slope of D at each real and each fake image."""
  fake = np.asarray(generate(params, latents(), LABELS), np.float64)
  with jax.enable_x64(True):
    wide = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    score = lambda x: np.asarray(
      gan.Discriminator((6,), 'mlp', 2, dtype=jnp.float64).apply(
        wide['discriminator'], jnp.asarray(x), LABELS
      )
    )
    slope = 0.0
    for x in (X0.astype(np.float64), fake):
      for place in np.ndindex(SHAPE):
        step = np.zeros(SHAPE)
        step[place] = 1e-4
        slope = slope + ((score(x + step) - score(x - step)) / 2e-4) ** 2
  loss, penalty = adversarial.discriminator_loss(
    params, X0, jnp.asarray(fake, jnp.float32), LABELS,
    discriminate=discriminate, gamma=GAMMA,
  )  # fmt: skip
  np.testing.assert_allclose(penalty, 0.5 * GAMMA * slope, rtol=2e-3)
  real = discriminate(params, X0, LABELS)
  made = discriminate(params, fake.astype(np.float32), LABELS)
  want = softplus(np.asarray(made) - np.asarray(real)) + np.asarray(penalty)
  np.testing.assert_allclose(loss, want, rtol=1e-5)


def gradients(params, devices):
  mesh = mesh_lib.make(1, jax.devices()[:devices])
  grad_fn = adversarial.make_grad_fn(
    generate, discriminate, latent_size=LATENT, gamma=GAMMA
  )

  def body(x0, labels):
    start = jax.lax.axis_index(mesh_lib.DATA) * len(x0)
    batch = train_step.Batch(x0, labels, start + jnp.arange(len(x0)))
    return grad_fn(params, batch, jax.random.key(5))

  sharded = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=mesh_lib.PER_EXAMPLE,
    out_specs=mesh_lib.REPLICATED,
  )
  return jax.jit(sharded)(X0, LABELS)


def test_each_net_follows_its_own_loss(params):
  """Against the two losses written down one after the other."""
  z = latents()

  def of_generator(g):
    fake = generate({'generator': g}, z, LABELS)
    real = discriminate(params, X0, LABELS)
    return jax.nn.softplus(real - discriminate(params, fake, LABELS)).mean()

  def of_discriminator(d):
    nets = {'discriminator': d}
    fake = generate(params, z, LABELS)
    slopes = 0.0
    for x in (X0, fake):
      one = lambda x, y: discriminate(nets, x[None], y[None])[0]
      slope = jax.vmap(jax.grad(one))(x, LABELS)
      slopes += jnp.square(slope).sum(axis=(1, 2, 3))
    gap = discriminate(nets, fake, LABELS) - discriminate(nets, X0, LABELS)
    return (jax.nn.softplus(gap) + 0.5 * GAMMA * slopes).mean()

  grads, figures = gradients(params, 1)
  for name, loss_fn, figure in (
    ('generator', of_generator, 'generator_loss'),
    ('discriminator', of_discriminator, 'loss'),
  ):
    loss, want = jax.value_and_grad(loss_fn)(params[name])
    np.testing.assert_allclose(figures[figure], loss, rtol=1e-5)
    for a, b in zip(
      jax.tree.leaves(grads[name]), jax.tree.leaves(want), strict=True
    ):
      np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_share_a_batch(params, devices):
  alone, figures = gradients(params, 1)
  shared, of_shared = gradients(params, devices)
  for a, b in zip(
    jax.tree.leaves((alone, figures)),
    jax.tree.leaves((shared, of_shared)),
    strict=True,
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
