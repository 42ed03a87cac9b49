"""Studies from stored signals: what they count, and on what."""

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import sensitivity
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.data import datasets, splits
from tests import tiny

COUNT = 120
C = base.Settings((50, 100), draws=5)
QUERIES = loss.queries(C)


def plan(num_models=12):
  keep = splits.keep_matrix(0, range(num_models), np.arange(COUNT))
  return membership_evaluate.MembershipPlan(
    examples=tiny.examples(datasets.digits().images[:COUNT], keep),
    timestep=100, transform='none', variance='pooled', num_resamples=20,
    seed=0,
  )  # fmt: skip


def signals(of):
  rng = np.random.default_rng(0)
  shape = (*of.examples.keep.shape, len(QUERIES))
  # Hard to tell by one draw: noise of a draw, and an image's own level.
  own = rng.normal(size=(1, COUNT, 1))
  return (
    own + rng.normal(size=shape) - 0.4 * of.examples.keep[..., None]
  ).astype(np.float32)


def test_more_draws_and_more_models_help():
  table = sensitivity.table(plan(), signals(plan()), QUERIES)
  assert tuple(table.columns) == sensitivity.COLUMNS
  auc = table[table['metric'] == 'auc'].set_index(['study', 'attack'])
  draws = auc.loc[('draws', 'strong_lira')]
  assert draws['setting'].tolist() == ['1', '2', '4', '5']
  assert draws['value'].iloc[-1] > draws['value'].iloc[0] + 0.05
  models = auc.loc[('models', 'strong_lira')]
  assert models['setting'].tolist() == ['6', '12']
  assert models['num_models'].tolist() == [6, 12]
  tails = auc.loc[('outliers', 'strong_threshold')]
  assert tails['setting'].tolist() == ['outliers', 'inliers']
  assert (tails['num_examples'] == 20).all()


def test_a_run_of_few_models_has_no_study_of_models():
  table = sensitivity.table(plan(2), signals(plan(2)), QUERIES)
  assert set(table['study']) == {'draws', 'outliers'}
  assert set(table['attack']) == {'strong_threshold'}
  assert [sensitivity._doubling(6, n) for n in (5, 6, 7, 24, 30)] == [
    [], [6], [6, 7], [6, 12, 24], [6, 12, 24, 30],
  ]  # fmt: skip


def test_a_model_without_its_mate_is_no_further_setting():
  table = sensitivity.table(plan(7), signals(plan(7)), QUERIES)
  models = table[(table['study'] == 'models') & (table['metric'] == 'auc')]
  assert models['setting'].tolist() == ['6']


def test_outliers_are_far_from_all_others():
  images = np.concatenate(
    [datasets.digits().images[:1]] * 50 + [datasets.digits().images[100:125]]
  )
  tails = sensitivity.outliers(images)
  assert (tails['outliers'] >= 50).all() and (tails['inliers'] < 50).all()


def test_extremes_are_the_largest_and_smallest_margins():
  of = plan(4)
  score = np.zeros(of.examples.keep.shape)
  score[:, 7] = 3.0 * of.examples.keep[:, 7]
  score[:, 9] = -2.0 * of.examples.keep[:, 9]
  number = np.broadcast_to(np.arange(COUNT), score.shape)
  table = pd.DataFrame({
    'attack': 'strong_lira', 'timestep_rule': 'fixed', 'index': number.ravel(),
    'member': of.examples.keep.ravel().astype(int), 'score': score.ravel(),
  })  # fmt: skip
  found = sensitivity.extremes(QUERIES, table)
  first = found[found['rank'] == 0].set_index('kind')
  assert first.loc['easiest', 'index'] == 7
  assert first.loc['easiest', 'margin'] == 3.0
  assert first.loc['hardest', 'index'] == 9
