"""Samplers against diffusers, a naive loop and the exact memoriser."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import samplers, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runtime import prng
from tests import oracles

SCHEDULE = schedules.make()
GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / 'goldens' / 'diffusers_samplers.npz'
)


def linear_eps_fn(x_t, t, cond):
  return 0.5 * jnp.asarray(GOLDEN['slope'])[None] * x_t


@pytest.mark.parametrize('spacing', steps_lib.TIMESTEP_SPACINGS)
@pytest.mark.parametrize('steps', [7, 50])
def test_timesteps_equal_diffusers(spacing, steps):
  np.testing.assert_array_equal(
    steps_lib.spaced_timesteps(1000, steps, spacing),
    GOLDEN[f'timesteps/{spacing}/{steps}'],
  )


@pytest.mark.parametrize('clip', [True, False])
def test_a_ddim_run_equals_diffusers(clip):
  steps = steps_lib.make_steps(SCHEDULE, 50, 'leading')
  keys = jax.random.split(jax.random.key(0), 2)
  got = samplers.ddim(
    linear_eps_fn, jnp.asarray(GOLDEN['x_t']), keys, None, steps,
    clip_sample=clip,
  )  # fmt: skip
  # Unclipped, this predictor explodes to thousands: hence the relative part.
  np.testing.assert_allclose(
    got, GOLDEN[f'ddim/clip_{clip}'], rtol=1e-5, atol=1e-5
  )


@pytest.mark.parametrize('t', [980, 500, 20, 0])
@pytest.mark.parametrize('seed', [0, 1])
def test_a_learned_variance_step_equals_diffusers(t, seed, monkeypatch):
  noise = jnp.asarray(GOLDEN[f'learned/{t}/{seed}/noise'])
  monkeypatch.setattr(steps_lib, 'noise', lambda *_: noise)
  steps = steps_lib.make_steps(SCHEDULE, 50, 'leading')
  place = int(np.flatnonzero(np.asarray(steps.t) == t)[0])

  def eps_and_v(x_t, t, cond):
    v = jnp.asarray(GOLDEN['v'])
    return jnp.concatenate([linear_eps_fn(x_t, t, cond), v], axis=-1)

  got = samplers.ddpm(
    eps_and_v, jnp.asarray(GOLDEN['x_t']), None, None,
    jax.tree.map(lambda x: x[place : place + 1], steps),
    clip_sample=True, variance='learned_range',
  )  # fmt: skip
  np.testing.assert_allclose(got, GOLDEN[f'learned/{t}/{seed}/step'], atol=1e-5)


@pytest.mark.parametrize('variance', ['small', 'large'])
@pytest.mark.parametrize('t', [980, 500, 20, 0])
def test_a_ddpm_step_equals_diffusers(variance, t):
  steps = steps_lib.make_steps(SCHEDULE, 50, 'leading')
  place = int(np.flatnonzero(np.asarray(steps.t) == t)[0])
  one = jax.tree.map(lambda x: x[place : place + 1], steps)
  keys = jax.random.split(jax.random.key(0), 2)
  got = samplers.ddpm(
    linear_eps_fn, jnp.asarray(GOLDEN['x_t']), keys, None, one,
    clip_sample=True, variance=variance,
  )  # fmt: skip
  noise = steps_lib.noise(keys, jnp.asarray(t), GOLDEN['x_t'].shape[1:])
  mean = got - GOLDEN[f'ddpm/{variance}/{t}/deviation'] * noise
  np.testing.assert_allclose(
    mean, GOLDEN[f'ddpm/{variance}/{t}/mean'], atol=1e-5
  )


@pytest.mark.parametrize('sampler', samplers.SAMPLERS)
def test_an_image_depends_on_its_index_alone(sampler):
  def draw(indices):
    return samplers.sample(
      linear_eps_fn, jax.random.key(5), jnp.asarray(indices), None,
      schedule=SCHEDULE, image_shape=(4, 4, 1), sampler=sampler, num_steps=5,
      eta=0.5,
    )  # fmt: skip

  together = draw([0, 1, 2, 3, 4])
  apart = draw([3, 1])
  np.testing.assert_allclose(together[3], apart[0], atol=1e-6)
  np.testing.assert_allclose(together[1], apart[1], atol=1e-6)
  assert float(jnp.abs(together[0] - together[1]).max()) > 1e-3


def test_ddim_with_eta_1_is_ddpm_with_small_variance():
  common = {
    'schedule': SCHEDULE, 'image_shape': (4, 4, 1), 'num_steps': 20,
    'clip_sample': False,
  }  # fmt: skip
  indices = jnp.arange(4)
  key = jax.random.key(2)
  one = samplers.sample(
    linear_eps_fn, key, indices, None, sampler='ddim', eta=1.0, **common
  )
  two = samplers.sample(
    linear_eps_fn, key, indices, None, sampler='ddpm', variance='small',
    **common,
  )  # fmt: skip
  np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('sampler', samplers.SAMPLERS)
def test_a_gaussian_comes_out_of_its_exact_predictor(sampler):
  # One pixel, x0 ~ N(0.3, 0.2^2): eps_hat is linear, the answer is known.
  mean, var = 0.3, 0.04

  def eps_fn(x_t, t, cond):
    a = SCHEDULE.signal_scale(t)[:, None, None, None]
    s = SCHEDULE.noise_scale(t)[:, None, None, None]
    return s * (x_t - a * mean) / (a * a * var + s * s)

  x0 = samplers.sample(
    eps_fn, jax.random.key(0), jnp.arange(4000), None, schedule=SCHEDULE,
    image_shape=(1, 1, 1), sampler=sampler, num_steps=250, clip_sample=False,
    variance='large',
  )  # fmt: skip
  assert abs(float(x0.mean()) - mean) < 4 * np.sqrt(var / 4000) + 2e-3
  # Two hundred and fifty steps leave a little discretisation error.
  assert abs(float(x0.std()) - np.sqrt(var)) < 0.012


def test_memoriser_gives_back_its_images():
  members, _ = oracles.split(20)
  x = members.astype(np.float32) / 127.5 - 1.0
  x0 = samplers.sample(
    oracles.memoriser(x), jax.random.key(0), jnp.arange(64), None,
    schedule=SCHEDULE, image_shape=(8, 8, 1), num_steps=50,
  )  # fmt: skip
  rmse = np.sqrt(
    ((np.asarray(x0)[:, None] - x[None]) ** 2).mean(axis=(2, 3, 4))
  )
  assert rmse.min(axis=1).max() < 1e-2
  assert len(np.unique(rmse.argmin(axis=1))) > 12


@pytest.mark.parametrize(
  'bad', [{'num_steps': 0}, {'num_steps': 1001}, {'spacing': 'nope'}]
)
def test_senseless_runs_are_refused(bad):
  with pytest.raises(ValueError, match='^(num_steps|timestep_spacing): '):
    steps_lib.spaced_timesteps(1000, **{'num_steps': 10, **bad})


def test_noise_of_two_steps_differs():
  keys = jax.random.split(jax.random.key(0), 1)
  one = steps_lib.noise(keys, jnp.asarray(3), (4,))
  two = steps_lib.noise(keys, jnp.asarray(4), (4,))
  assert float(jnp.abs(one - two).min()) > 0
  assert prng.normal_each(keys, (4,)).shape == (1, 4)
