"""RePaint against diffusers' scheduler, a naive loop, and the memoriser."""

import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import datasets
from jaxdiff.diffusion import repaint, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runtime import prng
from tests import oracles

SCHEDULE = schedules.make()
ABAR = SCHEDULE.alphas_cumprod
GOLDEN = np.load(
  pathlib.Path(__file__).parents[1] / 'goldens' / 'diffusers_repaint.npz'
)


def linear_eps_fn(x_t, t, cond):
  return 0.5 * jnp.asarray(GOLDEN['slope']) * x_t


@pytest.mark.parametrize(
  'setting', [(250, 10, 10), (25, 5, 3), (7, 2, 4), (6, 3, 1)]
)
def test_the_walk_is_that_of_diffusers(setting):
  steps, jump, repeats = setting
  golden = GOLDEN[f'timesteps/{steps}/{jump}/{repeats}'] // (1000 // steps)
  # diffusers lists each timestep on the way up; only the way down is a step.
  down = golden[np.append(True, golden[1:] < golden[:-1])]
  np.testing.assert_array_equal(repaint.walk(*setting), down)
  ups = (golden[1:] > golden[:-1]).sum()
  walked = repaint.walk(*setting)
  assert ups == (walked[1:] - walked[:-1] + 1).sum()


@pytest.mark.parametrize('eta', [0.0, 1.0])
@pytest.mark.parametrize('t', [980, 500, 20, 0])
def test_a_step_down_equals_diffusers(t, eta):
  steps = steps_lib.make_steps(SCHEDULE, 50, 'leading')
  place = int(np.flatnonzero(np.asarray(steps.t) == t)[0])
  got = repaint.down(
    linear_eps_fn, *(jnp.asarray(GOLDEN[k]) for k in ('x_t', 'x0', 'known')),
    jnp.asarray(GOLDEN[f'noise/{t}']), None,
    jax.tree.map(lambda x: x[place], steps), eta=eta, clip_sample=True,
  )  # fmt: skip
  np.testing.assert_allclose(got, GOLDEN[f'down/{eta}/{t}'], atol=1e-5)


@pytest.mark.parametrize('t', [900, 300, 1])
def test_a_way_up_equals_diffusers(t):
  # Its three steps of noise are one of ours: sum of normals, equation (4).
  alpha = (ABAR[1:] / ABAR[:-1])[t - 1 : t + 2]
  x, share = GOLDEN['x_t'].astype(np.float64), 1.0
  combined = np.zeros_like(x)
  for a, z in zip(alpha[::-1], GOLDEN[f'up_noise/{t}'][::-1], strict=True):
    combined += np.sqrt(share * (1.0 - a)) * z
    share *= a
  ratio = ABAR[t + 2] / ABAR[t - 1]
  assert share == pytest.approx(ratio)
  got = np.sqrt(ratio) * x + combined
  np.testing.assert_allclose(got, GOLDEN[f'up/{t}'], atol=1e-5)
  # The noise of the sum has the deviation that (4) says.
  assert sum(
    (1.0 - a) * np.prod(alpha[i + 1 :]) for i, a in enumerate(alpha)
  ) == pytest.approx(1.0 - ratio)


def test_the_scan_equals_a_naive_loop():
  settings = {'num_steps': 9, 'jump_length': 2, 'jump_n_sample': 3}
  keys = prng.fold_each(jax.random.key(3), jnp.arange(2))
  x0, known = GOLDEN['x0'], GOLDEN['known'][..., :1]
  got = repaint.inpaint(
    linear_eps_fn, keys, jnp.asarray(x0), jnp.asarray(known), None,
    schedule=SCHEDULE, **settings,
  )  # fmt: skip

  walked = repaint.walk(9, 2, 3)

  def draw(number):
    return np.asarray(steps_lib.noise(keys, jnp.asarray(number), x0.shape[1:]))

  def level(j):
    return 1.0 if j < 0 else ABAR[j * 111]

  x, reached = draw(2 * len(walked)), walked[0]
  for number, j in enumerate(walked):
    if reached < j:
      ratio = level(j) / level(reached)
      x = np.sqrt(ratio) * x + np.sqrt(1.0 - ratio) * draw(2 * number + 1)
    a, b, z = level(j), level(j - 1), draw(2 * number)
    eps = np.asarray(linear_eps_fn(x, j * 111, None))
    x0_hat = np.clip((x - np.sqrt(1 - a) * eps) / np.sqrt(a), -1, 1)
    variance = (1 - b) / (1 - a) * (1 - a / b)
    unknown = (
      np.sqrt(b) * x0_hat + np.sqrt(1 - b - variance) * eps
      + np.sqrt(variance) * z
    )  # fmt: skip
    x = np.where(known, np.sqrt(b) * x0 + np.sqrt(1 - b) * z, unknown)
    reached = j - 1
  np.testing.assert_allclose(got, np.clip(x, -1, 1), atol=1e-4)


@pytest.mark.parametrize('eta', [0.0, 1.0])
def test_the_memoriser_gives_members_back_and_no_others(eta):
  members, others = oracles.split(oracles.SIZES['memoriser'])
  images = np.concatenate([members[:24], others[:24]])
  x0 = jnp.asarray(datasets.to_model_range(images))
  known = jnp.broadcast_to(
    (jnp.arange(8) >= 4)[None, None, :, None], (48, 8, 8, 1)
  )
  keys = prng.fold_each(jax.random.key(0), jnp.arange(48))
  inpaint = jax.jit(
    lambda x0: repaint.inpaint(
      oracles.make('memoriser'), keys, x0, known, None, schedule=SCHEDULE,
      num_steps=25, jump_length=5, jump_n_sample=4, eta=eta,
    )
  )  # fmt: skip
  got = inpaint(x0)
  np.testing.assert_array_equal(got[:, :, 4:], x0[:, :, 4:])
  # What is hidden has no say.
  hidden = inpaint(jnp.where(known, x0, 0.7))
  np.testing.assert_array_equal(hidden, got)
  distance = np.sqrt(np.square((got - x0) / 2.0).mean(axis=(1, 2, 3)))
  assert np.median(distance[:24]) < 0.02
  assert (distance[24:] > 0.05).mean() > 0.9
