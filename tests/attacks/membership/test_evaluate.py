"""Choice of the timestep, one scale for all targets, the tables."""

from etils import epath
import numpy as np
import pytest

from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.attacks.membership import registry, timestep_rules
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.data import splits
from jaxdiff.metrics import roc
from jaxdiff.runs import files, layout
from tests import tiny

pytestmark = pytest.mark.slow

C = base.Settings((50, 100), draws=2, flip=True)
ON_LOSSES = registry.attacks(loss.queries(C), None, None)
BY_NAME = {(a.name, a.variance): a for a in ON_LOSSES}
THRESHOLD = BY_NAME['threshold', '-']
LIRA = BY_NAME['lira', 'pooled']


def make(seed, num_models, count, columns=1, split='paired'):
  """Pure-noise signals, their split, and which models are left out."""
  rng = np.random.default_rng(seed)
  group = np.arange(count)
  keep = splits.keep_matrix(seed, range(num_models), group, split)
  values = rng.normal(size=(num_models, count, columns)).astype(np.float32)
  return values, keep, splits.left_out_together(num_models, split)


def choose(attack, values, keep, left_out):
  read = values[..., None]
  usable = attack.usable(keep, left_out).all()
  scores = attack.grid(read, keep, left_out) if usable else None
  return timestep_rules.choose_on_others(attack, read, scores, keep, left_out)


def test_the_timestep_is_chosen_without_the_target():
  # Column 1 tells members for pair 0 alone; column 0 for all others.
  values, keep, left_out = make(4, 8, 300, columns=2)
  values[2:, :, 0] -= 2.0 * keep[2:]
  values[:2, :, 1] -= 9.0 * keep[:2]
  chosen = choose(THRESHOLD, values, keep, left_out)
  np.testing.assert_array_equal(chosen[:2], 0)
  # ... and nothing that the target's own rows say can change its choice.
  changed = values.copy()
  changed[:2] = np.random.default_rng(0).normal(size=changed[:2].shape)
  for attack in (THRESHOLD, LIRA):
    np.testing.assert_array_equal(
      choose(attack, values, keep, left_out)[:2],
      choose(attack, changed, keep, left_out)[:2],
    )


def test_no_choice_is_made_when_too_few_models_remain():
  values, keep, left_out = make(0, 6, 30, columns=2)
  assert choose(LIRA, values, keep, left_out) is None
  values, keep, left_out = make(0, 2, 30, columns=2)
  assert choose(THRESHOLD, values, keep, left_out) is None


def test_targets_with_different_timesteps_share_a_scale():
  # Losses at the second timestep are ten times as large; both tell members.
  values, keep, left_out = make(0, 8, 300, columns=2)
  values -= 1.5 * keep[..., None]
  values[..., 1] = 20.0 + 10.0 * values[..., 1]
  scores = THRESHOLD.score(values, keep, left_out)

  def auc(picked):
    return roc.statistics(roc.rank(picked, keep), fprs=())['auc']

  same = auc(scores[..., 0])
  mixed = np.array([0, 0, 0, 0, 1, 1, 1, 1])
  raw = np.take_along_axis(scores, mixed[:, None, None], axis=2)[..., 0]
  assert auc(raw) < same - 0.05
  scaled = timestep_rules.scores_at(THRESHOLD, scores, mixed, keep, left_out)
  assert abs(auc(scaled) - same) < 0.02
  # The scale of a target does not come from its own pair.
  changed = scores.copy()
  changed[:2] += 5.0
  shift = (
    timestep_rules.scores_at(THRESHOLD, changed, mixed, keep, left_out) - scaled
  )
  np.testing.assert_allclose(shift[:2], shift[0, 0], rtol=1e-4)


def plan_for(keep, left_out):
  count = keep.shape[1]
  images = np.random.default_rng(5).integers(0, 256, (count, 8, 8, 1))
  return membership_evaluate.MembershipPlan(
    examples=tiny.examples(
      images.astype(np.uint8), keep, left_out=left_out,
      paired=left_out[0] == left_out[1],
    ),
    timestep=100, transform='none', variance='pooled', num_resamples=50,
    seed=0,
  )  # fmt: skip


@pytest.mark.parametrize(('split', 'num_models'), [
  ('paired', 8), ('paired', 6), ('independent', 16),
])  # fmt: skip
def test_tables(tmp_path, caplog, split, num_models):
  queries = loss.queries(C)
  values, keep, left_out = make(0, num_models, 100, len(queries), split)
  values = np.abs(values) - 0.5 * keep[..., None]
  run = layout.Run(epath.Path(tmp_path))
  with caplog.at_level('WARNING'):
    membership_evaluate.analyse(plan_for(keep, left_out), values, queries, run)
  summary = files.read_csv(membership_paths.Paths(run).summary)
  known = summary.dropna(subset=['value'])
  assert (known['low'] <= known['value']).all()
  assert (known['value'] <= known['high']).all()
  used = summary[summary['attack'] == 'lira']['num_examples'].unique()
  if split == 'paired':
    assert used == [100]
  else:
    # Scores with too few models that saw the example, or missed it, are left
    # out aloud.
    assert 50 < used[0] <= 100 and 'left out' in caplog.text
  rules = summary.groupby('attack')['timestep_rule'].unique()
  assert 'other_models' in rules['threshold']
  assert ('other_models' in rules['lira']) == (num_models > 6)
  scores = files.read_csv(membership_paths.Paths(run).scores)
  lira = scores[
    (scores['attack'] == 'lira') & (scores['timestep_rule'] == 'fixed')
  ]
  assert (lira['t'] == 100).all()
  rows = keep[lira['model'], lira['index']]
  np.testing.assert_array_equal(rows, lira['member'] == 1)
  curve = files.read_csv(membership_paths.Paths(run).roc)
  fixed = curve[
    (curve['attack'] == 'strong_lira')
    & (curve['variance'] == 'pooled')
    & (curve['timestep_rule'] == 'fixed')
  ]
  area = np.trapezoid(fixed['tpr'], fixed['fpr'])
  auc = summary[
    (summary['attack'] == 'strong_lira')
    & (summary['variance'] == 'pooled')
    & (summary['timestep_rule'] == 'fixed')
    & (summary['metric'] == 'auc')
  ]['value'].iloc[0]
  # From the first rate that one false positive does not exceed.
  np.testing.assert_allclose(area, auc, atol=0.01)
