"""The loss against its definition; weightings agree across targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

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


def naive_bound(x0, x_t, t, x0_hat, v):
  """Nichol & Dhariwal (2021) in float64, a pixel at a time."""
  abar = SCHEDULE.alphas_cumprod
  betas = 1.0 - abar / np.append(1.0, abar[:-1])
  beta, before = betas[t], abar[t - 1] if t else 1.0
  small = beta * (1.0 - before) / (1.0 - abar[t])
  floor = betas[1] * (1.0 - abar[0]) / (1.0 - abar[1])
  total = 0.0
  for pixel in np.ndindex(x0.shape):
    mean, mean_hat = (
      np.sqrt(before) * beta / (1.0 - abar[t]) * x
      + np.sqrt(1.0 - beta) * (1.0 - before) / (1.0 - abar[t]) * x_t[pixel]
      for x in (x0[pixel], x0_hat[pixel])
    )
    f = (v[pixel] + 1.0) / 2.0
    var = beta**f * (small if t else floor) ** (1.0 - f)
    if t:
      total += 0.5 * (
        np.log(var / small) + (small + (mean - mean_hat) ** 2) / var - 1.0
      )
    else:
      low = -np.inf if x0[pixel] < -0.999 else x0[pixel] - 1.0 / 255.0
      high = np.inf if x0[pixel] > 0.999 else x0[pixel] + 1.0 / 255.0
      normal = stats.norm(mean_hat, np.sqrt(var))
      total -= np.log(max(normal.cdf(high) - normal.cdf(low), 1e-12))
  return total / x0.size / np.log(2.0)


def test_the_bound_equals_its_naive_twin():
  rng = np.random.default_rng(0)
  x0 = rng.integers(0, 256, (5, 3, 3, 2)) / 127.5 - 1.0
  x0[:, 0, 0] = [-1.0, 1.0]
  t = np.array([0, 0, 1, 300, 999])
  eps, v = rng.standard_normal(x0.shape), rng.uniform(-1.2, 1.2, x0.shape)
  x_t = np.asarray(
    processes.add_noise(SCHEDULE, jnp.asarray(x0), jnp.asarray(eps), t)
  )
  x0_hat = x0 + 0.02 * rng.standard_normal(x0.shape)
  got = losses.variational_bound(
    SCHEDULE, *(jnp.asarray(x) for x in (x0, x_t, t, x0_hat, v))
  )
  want = [naive_bound(*one) for one in zip(x0, x_t, t, x0_hat, v, strict=True)]
  np.testing.assert_allclose(got, want, rtol=2e-4, atol=1e-6)


def test_the_hybrid_loss_trains_the_mean_by_the_squares_alone():
  x0, eps, wrong, t = example()
  v = 0.3 * wrong

  def loss(outputs):
    return losses.denoising_loss(
      lambda x_t, t, cond: jnp.concatenate(outputs, axis=-1),
      x0, t, eps, None, schedule=SCHEDULE,
    )  # fmt: skip

  plain = lambda output: losses.denoising_loss(
    lambda x_t, t, cond: output, x0, t, eps, None, schedule=SCHEDULE
  )
  value = loss((eps + wrong, v))
  bound = (value - plain(eps + wrong)) / (losses.BOUND_WEIGHT * 1000)
  assert (bound > 0.0).all()
  mean_grad, v_grad = jax.grad(lambda x: loss(x).sum())((eps + wrong, v))
  want = jax.grad(lambda x: plain(x).sum())(eps + wrong)
  np.testing.assert_allclose(mean_grad, want, rtol=1e-5)
  assert float(jnp.abs(v_grad).max()) > 0.0
