"""Ambient noise: its distribution, and that a Gaussian is learned from it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import ambient, losses, processes, schedules

SCHEDULE = schedules.make()
N = 300


def images(count=6):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (count, 4, 4, 1))
  return jnp.asarray(pixels / 127.5 - 1.0, jnp.float32)


def test_noise_follows_from_the_pixels_alone():
  x0, key = images(), jax.random.key(3)
  e = ambient.fixed_noise(key, x0)
  again = ambient.fixed_noise(key, x0[::-1])[::-1]
  np.testing.assert_array_equal(e, again)
  mirrored = ambient.fixed_noise(key, x0[:, :, ::-1])
  np.testing.assert_array_equal(mirrored[:, :, ::-1], e)
  # Another level of one pixel, another key: another noise.
  moved = x0.at[0, 1, 2, 0].add(jnp.where(x0[0, 1, 2, 0] > 0, -1, 1) / 127.5)
  assert np.abs(ambient.fixed_noise(key, moved)[0] - e[0]).max() > 0.1
  assert np.abs(ambient.fixed_noise(jax.random.key(4), x0) - e).max() > 0.1
  many = ambient.fixed_noise(key, images(4000))
  assert abs(np.mean(many)) < 0.02 and abs(np.std(many) - 1) < 0.02
  assert abs(np.corrcoef(np.reshape(many, (4000, -1)).T)[0, 1]) < 0.06


def test_nothing_is_changed_up_to_the_timestep():
  x0 = images()
  eps, e = jax.random.normal(jax.random.key(0), (2, *x0.shape))
  t = jnp.array([0, 1, 100, 299, 300, 300])
  x, noise, weight = ambient.carried(SCHEDULE, x0, eps, t, e, N)
  np.testing.assert_array_equal(x, x0)
  np.testing.assert_array_equal(noise, eps)
  np.testing.assert_array_equal(weight, 1.0)


@pytest.mark.parametrize('t', [301, 350, 600, 999])
def test_equations_by_hand(t):
  x0 = images()
  eps, e = jax.random.normal(jax.random.key(0), (2, *x0.shape))
  times = jnp.full(len(x0), t)
  x, noise, weight = ambient.carried(SCHEDULE, x0, eps, times, e, N)
  table = SCHEDULE.alphas_cumprod
  a, s, a_n, s_n = (
    np.sqrt(table[t]), np.sqrt(1 - table[t]), np.sqrt(table[N]),
    np.sqrt(1 - table[N]),
  )  # fmt: skip
  r = a / a_n
  q = 1 - (r * s_n / s) ** 2
  x_n = a_n * x0 + s_n * e
  x_t = r * x_n + np.sqrt(q) * s * eps
  np.testing.assert_allclose(weight, q, rtol=1e-4)
  # The net sees (2), and its error of (3) is the weighted one of (4).
  got = processes.add_noise(SCHEDULE, x, noise, times)
  np.testing.assert_allclose(got, x_t, atol=2e-4 / np.sqrt(q))
  guess = jax.random.normal(jax.random.key(5), x0.shape)  # of the noise
  x0_hat = (x_t - s * guess) / a
  error = np.square(a_n * q * x0_hat + (1 - q) / r * x_t - x_n)
  want = error.mean(axis=(1, 2, 3)) * (r / s) ** 2 / q
  loss = losses.denoising_loss(
    lambda *given: guess, x, times, noise, None, schedule=SCHEDULE
  )
  np.testing.assert_allclose(weight * loss, want, rtol=5e-3)


def test_a_gaussian_is_learned_from_noised_images_alone():
  """The least-squares fit of (4) is the true posterior mean of the noise."""
  rng = np.random.default_rng(0)
  levels = np.clip(np.rint(127.5 + 40 * rng.normal(size=(50_000, 2, 2, 1))),
                   0, 255)  # fmt: skip
  x0 = jnp.asarray(levels / 127.5 - 1.0, jnp.float32)
  eps, e = jax.random.normal(jax.random.key(0), (2, *x0.shape))
  for t in (320, 500, 900):
    times = jnp.full(len(x0), t)
    x, noise, _ = ambient.carried(SCHEDULE, x0, eps, times, e, N)
    x_t = np.ravel(processes.add_noise(SCHEDULE, x, noise, times))
    slope = float(np.dot(np.ravel(noise), x_t) / np.dot(x_t, x_t))
    a2 = SCHEDULE.alphas_cumprod[t]
    variance = a2 * float(np.var(x0)) + 1 - a2
    want = np.sqrt(1 - a2) / variance
    assert slope == pytest.approx(want, rel=0.03), t
    # And what is seen is distributed as any image that is noised to t.
    assert float(np.var(x_t)) == pytest.approx(variance, rel=0.02)
