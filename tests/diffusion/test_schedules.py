"""Schedules against their definitions and diffusers' tables."""

import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.diffusion import schedules

GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / 'goldens' / 'diffusers_schedules.npz'
)


@pytest.mark.parametrize('name', schedules.BETA_SCHEDULES)
def test_alphas_cumprod_fall_within_zero_and_one(name):
  table = schedules.make(name).alphas_cumprod
  assert table.shape == (1000,) and table.dtype == np.float64
  assert (np.diff(table) < 0).all()
  assert 0 < table[-1] < table[0] < 1


@pytest.mark.parametrize('name', schedules.BETA_SCHEDULES)
def test_tables_equal_diffusers(name):
  schedule = schedules.make(name, 1000, 1e-4, 0.02)
  # diffusers accumulates in float32.
  np.testing.assert_allclose(
    schedule.alphas_cumprod, GOLDEN[f'alphas_cumprod/{name}'], rtol=2e-4
  )


@pytest.mark.parametrize('name', schedules.BETA_SCHEDULES)
def test_scales_are_a_rotation_to_float32(name):
  schedule = schedules.make(name)
  t = jnp.arange(1000)
  a = np.asarray(schedule.signal_scale(t), np.float64)
  s = np.asarray(schedule.noise_scale(t), np.float64)
  np.testing.assert_allclose(a * a + s * s, 1.0, atol=2e-7)
  # Made in float64: right at small t, where 1 - alphas_cumprod cancels.
  exact = np.sqrt(1.0 - schedule.alphas_cumprod)
  np.testing.assert_allclose(s, exact, rtol=1e-7)
  np.testing.assert_allclose(schedule.snr(t), (a / s) ** 2, rtol=1e-5)


def test_unknown_schedule_names_the_known_ones():
  with pytest.raises(ValueError, match='squaredcos_cap_v2'):
    schedules.make('nope')
