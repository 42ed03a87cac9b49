"""Noising and conversions: round trips for every prediction type."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import processes, schedules

SCHEDULE = schedules.make()


def example():
  keys = jax.random.split(jax.random.key(0), 2)
  x0 = jax.random.uniform(keys[0], (6, 4, 4, 3), minval=-1.0, maxval=1.0)
  eps = jax.random.normal(keys[1], x0.shape)
  t = jnp.array([0, 1, 50, 100, 500, 999])
  return x0, eps, t


def test_add_noise_is_equation_1():
  x0, eps, t = example()
  x_t = processes.add_noise(SCHEDULE, x0, eps, t)
  for i, step in enumerate(np.asarray(t)):
    abar = SCHEDULE.alphas_cumprod[step]
    want = np.sqrt(abar) * x0[i] + np.sqrt(1.0 - abar) * eps[i]
    np.testing.assert_allclose(x_t[i], want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('kind', processes.PREDICTION_TYPES)
def test_a_perfect_output_gives_back_noise_and_image(kind):
  x0, eps, t = example()
  # Dividing by a tiny signal or noise scale magnifies rounding.
  keep = slice(2, 5)
  x0, eps, t = x0[keep], eps[keep], t[keep]
  x_t = processes.add_noise(SCHEDULE, x0, eps, t)
  output = processes.target(SCHEDULE, x0, eps, t, kind)
  np.testing.assert_allclose(
    processes.to_eps(SCHEDULE, output, x_t, t, kind), eps, atol=2e-5
  )
  np.testing.assert_allclose(
    processes.to_x0(SCHEDULE, output, x_t, t, kind), x0, atol=2e-5
  )


def test_unknown_prediction_type_is_refused():
  x0, eps, t = example()
  with pytest.raises(ValueError, match='v_prediction'):
    processes.target(SCHEDULE, x0, eps, t, 'nope')


def test_guidance_mixes_conditional_and_null():
  def eps_fn(x_t, t, cond):
    return jnp.broadcast_to(
      cond.astype(jnp.float32)[:, None, None, None], x_t.shape
    ) + x_t * t[:, None, None, None].astype(jnp.float32)

  x = jnp.ones((2, 2, 2, 1))
  t = jnp.array([1, 2])
  labels = jnp.array([3, 5])
  got = processes.guide(eps_fn, 10, 2.0)(x, t, labels)
  want = eps_fn(x, t, jnp.array([10, 10]))
  want = want + 2.0 * (eps_fn(x, t, labels) - want)
  np.testing.assert_allclose(got, want, rtol=1e-6)
  plain = processes.guide(eps_fn, 10, 1.0)(x, t, labels)
  np.testing.assert_allclose(plain, eps_fn(x, t, labels), rtol=1e-6)
