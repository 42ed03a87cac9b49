"""CLiD: by its naive twin, and on oracles that are told captions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics

from jaxdiff.attacks.membership import registry
from jaxdiff.attacks.membership.signals import SIGNALS, base, clid
from jaxdiff.data import datasets
from jaxdiff.runtime import prng
from tests import oracles

pytestmark = pytest.mark.slow

C = base.Settings((100,))
ABAR = oracles.SCHEDULE.alphas_cumprod
COUNT = 60
# Numbers that an image's caption is: its class, and words of its own.
CLASSES, WORDS = 10, 16


def brought():
  """Images in [-1, 1], half of them members, and their captions."""
  digits = datasets.digits()
  order = np.random.default_rng(0).permutation(len(digits))[: 2 * COUNT]
  own = np.random.default_rng(1).standard_normal((2 * COUNT, WORDS))
  captions = np.concatenate(
    [np.eye(CLASSES)[digits.labels[order]], own], axis=1
  ).astype(np.float32)
  return datasets.to_model_range(digits.images[order]), captions


def conditions(captions):
  """With shortened ones: a third of the numbers each, and none."""
  parts = [np.zeros_like(captions) for _ in range(clid.NUM_REDUCED)]
  for place in range(3):
    parts[place][:, place::3] = captions[:, place::3]
  return {
    'tokens': jnp.asarray(captions),
    'reduced': {'tokens': jnp.asarray(np.stack(parts, axis=1))},
  }


def memoriser(images, captions):
  """Posterior mean over training images, those of like captions first."""
  flat = jnp.asarray(images).reshape(len(images), -1)
  known = jnp.asarray(captions)

  def eps_fn(x_t, t, cond):
    x = x_t.reshape(len(x_t), -1)
    a = oracles.SCHEDULE.signal_scale(t)[:, None]
    s = oracles.SCHEDULE.noise_scale(t)[:, None]
    far = jnp.square(x[:, None] - a[..., None] * flat[None]).sum(-1)
    told = jnp.square(cond['tokens'][:, None] - known[None]).sum(-1)
    weights = jax.nn.softmax(-far / (2 * s * s) - told, axis=1)
    return ((x - a * (weights @ flat)) / s).reshape(x_t.shape)

  return eps_fn


def generaliser():
  """The Gaussian of each class, with the spread of all digits."""
  digits = datasets.digits()
  flat = datasets.to_model_range(digits.images).reshape(len(digits), -1)
  means = np.stack([
    flat[digits.labels == k].mean(axis=0) for k in range(CLASSES)
  ])  # fmt: skip
  spread = np.cov((flat - means[digits.labels]).T) + 1e-3 * np.eye(64)
  values, vectors = np.linalg.eigh(spread)
  middle = flat.mean(axis=0)
  values, vectors, means = (
    jnp.asarray(x, jnp.float32) for x in (values, vectors, means - middle)
  )

  def eps_fn(x_t, t, cond):
    x = x_t.reshape(len(x_t), -1)
    a = oracles.SCHEDULE.signal_scale(t)[:, None]
    s = oracles.SCHEDULE.noise_scale(t)[:, None]
    mean = jnp.asarray(middle)[None] + cond['tokens'][:, :CLASSES] @ means
    turned = (x - a * mean) @ vectors
    shrunk = turned * s / (a * a * values[None] + s * s)
    return (shrunk @ vectors.T).reshape(x_t.shape)

  return eps_fn


def measured(eps_fn):
  images, captions = brought()
  keys = prng.fold_each(prng.root(0, 'attack'), jnp.arange(len(images)))
  measure = SIGNALS['clid'].make(lambda params: eps_fn, oracles.SCHEDULE, C)
  found = jax.jit(measure)(None, images, conditions(captions), keys)
  return np.asarray(found), images, captions


def test_it_is_its_naive_twin():
  images, captions = brought()
  eps_fn = memoriser(images[:COUNT], captions[:COUNT])
  found, _, _ = measured(eps_fn)
  root = prng.root(0, 'attack')
  cond = conditions(captions)
  every = [cond['tokens']]
  every += [cond['reduced']['tokens'][:, k] for k in range(4)]
  for n in (0, 7, 100):
    losses = []
    for tokens in every:
      of_t = []
      for t in (440, 450, 460):
        key = jax.random.fold_in(root, n)
        key = jax.random.fold_in(jax.random.fold_in(key, t), 3000)
        eps = np.asarray(jax.random.normal(key, images[n].shape))
        x_t = np.sqrt(ABAR[t]) * images[n] + np.sqrt(1 - ABAR[t]) * eps
        eps_hat = eps_fn(
          jnp.asarray(x_t, jnp.float32)[None], jnp.array([t]),
          {'tokens': tokens[n][None]},
        )[0]  # fmt: skip
        of_t.append(((np.asarray(eps_hat) - eps) ** 2).mean())
      losses.append(np.mean(of_t))
    want = losses[0], losses[0] - np.mean(losses[1:])
    np.testing.assert_allclose(found[n], want, rtol=1e-4, atol=1e-5)


def test_a_memoriser_of_captions_is_found_and_a_generaliser_is_not():
  images, captions = brought()
  keep = (np.arange(2 * COUNT) < COUNT)[None]
  attacks = {
    attack.name: attack
    for attack in registry.attacks(
      clid.queries(C), np.zeros((2 * COUNT, 8, 8, 1), np.uint8),
      np.arange(2 * COUNT),
    )
    if attack.signal == 'clid'
  }  # fmt: skip
  assert set(attacks) == {'clid', 'clid_lira'}

  def auc(eps_fn):
    signals = measured(eps_fn)[0][None]
    read, timesteps = attacks['clid'].read(signals, clid.queries(C), 100)
    assert timesteps.tolist() == [450]
    scores = attacks['clid'].grid(read, keep, np.zeros(1, int))[0, :, 0]
    return [
      metrics.roc_auc_score(keep[0], found)
      for found in (scores, -signals[0, :, 1])
    ]

  both = auc(memoriser(images[:COUNT], captions[:COUNT]))
  assert min(both) > 0.95
  # 60 against 60: a standard deviation of 0.053.
  for value in auc(generaliser()):
    assert abs(value - 0.5) < 3 * 0.053


def test_columns_cost_and_captions():
  table = clid.queries(C)
  assert table['cost'].tolist() == [3, 12] and (table['t'] == 450).all()
  assert clid.reduced('abcdefg') == ['ab', 'cd', 'efg', '']
  assert clid.reduced('') == [''] * 4
  rng = np.random.default_rng(0)
  signals = rng.standard_normal((2, 50, 2)).astype(np.float32)
  score = clid.score(signals, None, None)
  low, middle, high = np.quantile(signals[1], (0.25, 0.5, 0.75), axis=0)
  want = -((signals[1] - middle) / (high - low)).sum(axis=1)
  np.testing.assert_allclose(score[1, :, 0], want, rtol=1e-5)
