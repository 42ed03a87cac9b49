"""The blind baseline fires on a shifted split alone; null controls."""

import numpy as np
import pytest

from jaxdiff.attacks.membership import comparison, controls, registry
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.data import datasets, splits
from jaxdiff.runtime import prng
from tests import tiny

COUNT = 200


def digits():
  return datasets.digits().images[:COUNT]


def blind(images, keep, group=None):
  group = np.arange(len(images)) if group is None else group
  left_out = splits.left_out_together(len(keep))
  return controls.blind(images, keep, left_out, group, 0, 100)


def test_random_halves_are_not_told_apart():
  keep = splits.keep_matrix(0, range(8), np.arange(COUNT))
  found = blind(digits(), keep)
  # Folds of one set err to the other side.
  assert found.low <= 0.5
  assert found.p_value > 0.05 and not found.shifted


@pytest.mark.parametrize('brighter', [8, 40])
def test_brighter_members_make_it_fire(brighter):
  images = digits()
  keep = splits.keep_matrix(0, range(2), np.arange(COUNT))
  images = images.copy()
  lit = images[keep[0]].astype(int) + brighter
  images[keep[0]] = np.minimum(lit, 255).astype(np.uint8)
  found = blind(images, keep)
  assert found.shifted and found.low > 0.6


def test_its_p_values_are_those_of_chance():
  images = digits()
  low = 0
  for seed in range(40):
    keep = splits.keep_matrix(seed, range(2), np.arange(COUNT))
    low += blind(images, keep).p_value <= 0.1
  # Binomial(40, 0.1): at most 9 but once in a thousand.
  assert low <= 9


def test_copies_of_one_image_share_a_fold():
  # Twenty images, ten copies each: a fold apart, copies give labels away.
  group = np.repeat(np.arange(20), 10)
  images = digits()[group]
  keep = splits.keep_matrix(0, range(2), group)
  apart = blind(images, keep)
  assert apart.auc > 0.9
  together = blind(images, keep, group)
  assert together.p_value > 0.05


def test_non_members_that_differ_fail_the_control():
  rng = np.random.default_rng(0)
  keep = splits.keep_matrix(0, range(8), np.arange(COUNT))
  scores = rng.normal(size=keep.shape)
  cluster = np.arange(COUNT)
  value, low, high = controls.null_control(scores, ~keep, cluster, 0, 200)
  assert low <= 0.5 <= high and abs(value - 0.5) < 0.1
  # Scores that know the half (say, from the order of the examples).
  halves = prng.rng(0, 'control', 1).permutation(cluster)
  scores[:, halves[: COUNT // 2]] += 1.0
  _, low, _ = controls.null_control(scores, ~keep, cluster, 0, 200)
  assert low > 0.5


def test_a_timestep_tuned_on_the_target_is_marked(tmp_path):
  # Pure noise at thirty timesteps: the best of them looks like an attack.
  rng = np.random.default_rng(3)
  keep = splits.keep_matrix(0, range(8), np.arange(60))
  timesteps = tuple(range(10, 310, 10))
  queries = loss.queries(base.Settings(timesteps))
  values = rng.normal(size=(8, 60, 30)).astype(np.float32)
  attack = registry.attacks(queries, None, None)[0]
  plan = membership_evaluate.MembershipPlan(
    examples=tiny.examples(np.zeros((60, 8, 8, 1), np.uint8), keep),
    timestep=100, transform='none', variance='pooled', num_resamples=200,
    seed=0,
  )  # fmt: skip
  tables = membership_evaluate._tables_of(
    plan, attack, values, queries, np.ones((8, 60), bool)
  )
  table = comparison.of_summary(tables['summary'], shifted=False)
  table = table.set_index('timestep_rule')
  assert table.loc['oracle', 'auc'] > 0.53
  assert 'oracle: timestep chosen on the target' in table.loc['oracle', 'flags']
  for rule in ('fixed', 'other_models'):
    assert table.loc[rule, 'auc_low'] <= 0.5 <= table.loc[rule, 'auc_high']
    assert 'oracle' not in table.loc[rule, 'flags']
  # Its scores and curve are not written out as if it were an attack.
  assert set(tables['roc']['timestep_rule']) == {'fixed', 'other_models'}
  assert set(tables['scores']['timestep_rule']) == {'fixed', 'other_models'}
  shifted = comparison.of_summary(tables['summary'], shifted=True)
  assert shifted['flags'].str.contains('split is shifted').all()
  assert shifted['flags'].str.contains('too few non-members').all()
