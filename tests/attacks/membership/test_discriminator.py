"""What a discriminator says of images: naive twins, null, and offsets."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import registry, signals
from jaxdiff.attacks.membership.signals import base
from jaxdiff.metrics import roc
from jaxdiff.runtime import prng

SETTINGS = base.Settings(fakes=7, seed=3)
X0 = np.random.default_rng(0).normal(size=(6, 2, 2, 1)).astype(np.float32)
LABELS = np.array([0, 1, 2, 2, 1, 0], np.int32)


def generate(params, z, labels):
  shift = 0.0 if labels is None else labels[:, None]
  return (params * z + shift).reshape(-1, 2, 2, 1)


def discriminate(params, x, labels):
  offset = 5.0 if labels is None else 10.0 * labels
  return params * jnp.square(x).sum(axis=(1, 2, 3)) + offset


def measured(name, cond, num_classes):
  adversary = base.Adversary(generate, discriminate, 4, num_classes)
  signal = signals.SIGNALS[name]
  assert signal.of == base.DISCRIMINATOR
  table = signal.queries(SETTINGS, None)
  assert table['cost'].tolist() == [1] and table['t'].tolist() == [0]
  return signal.make(adversary, None, SETTINGS)(0.5, X0, cond, None)[:, 0]


def test_the_plain_signal_is_the_discriminator():
  want = -(0.5 * np.square(X0).sum(axis=(1, 2, 3)) + 10.0 * LABELS)
  np.testing.assert_allclose(measured('discriminator', LABELS, 3), want)


def test_the_relativistic_signal_is_its_naive_twin():
  root = jax.random.fold_in(jax.random.key(3), prng.PURPOSES.index('fakes'))
  for cond, classes in ((LABELS, 3), (None, 0)):
    want = []
    for n, x in enumerate(X0):
      label = 0 if cond is None else int(cond[n])
      key = jax.random.fold_in(root, label)
      scores = []
      for k in range(SETTINGS.fakes):
        z = np.asarray(jax.random.normal(jax.random.fold_in(key, k), (4,)))
        scores.append(0.5 * np.square(0.5 * z + label).sum())
      want.append(np.mean(scores) - 0.5 * np.square(x).sum())
    got = measured('relativistic', cond, classes)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_it_takes_away_what_the_loss_leaves_open():
  """A constant of the model or of a label moves the plain signal alone."""
  adversary = base.Adversary(generate, discriminate, 4, 3)
  moved = base.Adversary(
    generate, lambda p, x, y: discriminate(p, x, y) + 3.0 * y - 100.0, 4, 3
  )
  for name, same in (('discriminator', False), ('relativistic', True)):
    make = signals.SIGNALS[name].make
    one, two = (
      make(nets, None, SETTINGS)(0.5, X0, LABELS, None)
      for nets in (adversary, moved)
    )
    assert np.allclose(one, two, atol=1e-3) == same


def test_attacks_on_discriminators_and_their_null():
  """Members and others alike: an AUC of 0.5, for each attack."""
  of = [signals.SIGNALS[name] for name in signals.OF_DISCRIMINATOR]
  queries = pd.concat(
    [signal.queries(SETTINGS, None) for signal in of], ignore_index=True
  )
  chosen = registry.attacks(queries, X0, np.arange(6))
  assert [attack.name for attack in chosen] == [
    name + after
    for name in ('discriminator', 'relativistic')
    for after in ('', '_lira', '_rmia')
  ]
  rng = np.random.default_rng(1)
  count, left_out = 400, np.arange(8) // 2
  half = np.stack([rng.permutation(count) < count // 2 for _ in range(4)])
  keep = np.stack([half, ~half], axis=1).reshape(8, count)
  noise = rng.normal(size=(8, count, 2)).astype(np.float32)
  known = noise - 2.0 * keep[..., None]
  for attack in chosen:
    aucs = []
    for values in (noise, known):
      read, _ = attack.read(values, queries, 0)
      scores = attack.grid(read, keep, left_out)[..., 0]
      ranking = roc.rank(scores.ravel(), keep.ravel())
      aucs.append(roc.statistics(ranking)['auc'])
    assert abs(aucs[0] - 0.5) < 0.03 and aucs[1] > 0.88, (attack.name, aucs)
