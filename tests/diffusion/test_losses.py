"""The loss against its definition; weightings agree across targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import losses, processes, schedules

SCHEDULE = schedules.make()


def example():
  keys = jax.random.split(jax.random.key(1), 3)
  x0 = jax.random.uniform(keys[0], (5, 4, 4, 1), minval=-1.0, maxval=1.0)
  eps = jax.random.normal(keys[1], x0.shape)
  wrong = 0.1 * jax.random.normal(keys[2], x0.shape)
  return x0, eps, wrong, jnp.array([20, 100, 300, 600, 900])


def test_uniform_epsilon_loss_is_a_mean_of_squares():
  x0, eps, wrong, t = example()
  got = losses.denoising_loss(
    lambda x_t, t, cond: eps + wrong, x0, t, eps, None, schedule=SCHEDULE
  )
  want = (np.asarray(wrong) ** 2).reshape(5, -1).mean(axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-4)


@pytest.mark.parametrize('kind', processes.PREDICTION_TYPES)
def test_min_snr_is_one_loss_whatever_the_network_predicts(kind):
  # The same error of x0_hat, said in each prediction type, costs the same.
  x0, eps, wrong, t = example()
  x_t = processes.add_noise(SCHEDULE, x0, eps, t)
  a = SCHEDULE.signal_scale(t)[:, None, None, None]
  s = SCHEDULE.noise_scale(t)[:, None, None, None]
  x0_hat = x0 + wrong
  eps_hat = (x_t - a * x0_hat) / s
  output = {
    'sample': x0_hat,
    'epsilon': eps_hat,
    'v_prediction': a * eps_hat - s * x0_hat,
  }[kind]
  got = losses.denoising_loss(
    lambda x_t, t, cond: output,
    x0,
    t,
    eps,
    None,
    schedule=SCHEDULE,
    prediction_type=kind,
    weighting='min_snr_gamma',
  )
  on_x0 = jnp.square(wrong).mean(axis=(1, 2, 3))
  want = jnp.minimum(SCHEDULE.snr(t), losses.MIN_SNR_GAMMA) * on_x0
  np.testing.assert_allclose(got, want, rtol=2e-3)
