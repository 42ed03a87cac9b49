"""Dataset inference finds members with enough of them, and nothing in noise."""

import numpy as np
import pandas as pd
from scipy import optimize, stats

from jaxdiff.attacks.membership import dataset_inference
from jaxdiff.attacks.membership.signals import base, gsa, loss
from jaxdiff.data import splits

COUNT = 600
GROUP = np.arange(COUNT)
KEEP = splits.keep_matrix(0, range(6), GROUP)
C = base.Settings((50, 100), draws=2, flip=True)
QUERIES = loss.queries(C)


def table(effect):
  rng = np.random.default_rng(0)
  signals = rng.normal(size=(6, COUNT, len(QUERIES)))
  # Every column the same way: four draws of two timesteps.
  signals -= effect * KEEP[..., None]
  return dataset_inference.table(signals, QUERIES, KEEP, GROUP, seed=0)


def test_more_images_make_a_weak_signal_sure():
  found = table(0.25)
  members = found[found['suspects'] == 'members']
  share = members.groupby('num_images')['share_below_level'].mean()
  assert share.is_monotonic_increasing
  assert share.iloc[0] < 0.3 and share.iloc[-1] > 0.9


def test_noise_is_told_at_the_level_of_the_test():
  for found in (table(0.0), table(0.25).query('suspects == "never"')):
    assert found['share_below_level'].mean() < 0.04


def test_features_average_draws_and_keep_layers():
  layers = {'a': np.zeros(1), 'b': np.zeros(1)}
  norms = gsa.queries(C, layers)
  queries = pd.concat([QUERIES, norms], ignore_index=True)
  signals = np.arange(10.0)[None, None] + np.ones((2, 3, 1))
  x = dataset_inference.features(signals, queries)
  want = [2.5, 6.5, np.log(9.0), np.log(10.0)]
  np.testing.assert_allclose(x[0, 0], want, rtol=1e-6)


def test_p_values_equal_welchs_by_hand():
  rng = np.random.default_rng(1)
  suspect = np.arange(120) % 2 == 0
  x = rng.normal(size=(120, 3)) + 0.3 * suspect[:, None]
  train = np.arange(120) < 60
  got = dataset_inference.p_values(x, suspect, train, np.random.default_rng(2))
  assert list(got) == [4, 8, 16]

  z = (x - x[train].mean(axis=0)) / x[train].std(axis=0)
  sign = np.where(suspect[train], 1.0, -1.0)

  def objective(w):
    margin = sign * (z[train] @ w[:-1] + w[-1])
    return 0.1 * np.logaddexp(0.0, -margin).sum() + 0.5 * w[:-1] @ w[:-1]

  w = optimize.minimize(objective, np.zeros(4), options={'gtol': 1e-8}).x
  scores = z @ w[:-1] + w[-1]
  sides = scores[~train & suspect], scores[~train & ~suspect]
  rng = np.random.default_rng(2)
  for number, values in got.items():
    parts = [
      np.array([rng.permutation(side)[:number] for _ in values])
      for side in sides
    ]
    for a, b, value in zip(*parts, values, strict=True):
      va, vb = a.var(ddof=1) / number, b.var(ddof=1) / number
      t = (a.mean() - b.mean()) / np.sqrt(va + vb)
      freedom = (va + vb) ** 2 / ((va**2 + vb**2) / (number - 1))
      np.testing.assert_allclose(value, stats.t.sf(t, freedom), rtol=1e-5)
