"""Scores of other programs, in the layouts that they write."""

import json
import pathlib

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from configs import scores as scores_config
from jaxdiff import inputs
from jaxdiff.data.readers import score_files
from jaxdiff.pipeline import stages
from jaxdiff.runs import files

K, N = 6, 120


@pytest.fixture(scope='module')
def measured():
  """Confidences [K, N, 2], larger for members, and who trained on what."""
  rng = np.random.default_rng(0)
  keep = rng.random((K, N)) < 0.5
  common = 2.0 * rng.normal(size=(1, N, 1))
  confidence = rng.normal(size=(K, N, 2)) + common + keep[..., None]
  # Ties, as rounded scores have.
  return np.round(confidence, 2), keep


def tensorflow_privacy(folder, confidence, keep):
  """As research/mi_lira_2021 leaves it: a folder a model."""
  for model in range(K):
    home = folder / f'experiment_{model}_of_{K}'
    (home / 'scores').mkdir(parents=True)
    (home / 'logits').mkdir()
    np.save(home / 'keep.npy', keep[model])
    np.save(home / 'scores' / '0000000050.npy', np.zeros((N, 2)))
    np.save(home / 'scores' / '0000000100.npy', confidence[model])
  return {'path': str(folder)}


def privacy_meter(folder, confidence, keep):
  (folder / 'signals').mkdir()
  np.save(folder / 'memberships.npy', keep)
  np.save(folder / 'signals' / 'lira_signals.npy', confidence[..., 0].T)
  np.save(folder / 'signals' / 'loss_signals.npy', -confidence[..., 0].T)
  return {'path': str(folder)}


def own(folder, confidence, keep):
  np.save(folder / 'signals.npy', confidence)
  np.save(folder / 'keep.npy', keep)
  return {'path': str(folder)}


def losses(folder, confidence, keep):
  return own(folder, -confidence, keep) | {'larger_is_member': False}


def table(folder, confidence, keep, suffix='csv', **columns):
  model, example = np.divmod(np.random.default_rng(1).permutation(K * N), N)
  rows = pd.DataFrame(
    {
      'model': model, 'example': [f'image {i}' for i in example],
      'member': keep[model, example].astype(int),
      'score': confidence[model, example, 0], **columns,
    }
  )  # fmt: skip
  path = folder / f'scores.{suffix}'
  rows.to_csv(path, index=False) if suffix == 'csv' else rows.to_parquet(path)
  return {'path': str(path)}


def parquet(folder, confidence, keep):
  return table(folder, confidence, keep, 'parquet', attack='theirs')


def two_files(folder, confidence, keep):
  np.save(folder / 'in.npy', confidence[0, keep[0], 0])
  np.save(folder / 'out.npy', confidence[0, ~keep[0], 0])
  return {
    'members': str(folder / 'in.npy'), 'non_members': str(folder / 'out.npy'),
  }  # fmt: skip


def cdi(folder, confidence, keep):
  metadata = np.array({'attack': 'x'}, object)  # a pickle, which is left alone
  path = folder / 'model_attack_run.npz'
  np.savez(
    path, members=confidence[0, keep[0], 0],
    nonmembers=confidence[0, ~keep[0], 0], metadata=metadata,
  )  # fmt: skip
  return {'path': str(path)}


def attack_result(folder, confidence, keep):
  path = folder / 'attack_result_0.npz'
  np.savez(path, scores=confidence[0, :, 0], memberships=keep[0], auc=0.0)
  return {'path': str(path)}


def quantile(folder, confidence, keep):
  out = {}
  for key, mask in (('members', keep[0]), ('non_members', ~keep[0])):
    rows = [
      {'image_id': int(i), 't_error': -float(confidence[0, i, 0])}
      for i in np.flatnonzero(mask)
    ]
    path = folder / f'{key}.json'
    path.write_text(json.dumps(rows))
    out[key] = str(path)
  return out


LAYOUTS = {
  layout.__name__: layout
  for layout in (
    tensorflow_privacy, privacy_meter, own, losses, table, parquet, two_files,
    cdi, attack_result, quantile,
  )
}  # fmt: skip
ONE_MODEL = ('two_files', 'cdi', 'attack_result', 'quantile')


@pytest.mark.parametrize('name', LAYOUTS)
def test_every_layout_gives_the_numbers_of_scikit_learn(
  tmp_path, measured, name
):
  confidence, keep = measured
  (tmp_path / 'given').mkdir()
  config = scores_config.get_config()
  config.membership.num_resamples = 40
  config.update(LAYOUTS[name](tmp_path / 'given', confidence, keep))
  run = stages.run_stages(config, str(tmp_path / 'run'))
  summary = files.read_csv(run.path / 'scores' / 'summary.csv')
  attack = {
    'privacy_meter': 'lira_threshold', 'parquet': 'theirs',
  }.get(name, 'score' if name in ONE_MODEL else 'threshold')  # fmt: skip
  rows = summary[
    (summary['attack'] == attack) & (summary['timestep_rule'] == 'fixed')
  ].set_index('metric')
  models = 1 if name in ONE_MODEL else K
  score, member = confidence[:models, :, 0].ravel(), keep[:models].ravel()
  assert rows.loc['auc', 'value'] == pytest.approx(
    metrics.roc_auc_score(member, score), abs=1e-9
  )
  fpr, tpr, _ = metrics.roc_curve(member, score, drop_intermediate=False)
  assert rows.loc['tpr@fpr=0.05', 'value'] == pytest.approx(
    tpr[fpr <= 0.05].max(), abs=1e-9
  )
  # Of one model there is nothing to calibrate with.
  calibrated = summary['attack'].str.endswith(('rmia', 'lira')).any()
  assert calibrated == (name not in (*ONE_MODEL, 'parquet'))
  scores = files.read_csv(run.path / 'scores' / 'scores.csv')
  assert scores['member'].sum() > 0 and 'example' in scores
  assert run.report.exists() and run.document.exists()


def test_signals_are_turned_so_that_smaller_speaks_for_a_member(
  tmp_path, measured
):
  confidence, keep = measured
  for name in ('own', 'losses', 'tensorflow_privacy'):
    folder = tmp_path / name
    folder.mkdir()
    (column,) = score_files.read(
      **LAYOUTS[name](folder, confidence, keep)
    ).columns
    np.testing.assert_array_equal(column.values, -confidence)
  folder = tmp_path / 'meter'
  folder.mkdir()
  (folder / 'signals').mkdir()
  np.save(folder / 'memberships.npy', keep)
  chance = 1.0 / (1.0 + np.exp(-confidence[..., 0]))
  np.save(folder / 'signals' / 'rmia_signals.npy', chance.T)
  (column,) = score_files.read(str(folder)).columns
  np.testing.assert_allclose(np.exp(-column.values[..., 0]), chance)


def _table(folder, text):
  (folder / 'scores.csv').write_text(text)
  return {'path': str(folder / 'scores.csv')}


HEAD = 'model,example,member,score\n'


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda d: {}, 'give either path'),
    (lambda d: {'members': 'x'}, 'give either path'),
    (lambda d: {'path': str(d / 'no.csv')}, 'no file or folder'),
    (lambda d: {'path': str(d)}, 'no layout that is read'),
    (lambda d: _table(d, 'model,example,score\n'), 'no column member'),
    (lambda d: _table(d, HEAD), 'holds no score'),
    (lambda d: _table(d, HEAD + '0,a,yes,1\n'), "line 2: member is 'yes'"),
    (
      lambda d: _table(d, HEAD + '0,a,1,1\n0,b,0,\n'),
      'line 3: the score is no',
    ),
    (lambda d: _table(d, HEAD + '0,a,1,1\n0,b,0,inf\n'), 'line 3: the score'),
    (
      lambda d: _table(d, HEAD + '0,a,1,1\n0,a,1,2\n'),
      'line 3: this model and',
    ),
    (lambda d: _table(d, HEAD + '0,a,1,1\n0,a,0,2\n'), 'is a member of this'),
    (lambda d: _table(d, '\0\xff'), 'no column model'),
  ],
)
def test_what_cannot_be_read_is_one_line(tmp_path, make, message):
  with pytest.raises(inputs.InputError, match=message) as error:
    score_files.read(**{'path': ''} | make(tmp_path))
  assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize('suffix', ['pt', 'pth', 'pkl', 'pickle'])
def test_pickles_are_refused_with_the_line_that_converts(tmp_path, suffix):
  path = tmp_path / f'scores.{suffix}'
  path.write_bytes(b'cos\nsystem\n(S"touch opened"\ntR.')
  with pytest.raises(inputs.InputError, match='never opened.*numpy.save'):
    score_files.read(str(path))


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    (lambda d: np.save(d / 'keep.npy', np.ones((2, 3))), 'must be'),
    (lambda d: np.save(d / 'keep.npy', np.full((K, N), 2)), 'wants keep bool'),
    (lambda d: np.save(d / 'keep.npy', np.array({}, object)), 'pickle'),
    (
      lambda d: np.save(d / 'signals.npy', np.full((K, N), np.nan)),
      'no finite',
    ),
    (lambda d: np.save(d / 'signals.npy', np.full((K, N), 'x')), 'no scores'),
    (lambda d: (d / 'signals.npy').write_bytes(b'x'), 'no whole array'),
    (lambda d: (d / 'memberships.npy').touch(), None),
    (lambda d: np.save(d / 'loss_signals.npy', [1.0]), 'several layouts'),
  ],
)
def test_a_folder_of_signals_is_checked(tmp_path, measured, change, message):
  own(tmp_path, *measured)
  change(tmp_path)
  if message is None:
    score_files.read(str(tmp_path))
    return
  with pytest.raises(inputs.InputError, match=message):
    score_files.read(str(tmp_path))


def test_a_missing_score_is_no_score(tmp_path):
  rows = ['0,a,1,3', '0,b,0,1', '0,c,0,2', '1,a,0,1', '1,b,1,2']
  found = score_files.read(**_table(tmp_path, HEAD + '\n'.join(rows)))
  (column,) = found.columns
  assert column.final and np.isnan(column.values[1, 2, 0])
  assert np.isfinite(column.values).sum() == 5
  assert found.examples == ('a', 'b', 'c') and found.models == ('0', '1')


@pytest.mark.parametrize(
  'names', [('1', '2'), ('NA', 'null'), ('a$x^{$', '_hidden'), ('my attack',)]
)
def test_attacks_may_be_called_anything(tmp_path, names):
  rng = np.random.default_rng(0)
  rows = [
    f'0,{number},{number % 2},{rng.normal() + number % 2},{name}'
    for name in names
    for number in range(60)
  ]
  text = '\n'.join(['model,example,member,score,attack', *rows])
  config = scores_config.get_config()
  config.membership.num_resamples = 40
  config.update(_table(tmp_path, text))
  run = stages.run_stages(
    config, str(tmp_path / 'run'),
    fail_if=[f'scores.{name}.auc > 0.99' for name in names],
  )  # fmt: skip
  found = json.loads(run.document.read_text())
  assert {row['status'] for row in found['policies']} == {'pass'}
  assert all(name in run.report.read_text() for name in names)


@pytest.mark.parametrize('others', [1, 2, 3])
@pytest.mark.parametrize('seed', range(4))
def test_few_non_members_are_no_null_control(tmp_path, others, seed):
  np.save(tmp_path / 'in.npy', np.arange(100.0))
  np.save(tmp_path / 'out.npy', np.arange(others) * 30.0)
  config = scores_config.get_config()
  config.seed, config.membership.num_resamples = seed, 40
  config.members = str(tmp_path / 'in.npy')
  config.non_members = str(tmp_path / 'out.npy')
  run = stages.run_stages(config, str(tmp_path / 'run'), ('attack',))
  table = files.read_csv(run.path / 'scores' / 'comparison.csv')
  assert ('too few non-members for a null' in table['flags'][0]) == (
    others == 1
  )


def test_a_moved_file_is_the_same_input(tmp_path, measured):
  first = table(tmp_path, *measured)['path']
  before = score_files.read(first)
  (tmp_path / 'moved').mkdir()
  moved = str(tmp_path / 'moved' / 'other.csv')
  pathlib.Path(first).rename(moved)
  assert score_files.read(moved).digest == before.digest


def test_nulls_of_parquet_are_refused(tmp_path):
  rows = pd.DataFrame(
    {'model': ['0', None], 'example': ['a', 'b'], 'member': [1, 0],
     'score': [1.0, 2.0]}
  )  # fmt: skip
  rows.to_parquet(tmp_path / 'scores.parquet')
  with pytest.raises(inputs.InputError, match='line 3: model is empty'):
    score_files.read(str(tmp_path / 'scores.parquet'))


def test_attacks_that_a_table_would_confuse_are_refused(tmp_path):
  head = 'model,example,member,score,attack\n'
  for names in (('a' * 70 + 'x', 'a' * 70 + 'y'), ('=cmd', 'b')):
    rows = [f'0,{k},{k % 2},{k},{name}' for name in names for k in range(2)]
    with pytest.raises(inputs.InputError, match='call attack'):
      score_files.read(**_table(tmp_path, head + '\n'.join(rows)))


def test_one_side_alone_is_refused(tmp_path):
  config = scores_config.get_config()
  config.update(_table(tmp_path, HEAD + '0,a,1,1\n0,b,1,2\n'))
  with pytest.raises(inputs.InputError, match='2 and 0'):
    stages.run_stages(config, str(tmp_path / 'run'))
  assert not (tmp_path / 'run').exists()


def test_pairs_must_be_pairs(tmp_path, measured):
  config = scores_config.get_config()
  config.update(own(tmp_path, *measured))
  config.left_out = 'pairs'
  with pytest.raises(inputs.InputError, match='complementary halves'):
    stages.run_stages(config, str(tmp_path / 'run'))
