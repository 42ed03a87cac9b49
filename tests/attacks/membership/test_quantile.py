"""Quantile regression and the gradient classifier: signal, null, leakage."""

import numpy as np
from scipy import optimize
from sklearn import ensemble, model_selection

from jaxdiff.attacks.membership import gsa, image_features
from jaxdiff.attacks.membership import quantile as quantile_lib
from jaxdiff.data import datasets, splits
from jaxdiff.metrics import roc

COUNT = 240
IMAGES = datasets.digits().images[:COUNT]
GROUP = np.arange(COUNT)
KEEP = splits.keep_matrix(0, range(4), GROUP)
ONE = KEEP[:1]
LEFT_OUT = splits.left_out_together(4)


def auc(scores, keep=KEEP):
  return roc.statistics(roc.rank(scores, keep), fprs=())['auc']


def quantile(signals):
  """Of one model: each takes ten regressions."""
  scores = quantile_lib.quantile(signals, ONE, None, images=IMAGES, group=GROUP)
  return scores[..., 0]


def test_what_an_image_costs_by_itself_is_regressed_away():
  # The loss follows the image's ink far more than its membership.
  rng = np.random.default_rng(0)
  ink = IMAGES.mean(axis=(1, 2, 3))
  signals = (ink / ink.std())[None] - 0.8 * ONE
  signals = (signals + 0.3 * rng.normal(size=ONE.shape))[..., None]
  plain = auc(-signals[..., 0], ONE)
  assert auc(quantile(signals), ONE) > plain + 0.08


def test_no_member_teaches_the_regression():
  rng = np.random.default_rng(1)
  signals = rng.normal(size=(*ONE.shape, 1))
  before = quantile(signals)
  changed = np.where(ONE[..., None], signals - 50.0, signals)
  after = quantile(changed)
  np.testing.assert_array_equal(before[~ONE], after[~ONE])
  assert (after[ONE] > before[ONE]).all()
  assert abs(auc(before, ONE) - 0.5) < 0.1


def test_gradient_norms_are_learned_from_other_models():
  rng = np.random.default_rng(2)
  # Members have smaller gradients in one of five layers.
  norms = np.exp(rng.normal(size=(*KEEP.shape, 5)) - 2.0 * KEEP[..., None])
  norms[..., 1:] = np.exp(rng.normal(size=(*KEEP.shape, 4)))
  scores = gsa.gradient_classifier(norms, KEEP, LEFT_OUT)
  assert scores.shape == (*KEEP.shape, 1)
  assert auc(scores[..., 0]) > 0.85
  # Who is a member of the target's own pair plays no part in its scores.
  other = KEEP.copy()
  other[:2] = ~other[:2]
  again = gsa.gradient_classifier(norms, other, LEFT_OUT)
  np.testing.assert_array_equal(again[:2], scores[:2])
  assert (again[2:] != scores[2:]).all()
  noise = np.exp(rng.normal(size=norms.shape))
  null = gsa.gradient_classifier(noise, KEEP, LEFT_OUT)
  assert abs(auc(null[..., 0]) - 0.5) < 0.06


def test_features_are_of_the_image_alone():
  x = image_features.describe(IMAGES)
  assert x.shape[0] == COUNT and np.isfinite(x).all()
  np.testing.assert_allclose(
    x[:, 0], IMAGES.mean(axis=(1, 2, 3)) / 255.0, rtol=1e-5
  )


def test_quantile_scores_equal_a_loop_over_images():
  rng = np.random.default_rng(3)
  signals = (
    rng.normal(size=(2, COUNT, 1)) + IMAGES.mean((1, 2, 3))[None, :, None]
  )
  group = GROUP // 2
  got = quantile_lib.quantile(
    signals, KEEP[:2], None, images=IMAGES, group=group
  )
  x = image_features.describe(IMAGES)
  folds = model_selection.GroupKFold(5).split(x, groups=group)
  for _, test in folds:
    for model in range(2):
      known = [i for i in range(COUNT) if i not in test and not KEEP[model, i]]
      quartiles = {}
      for level in (0.5, 0.25):
        trees = ensemble.HistGradientBoostingRegressor(
          loss='quantile', quantile=level, max_iter=40, max_leaf_nodes=8,
          min_samples_leaf=10, early_stopping=False, random_state=0,
        )  # fmt: skip
        trees.fit(x[known], signals[model, known, 0])
        quartiles[level] = trees.predict(x)
      for i in test[:5]:
        width = max(
          quartiles[0.5][i] - quartiles[0.25][i],
          0.1 * np.std([signals[model, j, 0] for j in known]),
        )
        want = (quartiles[0.5][i] - signals[model, i, 0]) / width
        np.testing.assert_allclose(got[model, i, 0], want, rtol=1e-5)


def test_the_gradient_classifier_equals_a_minimum_found_by_scipy():
  rng = np.random.default_rng(4)
  norms = np.exp(rng.normal(size=(*KEEP.shape, 6)) - 0.5 * KEEP[..., None])
  got = gsa.gradient_classifier(norms, KEEP, LEFT_OUT)[..., 0]
  x = np.log(norms)
  for first, others in ((0, [2, 3]), (2, [0, 1])):
    rows = x[others].reshape(-1, 6)
    z = (rows - rows.mean(axis=0)) / rows.std(axis=0)
    sign = np.where(KEEP[others].ravel(), 1.0, -1.0)

    def objective(w, z=z, sign=sign):
      margin = sign * (z @ w[:-1] + w[-1])
      return 0.1 * np.logaddexp(0.0, -margin).sum() + 0.5 * w[:-1] @ w[:-1]

    w = optimize.minimize(objective, np.zeros(7), options={'gtol': 1e-7}).x
    for model in (first, first + 1):
      own = (x[model] - rows.mean(axis=0)) / rows.std(axis=0)
      np.testing.assert_allclose(
        got[model], own @ w[:-1] + w[-1], rtol=1e-5, atol=1e-5
      )
