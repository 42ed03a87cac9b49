"""Solvers of higher order: diffusers' runs, exact solutions, orders."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import multistep, processes, samplers, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runtime import prng

with np.load(
  pathlib.Path(__file__).parents[1] / 'goldens' / 'multistep.npz'
) as file:
  GOLDEN = dict(file)

# Stable Diffusion's.
SCHEDULE = schedules.make('scaled_linear', 1000, 0.00085, 0.012)
RUNS = sorted({key.rpartition('/')[0] for key in GOLDEN if '/' in key})


def predict(x, t, cond):
  del cond
  return jnp.tanh(x) * (0.3 + 0.0005 * t[:, None, None, None])


@pytest.mark.parametrize('run', RUNS)
def test_runs_equal_diffusers(run):
  """Euler in sigma is DDIM that ends at abar 1."""
  name, spacing, prediction, number = run.split('/')
  sampler = {'euler': 'ddim'}.get(name, name)
  offset = 1 if spacing == 'leading' else 0
  final_alpha = name in ('dpm_solver', 'euler', 'heun')
  run_steps = samplers._STEPS.get(sampler, steps_lib.make_steps)(
    SCHEDULE, int(number), spacing, offset, final_alpha
  )
  step = getattr(run_steps, 'step', run_steps)
  t = GOLDEN[f'{run}/t']
  if name == 'heun':
    t = t[::2]  # each but the first is listed twice
  np.testing.assert_array_equal(step.t, t)
  x = jnp.asarray(GOLDEN['noise'])
  if name in ('euler', 'heun'):
    x *= multistep.start(SCHEDULE, int(t[0]), spacing)
  eps_fn = processes.make_eps_fn(predict, SCHEDULE, prediction)
  found = samplers.SAMPLERS[sampler](
    eps_fn, x, None, None, run_steps, clip_sample=False
  )
  np.testing.assert_allclose(found, GOLDEN[f'{run}/out'], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('sampler', ['ddim', 'plms', 'dpm_solver', 'heun'])
def test_errors_fall_by_the_order(sampler):
  """On data N(0, 1/4), whose flow takes x / sqrt(variance at t) along.

  From a signal of 0.02 to one of 0.9: of a run's last step nothing is known
  beforehand where all noise goes.
  """
  log_snr = np.linspace(4.0, -8.0, 1000) + np.log(0.9**2 / (1 - 0.9**2)) - 4.0
  schedule = schedules.Schedule(1.0 / (1.0 + np.exp(-log_snr)))
  variance = schedule.alphas_cumprod / 4 + 1.0 - schedule.alphas_cumprod

  def eps_fn(x, t, cond):
    del cond
    scale = schedule.noise_scale(t) / jnp.asarray(variance, jnp.float32)[t]
    return scale[:, None, None, None] * x

  def error(number):
    x = samplers.sample(
      eps_fn, jax.random.key(0), jnp.arange(64), None, schedule=schedule,
      image_shape=(1, 1, 1), sampler=sampler, num_steps=number,
      timestep_spacing='trailing', clip_sample=False, final_alpha=False,
    )  # fmt: skip
    keys = prng.fold_each(jax.random.key(0), jnp.arange(64))
    noise = steps_lib.noise(keys, jnp.asarray(1000), (1, 1, 1))
    want = noise * np.sqrt(variance[0] / variance[-1])
    return float(jnp.abs(x - want).max() / jnp.abs(want).max())

  coarse, fine = error(20), error(40)
  rate = np.log2(coarse / fine)
  assert rate > (0.8 if sampler == 'ddim' else 1.6)
  assert fine < (0.05 if sampler == 'ddim' else 0.005)


def test_evaluations_are_counted():
  for sampler in samplers.SAMPLERS:
    asked = []

    def eps_fn(x, t, cond, asked=asked):
      del cond
      jax.debug.callback(lambda number: asked.append(int(number)), t[0])
      return x

    samplers.sample(
      eps_fn, jax.random.key(0), jnp.arange(1), None, schedule=SCHEDULE,
      image_shape=(1, 1, 1), sampler=sampler, num_steps=6,
    )  # fmt: skip
    jax.effects_barrier()
    assert len(asked) == samplers.evaluations(sampler, 6), sampler


def test_a_schedule_without_signal_at_its_end():
  schedule = schedules.make('scaled_linear', 1000, 0.00085, 0.012, True)
  np.testing.assert_allclose(
    schedule.alphas_cumprod[:-1], GOLDEN['zero_snr'][:-1], rtol=1e-4
  )
  assert GOLDEN['zero_snr'][-1] == 0.0
  assert schedule.alphas_cumprod[-1] == 2.0**-24
  # Of a v-prediction that knows the image, every solver finds it.
  x0 = jnp.asarray([[[[0.3]]]])

  def output(x, t, cond):
    del cond
    a, s = (
      scale(t)[:, None, None, None]
      for scale in (schedule.signal_scale, schedule.noise_scale)
    )
    return a * (x - a * x0) / s - s * x0

  eps_fn = processes.make_eps_fn(output, schedule, 'v_prediction')
  for sampler in samplers.SAMPLERS:
    found = samplers.sample(
      eps_fn, jax.random.key(0), jnp.arange(1), None, schedule=schedule,
      image_shape=(1, 1, 1), sampler=sampler, num_steps=10,
      timestep_spacing='trailing', clip_sample=False,
    )  # fmt: skip
    np.testing.assert_allclose(found, x0, atol=2e-3)


def test_only_the_last_of_a_schedule_is_without_signal():
  """Of a linear one, others come near it."""
  schedule = schedules.make(rescale_betas_zero_snr=True)
  assert (np.diff(schedule.alphas_cumprod) < 0.0).all()
  assert schedule.alphas_cumprod[-1] > 0.0
  weights = multistep.dpm_solver_steps(schedule, 999, 'trailing').weights
  assert np.isfinite(weights).all()


def test_runs_that_a_sampler_does_not_have_are_refused():
  with pytest.raises(ValueError, match='timestep 1000 is none of 1000'):
    steps_lib.make_steps(SCHEDULE, 1000, 'leading', 1)
  with pytest.raises(ValueError, match='not within 2'):
    samplers.run(
      predict, jnp.zeros((1, 1, 1, 1)), None, None, schedule=SCHEDULE,
      sampler='plms', num_steps=1, timestep_spacing='leading',
    )  # fmt: skip
  samplers.check_steps('plms', 2, 10, 'leading')
  samplers.check_steps('dpm_solver', 9, 10, 'leading')
  samplers.check_steps('dpm_solver', 10, 10, 'trailing')
  for sampler, number in (('plms', 1), ('dpm_solver', 10), ('ddim', 11)):
    with pytest.raises(ValueError, match=f'not within .* which {sampler} has'):
      samplers.check_steps(sampler, number, 10, 'linspace')
