"""Screens: by their naive twins, and on oracles whose memory is known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage
from sklearn import metrics

from jaxdiff.attacks.prompts import evaluate, screens
from jaxdiff.data import datasets
from jaxdiff.diffusion import schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.metrics import tiled_distance
from jaxdiff.runtime import prng
from tests.attacks.prompts import oracles

pytestmark = pytest.mark.slow

T = screens.timesteps(oracles.SCHEDULE, 'leading', 1)
SEEDS, STEPS = 4, 10


def single(eps_fn, prompts, noise, scale=7.5):
  null = {'tokens': jnp.zeros(oracles.WORDS)}
  return np.asarray(
    jax.jit(
      functools.partial(
        screens.single_calls, eps_fn, schedule=oracles.SCHEDULE, t=T,
        guidance_scale=scale,
      )
    )(noise, {'tokens': prompts}, null)
  )  # fmt: skip


def noise_of(count, seed=0):
  keys = prng.fold_each(jax.random.key(seed), jnp.arange(count))
  return prng.normal_each(keys, oracles.SHAPE)


def runs(eps_fn, prompts, seeds=SEEDS, scale=3.0):
  """Images uint8 [P, S, H, W, C], and the trajectories' norms [P, S]."""
  rows = jnp.repeat(prompts, seeds, axis=0)
  x0, norms = jax.jit(
    functools.partial(
      screens.guided_run, eps_fn, guidance_scale=scale, clip_sample=False,
      steps=steps_lib.make_steps(oracles.SCHEDULE, STEPS, 'leading'),
    )
  )(
    noise_of(len(rows), 5), {'tokens': rows},
    {'tokens': jnp.zeros(oracles.WORDS)},
  )  # fmt: skip
  shape = (len(prompts), seeds)
  images = datasets.to_uint8(np.asarray(x0)).reshape(*shape, *oracles.SHAPE)
  return images, np.asarray(norms).reshape(shape)


def scores_of(eps_fn, prompts, draws=1):
  found = single(eps_fn, prompts, noise_of(draws))
  out = dict(zip(screens.SINGLE, found.T, strict=True))
  images, norms = runs(eps_fn, prompts)
  out['wen_trajectory'] = norms.mean(axis=1)
  out['agreement'] = np.array([screens.agreement(x, 4) for x in images])
  return out


def test_single_calls_equal_their_definitions_one_by_one():
  _, prompts = oracles.brought()
  eps_fn = oracles.generaliser()
  noise, some = noise_of(2), prompts[8:16]
  found = single(eps_fn, some, noise)
  schedule, w, size = oracles.SCHEDULE, 7.5, 64
  abar = schedule.alphas_cumprod[999]
  ratio = np.sqrt((1 - abar) / abar)
  for place, prompt in enumerate(some):
    want = np.zeros(4)
    for draw in noise:

      def at(t, cond, draw=draw):
        time = jnp.array([t])
        eps = eps_fn(draw[None], time, {'tokens': cond[None]})
        return np.asarray(eps[0], np.float64).ravel()

      zero = jnp.zeros(oracles.WORDS)
      top, none = at(999, prompt), at(999, zero)
      first = at(T[1], prompt) - at(T[1], zero)
      late, free = at(T[2], prompt) - at(T[2], zero), at(T[2], zero)
      cosine = late @ free / np.linalg.norm(late) / np.linalg.norm(free)
      want += [
        ratio * np.sqrt(np.mean((top - none) ** 2)),
        ratio**2 * np.sum((none + w * (top - none)) ** 2) / size,
        np.linalg.norm(first),
        cosine,
      ]
    np.testing.assert_allclose(found[place], want / 2, rtol=2e-3, atol=1e-6)


def test_timesteps_are_those_of_the_papers():
  # Stable Diffusion: 50 leading steps with offset 1 begin at 981.
  assert screens.timesteps(schedules.make(), 'leading', 1) == (999, 981, 41)
  assert screens.timesteps(schedules.make(), 'trailing', 0)[1] == 999
  short = schedules.make('linear', 20, 1e-3, 0.2)
  assert screens.timesteps(short, 'leading', 1) == (19, 19, 3)


def test_a_batch_and_its_order_change_no_score():
  images, prompts = oracles.brought()
  eps_fn = oracles.memoriser(images, prompts)
  noise = noise_of(3)
  every = single(eps_fn, prompts, noise)
  some = single(eps_fn, prompts[::-1][:7], noise)
  np.testing.assert_allclose(some, every[::-1][:7], rtol=1e-3, atol=1e-5)


def test_a_guided_run_is_ddim_and_its_norm_the_mean_of_its_steps():
  _, prompts = oracles.brought()
  eps_fn = oracles.generaliser()
  schedule, w = oracles.SCHEDULE, 3.0
  t = np.arange(STEPS)[::-1] * 100
  x = np.asarray(noise_of(4, 5), np.float64)
  rows = np.repeat(np.asarray(prompts[:1]), 4, axis=0)
  norms = []
  for place, time in enumerate(t):
    told, zero = (
      np.asarray(
        eps_fn(
          jnp.asarray(x, jnp.float32), jnp.full(4, time),
          {'tokens': jnp.asarray(cond, jnp.float32)},
        ), np.float64,
      )
      for cond in (rows, 0.0 * rows)
    )  # fmt: skip
    norms.append(np.sqrt(np.square(told - zero).sum((1, 2, 3))))
    eps = zero + w * (told - zero)
    abar = schedule.alphas_cumprod[time]
    after = schedule.alphas_cumprod[t[place + 1]] if place + 1 < STEPS else 1.0
    x0 = (x - np.sqrt(1 - abar) * eps) / np.sqrt(abar)
    x = np.sqrt(after) * x0 + np.sqrt(1 - after) * eps
  images, found = runs(eps_fn, prompts[:1])
  want = datasets.to_uint8(x).astype(int)
  assert np.abs(images[0].astype(int) - want).max() <= 1
  np.testing.assert_allclose(found[0], np.mean(norms, axis=0), rtol=1e-4)


@pytest.mark.parametrize(
  ('count', 'most'), [(2, 2), (3, 3), (4, 3), (6, 4), (7, 5)]
)
def test_agreement_and_edges_equal_their_naive_twins(count, most):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)
  images[1] = np.clip(images[0].astype(int) + 3, 0, 255)
  nearest = []
  for a in range(count):
    nearest.append(
      min(
        max(
          np.sqrt(
            np.mean(
              (
                images[a, i : i + 4, j : j + 4] / 255.0
                - images[b, i : i + 4, j : j + 4] / 255.0
              )
              ** 2
            )
          )
          for i in range(0, 16, 4)
          for j in range(0, 16, 4)
        )
        for b in range(count)
        if b != a
      )
    )
  wanted = -np.mean(sorted(nearest)[:most])
  assert screens.agreement(images, 4) == pytest.approx(wanted)
  assert tiled_distance.tile_distances(images, 4)[0, 1] < 0.02
  votes = 0
  for x in images / 255.0:
    gradient = [ndimage.sobel(x, axis=axis) for axis in (0, 1)]
    votes = votes + (np.hypot(*gradient).sum(axis=2) > 1.5)
  want = (votes > count / 2).mean()
  assert screens.edges(images) == pytest.approx(want, abs=1e-6)
  flat = np.full((4, 16, 16, 3), 90, np.uint8)
  assert screens.edges(flat) == 0.0
  # An edge of one seed is not the others', whichever seed it is.
  for seed in range(4):
    one = flat.copy()
    one[seed, :, 8:] = 250
    assert screens.edges(one) == 0.0
  flat[:3, :, 8:] = 250
  assert screens.edges(flat) == pytest.approx(2 / 16)


def test_copies_among_other_images_agree():
  """However far from each other the others are."""
  rng = np.random.default_rng(1)
  others = rng.integers(0, 256, (6, 16, 16, 3), dtype=np.uint8)
  known = others.copy()
  known[:4] = known[5]
  assert screens.agreement(known, 4) == 0.0 > screens.agreement(others, 4)


def test_a_memoriser_is_found_by_every_screen():
  images, prompts = oracles.brought()
  found = scores_of(oracles.memoriser(images, prompts), prompts)
  known = np.arange(oracles.COUNT) < oracles.KNOWN
  for name in ('x0', 'wen_first', 'wen_trajectory', 'agreement'):
    assert metrics.roc_auc_score(known, found[name]) > 0.99, name
  # By heart is as near as rounding to bytes.
  assert found['agreement'][known].min() > -0.02
  assert found['agreement'][~known].max() < -0.1


def test_false_alarms_keep_their_rate_on_a_generaliser():
  """Prompts that differ in nothing but chance, half of them held out."""
  eps_fn, level, wrong = oracles.generaliser(), 0.1, {}
  repeats, count = 200, 40
  rng = np.random.default_rng(3)
  every = jnp.asarray(
    rng.standard_normal((repeats * count, oracles.WORDS)), jnp.float32
  )
  found = single(eps_fn, every, noise_of(1))
  scores = dict(zip(screens.SINGLE, found.T, strict=True))
  images, norms = runs(eps_fn, every, 3)
  scores['wen_trajectory'] = norms.mean(axis=1)
  scores['agreement'] = np.array([screens.agreement(x, 4) for x in images])
  for name, of_screen in scores.items():
    for repeat in of_screen.reshape(repeats, count):
      alarms = evaluate.p_values(repeat[20:], repeat[:20]) <= level
      wrong.setdefault(name, []).append(alarms.mean())
  for name, rates in wrong.items():
    # Of 20 held out, 2 of 21 ranks are within a tenth.
    spread = 3.0 * np.std(rates) / np.sqrt(repeats)
    assert np.mean(rates) == pytest.approx(2 / 21, abs=spread), name
    assert np.mean(rates) - spread <= level
