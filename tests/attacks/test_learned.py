"""Quantile regression and the gradient classifier: signal, null, leakage."""

import numpy as np

from jaxdiff.attacks import features, learned
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
  scores = learned.quantile(signals, ONE, None, images=IMAGES, group=GROUP)
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
  scores = learned.gradient_classifier(norms, KEEP, LEFT_OUT)
  assert scores.shape == (*KEEP.shape, 1)
  assert auc(scores[..., 0]) > 0.85
  # Who is a member of the target's own pair plays no part in its scores.
  other = KEEP.copy()
  other[:2] = ~other[:2]
  again = learned.gradient_classifier(norms, other, LEFT_OUT)
  np.testing.assert_array_equal(again[:2], scores[:2])
  assert (again[2:] != scores[2:]).all()
  noise = np.exp(rng.normal(size=norms.shape))
  null = learned.gradient_classifier(noise, KEEP, LEFT_OUT)
  assert abs(auc(null[..., 0]) - 0.5) < 0.06


def test_features_are_of_the_image_alone():
  x = features.describe(IMAGES)
  assert x.shape[0] == COUNT and np.isfinite(x).all()
  np.testing.assert_allclose(
    x[:, 0], IMAGES.mean(axis=(1, 2, 3)) / 255.0, rtol=1e-5
  )
