"""The library: what it computes, what it says, and what it takes to import."""

import doctest
import subprocess
import sys

import numpy as np
import pytest

import jaxdiff
from jaxdiff import api
from jaxdiff.attacks.membership import lira, rmia
from jaxdiff.data import datasets, splits
from jaxdiff.runtime import mesh

KEEP = splits.keep_matrix(0, range(6), np.arange(80))
LEFT_OUT = splits.left_out_together(6)
LOSSES = np.random.default_rng(0).normal(size=KEEP.shape) - KEEP


def test_doctests_run():
  found = doctest.testmod(api)
  assert found.attempted > 5 and not found.failed


def test_importing_it_loads_nothing():
  program = (
    'import sys, time; start = time.perf_counter(); import jaxdiff; '
    'assert "jax" not in sys.modules and "numpy" not in sys.modules; '
    'assert time.perf_counter() - start < 2.0; '
    'from jax._src import xla_bridge; jaxdiff.lira; '
    'assert not xla_bridge._backends'
  )
  done = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr


def test_every_name_is_there():
  for name in jaxdiff.__all__:
    assert getattr(jaxdiff, name).__doc__
  with pytest.raises(AttributeError, match='lrai'):
    jaxdiff.lrai  # noqa: B018


def test_scores_are_those_of_the_attacks():
  signals = LOSSES[..., None].astype(np.float32)
  grid = mesh.make(1)
  want = lira.lira(signals, KEEP, LEFT_OUT, mesh=grid)[..., 0]
  np.testing.assert_array_equal(jaxdiff.lira(LOSSES, KEEP), want)
  np.testing.assert_array_equal(
    jaxdiff.rmia(LOSSES, KEEP), rmia.rmia(signals, KEEP, LEFT_OUT)[..., 0]
  )
  # Models that train on halves of their own are left out by themselves.
  keep = np.random.default_rng(1).random(KEEP.shape) < 0.5
  np.testing.assert_array_equal(
    jaxdiff.lira(signals, keep), lira.lira(signals, keep, np.arange(6))
  )


def test_statistics_have_both_intervals():
  found = jaxdiff.roc(-LOSSES, KEEP, fprs=(0.1,), num_resamples=100)
  auc = found['auc']
  assert auc.low_models <= auc.low < auc.value < auc.high <= auc.high_models
  one = jaxdiff.roc(-LOSSES[0], KEEP[0], fprs=(0.01,), num_resamples=100)
  assert np.isnan(one['tpr@fpr=0.01']).all()
  assert np.isnan(one['auc'].low_models)


def test_copies_are_found_and_held_against_the_control():
  images = datasets.digits().images[:300]
  training, control, others = images[:120], images[120:240], images[240:]
  generated = np.concatenate([training[:40], others])
  by_tiles = jaxdiff.extract(
    generated, training, control, alpha=0.3, num_neighbours=10, tiles=2
  )
  assert by_tiles.extracted == 40 and by_tiles.control == 0
  found = jaxdiff.extract(
    generated, training, control, alpha=0.3, num_neighbours=10
  )
  assert found.extracted == 40 and found.control == 0
  assert found.low < found.precision == found.high == 1.0
  of_training = found.matches[found.matches['half'] == 'training']
  assert sorted(of_training['index']) == list(range(40))
  assert (of_training['index'] == of_training['generated']).all()


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: jaxdiff.lira(LOSSES[:, :5], KEEP), 'signals'),
    (lambda: jaxdiff.lira(LOSSES, KEEP, variance='wide'), '^variance: no'),
    (lambda: jaxdiff.lira(LOSSES, KEEP, left_out=[0]), 'left_out'),
    (lambda: jaxdiff.lira(LOSSES[:2], KEEP[:2]), 'train more models'),
    (lambda: jaxdiff.make_schedule('quadratic'), '^beta_schedule: no'),
  ],
)
def test_errors_speak_of_arguments(call, message):
  with pytest.raises(ValueError, match=message):
    call()


def test_bad_images_are_refused():
  x = datasets.digits().images
  good = {'generated': x[:9], 'training': x[9:29], 'control': x[29:49]}
  for change, message in (
    ({'generated': x[:9] / 255.0}, 'generated: wants uint8'),
    ({'control': x[20:40]}, 'control: 9 images are copies'),
    ({'training': x[9:29, :4]}, 'generated: .8, 8, 1. is not .4, 8, 1.'),
    ({'num_neighbours': 50}, 'num_neighbours: 50 is not within 2 .. 20'),
    ({'tiles': 3}, 'tiles: images of 8 x 8 do not divide into 3 x 3 tiles'),
  ):
    with pytest.raises(ValueError, match=message):
      jaxdiff.extract(**{'num_neighbours': 5} | good | change)
