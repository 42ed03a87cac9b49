"""The whole audit on a tiny config: outputs, a rerun, growth, bad input."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from etils import epath
import jax
import numpy as np
import pandas as pd
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.interop import diffusers
from jaxdiff.pipeline import attack_checkpoints, stages
from jaxdiff.pipeline import export as pipeline_export
from jaxdiff.pipeline import provenance as pipeline_provenance
from jaxdiff.pipeline import sweep as pipeline_sweep
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh
from jaxdiff.sampling import quality as quality_lib
from jaxdiff.training import block_states
from tests import tiny

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('audit') / 'run'
  # As most people give it: relative.
  run = stages.run_stages(tiny.config(), os.path.relpath(folder))
  return run, folder, tiny.digests(folder)


def test_leaves_the_run_folder(finished):
  run, folder, _ = finished
  membership = membership_paths.Paths(run)
  extraction = extraction_paths.Paths(run)
  for path in (
    run.config, run.provenance, run.examples, run.metrics, membership.queries,
    membership.scores, membership.summary, membership.roc,
    membership.timesteps, membership.comparison, membership.blind,
    membership.inference, membership.studies, membership.extremes,
    extraction.matches, extraction.summary, extraction.curve,
    quality_lib.Paths(run).quality, run.report, run.samples(7, 32),
    extraction.neighbours(7, 32), membership.signals(7, 48),
  ):  # fmt: skip
    assert path.exists(), path
  assert not list(folder.rglob('*.tmp'))
  metrics = files.read_csv(run.metrics)
  assert len(metrics) == 8 * 4 * 3  # models, logged steps, names
  assert list(metrics.columns) == ['model', 'step', 'name', 'value']
  # Models are told apart, and training did something.
  losses = metrics[metrics['name'] == 'loss'].pivot(
    index='step', columns='model', values='value'
  )
  assert losses.loc[20].nunique() == 8
  assert (losses.loc[20] < losses.loc[5]).all()


def test_tables_carry_every_attack_with_intervals(finished):
  run, _, _ = finished
  table = files.read_csv(membership_paths.Paths(run).summary)
  assert set(table['attack']) == {
    prefix + name
    for name in ('threshold', 'lira', 'offline_lira', 'rmia')
    for prefix in ('', 'strong_')
  }
  assert set(table['timestep_rule']) == {'fixed', 'other_models', 'oracle'}
  auc = table[table['metric'] == 'auc']
  assert ((auc['low'] <= auc['value']) & (auc['value'] <= auc['high'])).all()
  # 64 distinct non-members resolve 5 %, not 1 %, whatever the models.
  for rate, said in ((0.05, True), (0.01, False), (0.001, False)):
    values = table[table['metric'] == f'tpr@fpr={rate}']['value']
    assert (values.notna() == said).all(), rate
  both = table.dropna(subset=['low_models'])
  assert len(both) and (both['low_models'] <= both['low']).all()
  assert (both['high_models'] >= both['high']).all()
  extraction = files.read_csv(extraction_paths.Paths(run).summary)
  assert set(extraction['setting']) == {'chosen', 'paper'}
  assert {'pooled', 'median', 'model-000'} <= set(extraction['target'])
  known = extraction.dropna(subset=['value'])
  assert (known['low'] <= known['value']).all()
  assert (known['value'] <= known['high']).all()
  scores = files.read_csv(membership_paths.Paths(run).scores)
  assert len(scores) == 8 * 2 * 8 * 64  # attacks, rules, models, examples
  keep = tiny.plans().subject.examples.keep
  lira = scores[
    (scores['attack'] == 'lira') & (scores['timestep_rule'] == 'fixed')
  ]
  np.testing.assert_array_equal(
    lira['member'].to_numpy().reshape(8, 64), keep.astype(int)
  )


def test_a_second_run_changes_no_file(finished):
  _, folder, before = finished

  def times():
    return {
      path: path.stat().st_mtime_ns
      for path in folder.rglob('*')
      if path.is_file() and path.name != 'run.lock'
    }

  first = times()
  stages.run_stages(tiny.config(), str(folder))
  assert tiny.digests(folder) == before
  assert times() == first


def test_the_report_holds_the_numbers_and_needs_nothing_else(finished):
  run, _, _ = finished
  text = run.report.read_text()
  for part in ('AUC', 'Strong LiRA', 'control', 'data:image/png;base64,'):
    assert part in text
  assert 'http://' not in text and 'https://' not in text
  assert '<script' not in text


def test_it_grows_without_touching_what_is_there(finished, tmp_path):
  _, folder, before = finished
  grown = tmp_path / 'grown'
  shutil.copytree(folder, grown)
  stages.run_stages(tiny.config(num_models=10, num_samples=96), str(grown))
  after = tiny.digests(grown)
  for name in before:
    # Distances are to all samples, however many these are.
    if name.startswith('nearest_sample/'):
      continue
    if name.endswith('.npz') or name.startswith('models-'):
      assert after[name] == before[name], name
  assert any(name.startswith('models-008-009/') for name in after)
  summary = pd.read_csv(grown / 'membership' / 'summary.csv')
  assert set(summary['num_models']) == {10}
  extraction = pd.read_csv(grown / 'extraction' / 'summary.csv')
  assert set(extraction['num_samples']) == {96, 960}


def test_other_data_or_another_split_is_refused(finished, tmp_path):
  _, folder, _ = finished
  copy = tmp_path / 'copy'
  shutil.copytree(folder, copy)
  before = tiny.digests(copy)
  provenance = copy / 'provenance.json'
  text = provenance.read_text()
  # As another set would have left it, and as a damaged disk would.
  record = json.loads(text) | {'data_sha256': '0'}
  record.pop('sha256')
  record['sha256'] = pipeline_provenance._digest(record)
  provenance.write_text(json.dumps(record))
  with pytest.raises(inputs.InputError, match='other images'):
    stages.run_stages(tiny.config(), str(copy))
  provenance.write_text(text.replace('"data_sha256": "', '"data_sha256": "0'))
  with pytest.raises(inputs.InputError, match='damaged'):
    stages.run_stages(tiny.config(), str(copy))
  provenance.write_text(text)
  keep = copy / 'models-000-007' / 'keep.npy'
  whole = keep.read_bytes()
  np.save(keep, ~np.load(keep))
  with pytest.raises(inputs.InputError, match='other examples'):
    stages.run_stages(tiny.config(), str(copy))
  keep.write_bytes(whole)
  assert tiny.digests(copy) == before


@pytest.mark.parametrize(
  ('stage', 'part'),
  [('sample', 'train stage'), ('attack', 'train stage'), ('report', 'missing')],
)
def test_a_stage_too_early_says_what_comes_first(tmp_path, stage, part):
  with pytest.raises(inputs.InputError, match=part):
    stages.run_stages(tiny.config(), str(tmp_path), [stage])
  assert not list(tmp_path.glob('models-*'))


def test_growth_belongs_to_the_stage_that_makes_it(finished):
  _, folder, before = finished
  for stage in ('sample', 'attack', 'report'):
    with pytest.raises(inputs.InputError, match='num_models is 8 there'):
      stages.run_stages(tiny.config(num_models=80), str(folder), [stage])
  assert tiny.digests(folder) == before


def too_few_shadows(run):
  """Tables of a run of too few models for LiRA: left out, not made up."""
  table = files.read_csv(membership_paths.Paths(run).summary)
  assert set(table['attack']) == {'threshold', 'strong_threshold'}
  extraction = files.read_csv(extraction_paths.Paths(run).summary)
  assert run.report.exists()
  return set(table['timestep_rule']), set(extraction['setting'])


def test_a_single_model_has_no_other_to_choose_on(tmp_path):
  config = tiny.config(num_models=1, num_samples=32, data__num_examples=33)
  run = stages.run_stages(config, str(tmp_path / 'run'))
  assert too_few_shadows(run) == ({'fixed', 'oracle'}, {'controlled', 'paper'})


def test_few_models_and_every_other_setting(tmp_path):
  c = tiny.config(
    num_models=3,
    num_samples=32,
    flip=True,
    data__num_examples=33,  # halves of 16 and 17
    model__class_conditional=True,
    model__dropout=0.1,
    model__dtype='bfloat16',
    model__resnet_time_scale_shift='scale_shift',
    diffusion__beta_schedule='squaredcos_cap_v2',
    diffusion__prediction_type='v_prediction',
    train__label_dropout=0.1,
    train__weighting='min_snr_gamma',
    train__num_steps=10,
    train__decay='cosine',
    train__weight_decay=0.01,
    sample__sampler='ddpm',
    sample__guidance_scale=1.5,
  )
  run = stages.run_stages(c, str(tmp_path / 'run'))
  rules, settings = too_few_shadows(run)
  assert rules == {'fixed', 'other_models', 'oracle'}
  assert settings == {'chosen', 'paper'}


@pytest.mark.parametrize(
  ('flags', 'part'),
  [
    (['--config=configs/digit.py'], 'did you mean configs/digits.py?'),
    (['--config=configs/digits.py:fast'], "'fast' is unknown"),
    (['--config.train.nmu_steps=5'], 'did you mean --config.train.num_steps?'),
    (['--config.nmu_models=5'], 'did you mean --config.num_models?'),
    (['--config.train.num_steps=abc'], 'must be of type int, like 2500'),
    (['--config.flip=maybe'], 'must be of type bool, like False'),
    (['--config.sample.num_steps=5000'], 'sample.num_steps: 5000'),
    (['--config.data.num_examples=5000'], 'data.num_examples: 5000'),
    (['--confg=x'], 'config'),
    (['stray'], 'unknown arguments: stray'),
  ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, flags, part):
  if not flags[0].startswith('--config='):
    flags = ['--config=configs/digits.py', *flags]
  done = subprocess.run(
    [sys.executable, '-m', 'launch.audit', f'--workdir={tmp_path / "run"}']
    + flags,
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 2, done.stderr
  lines = done.stderr.splitlines()
  assert len(lines) == 1, done.stderr
  assert lines[0].startswith('jaxdiff: ') and part in lines[0]
  assert not (tmp_path / 'run').exists()


def test_a_trained_model_leaves_as_a_diffusers_folder(finished, tmp_path):
  _, folder, _ = finished
  pipeline_export.export(tiny.config(), str(folder), 3, str(tmp_path / 'net'))
  back = diffusers.read(tmp_path / 'net')
  plans, run = stages.opened(tiny.config(), str(folder))
  (block,) = plans.subject.train.ensemble.blocks(run)
  params = block_states.restore_ema(plans.subject.train, block, mesh.make(8))
  want = jax.tree.map(lambda leaf: leaf[3], params)
  assert tiny.largest_difference(back.params, want) == 0.0
  assert back.diffusion == tiny.config().diffusion.to_dict()
  for model, workdir, message in (
    (8, folder, 'models 0 to 7'), (0, tmp_path / 'no', 'holds no run'),
  ):  # fmt: skip
    with pytest.raises(inputs.InputError, match=message):
      pipeline_export.export(
        tiny.config(), str(workdir), model, str(tmp_path / 'two')
      )
  assert not (tmp_path / 'no').exists()


def without_logs(folder):
  """Digests of all files but logs, which a second run goes on with."""
  return {
    name: digest
    for name, digest in tiny.digests(folder).items()
    if '/logs/' not in name
  }


def test_a_sweep_runs_each_point_once_and_compares_them(tmp_path):
  config = tiny.least(train__num_steps=10)
  points = [
    {'knob': 'steps', 'value': '10', 'run': 'base', 'overrides': {}},
    {'knob': 'grid', 'value': '<whole>', 'run': 'base', 'overrides': {}},
    {
      'knob': 'grid', 'value': 'short', 'run': 'short',
      'overrides': {'signals.timesteps': (50, 100), 'train.batch_size': 8},
    },
  ]  # fmt: skip
  # As two machines would, each its share; then the command that compares.
  for shard, name in (((0, 2), 'base'), ((1, 2), 'short')):
    there = {path.name for path in tmp_path.iterdir()}
    assert (
      pipeline_sweep.run_sweep(config, epath.Path(tmp_path), points, shard)
      is None
    )
    assert {path.name for path in tmp_path.iterdir()} - there == {name}
  page = pipeline_sweep.run_sweep(config, epath.Path(tmp_path), points)
  table = pd.read_csv(tmp_path / 'sweep.csv')
  assert list(table.columns) == [
    'knob', 'setting', 'run', 'metric', 'value', 'low', 'high',
  ]  # fmt: skip
  assert len(table.groupby(['knob', 'setting'])) == 3
  for _, group in table.groupby(['knob', 'setting']):
    # Two models leave no others to choose on.
    assert 'share extracted, controlled' in set(group['metric'])
    assert any(name.endswith(' auc') for name in group['metric'])
  text = page.read_text()
  assert '&lt;whole&gt;' in text and '<whole>' not in text
  assert 'short/report.html' in text
  before = without_logs(tmp_path)
  pipeline_sweep.run_sweep(config, epath.Path(tmp_path), points)
  assert without_logs(tmp_path) == before
  points[2]['run'] = 'base'
  with pytest.raises(inputs.InputError, match='share run base'):
    pipeline_sweep.run_sweep(config, epath.Path(tmp_path), points)


def test_training_stops_where_other_models_had_not_memorised(
  tmp_path, monkeypatch
):
  piloted = []

  def run_steps(config, workdir):
    piloted.append((config.seed, config.train.max_to_keep, workdir))
    shares = pd.DataFrame(
      [(5, 0.0), (10, 0.02), (15, 0.01), (20, 0.3)], columns=['step', 'value']
    )
    run = layout.Run(epath.Path(workdir))
    files.write_csv(run.steps_table, shares.assign(metric='share extracted'))

  monkeypatch.setattr(attack_checkpoints, 'run_steps', run_steps)
  config = tiny.least(train__num_steps=20, train__decay='cosine')
  pilot = {
    'overrides': {'seed': 7}, 'metric': 'share extracted', 'at_most': 0.01
  }  # fmt: skip
  points = [
    {'knob': 'defence', 'value': 'none', 'run': 'base', 'overrides': {}},
    {
      'knob': 'defence', 'value': 'stopping', 'run': 'early', 'overrides': {},
      'pilot': pilot,
    },
  ]  # fmt: skip
  folder = epath.Path(tmp_path)
  pipeline_sweep.run_sweep(config, folder, points)
  assert piloted == [(7, 0, str(folder / 'early-pilot'))]
  trained = {
    name: files.read_json(layout.Run(folder / name).config)['train']
    for name in ('base', 'early')
  }
  assert trained['early'] == trained['base'] | {'stop_at': 15}
  table = pd.read_csv(tmp_path / 'sweep.csv')
  assert set(table['setting']) == {'none', 'stopping (15)'}
  cost = table[table['metric'] == 'images trained on'].set_index('run')['value']
  assert cost['early'] * 4 == cost['base'] * 3
  # At no step so little: the others are compared all the same.
  pilot['at_most'] = -1.0
  page = pipeline_sweep.run_sweep(config, folder, points)
  assert set(pd.read_csv(tmp_path / 'sweep.csv')['setting']) == {'none'}
  assert 'defence, stopping: left out' in page.read_text()


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'metric': None}, 'pilot is a dict of at_most, metric, overrides'),
    ({'metric': 'shares'}, "no metric 'shares'; there is share extracted"),
    ({'at_most': '1 %'}, 'at_most is no number'),
    ({'overrides': {}}, 'seed: it is that of the run'),
    (
      {'overrides': {'seed': 7, 'train.checkpoint_every': 20}},
      'keeps no step before the last, 20',
    ),
    ({'overrides': {'seed': 7, 'train.num_steps': 30}}, 'not that of the run'),
    ({'overrides': {'seed': 7, 'nope': 1}}, 'overrides are no values by key'),
  ],
)
def test_pilots_that_choose_nothing_are_refused(tmp_path, changes, said):
  pilot = {
    'overrides': {'seed': 7}, 'metric': 'share extracted', 'at_most': 0.01
  } | changes  # fmt: skip
  pilot = {name: value for name, value in pilot.items() if value is not None}
  point = {
    'knob': 'defence', 'value': 'stopping', 'run': 'early', 'overrides': {},
    'pilot': pilot,
  }  # fmt: skip
  config = tiny.least(train__num_steps=20)
  with pytest.raises(inputs.InputError, match=said):
    pipeline_sweep.run_sweep(config, epath.Path(tmp_path), [point])
  assert not list(tmp_path.iterdir())


def test_a_run_has_one_pilot_or_none(tmp_path):
  pilot = {
    'overrides': {'seed': 7}, 'metric': 'share extracted', 'at_most': 0.01
  }  # fmt: skip
  base = {'knob': 'a', 'value': 'b', 'run': 'base', 'overrides': {}}
  config = tiny.least(train__num_steps=20)
  for points, said in (
    ([base, base | {'pilot': pilot}], 'and not its pilot'),
    ([base | {'run': 'base-pilot'}], 'are pilots of others'),
  ):
    with pytest.raises(inputs.InputError, match=said):
      pipeline_sweep.run_sweep(config, epath.Path(tmp_path), points)


def test_steps_are_attacked_as_if_training_had_ended_there(finished, tmp_path):
  shutil.copytree(finished[1], tmp_path / 'run')
  page = attack_checkpoints.run_steps(tiny.config(), str(tmp_path / 'run'))
  table = pd.read_csv(tmp_path / 'run' / 'steps.csv')
  assert list(table.columns) == ['step', 'metric', 'value', 'low', 'high']
  assert set(table['step']) == {10, 20}
  for _, group in table.groupby('step'):
    assert 'share extracted' in set(group['metric'])
    assert 'FD-PCA to images never trained on' in set(group['metric'])
  assert page.read_text().count('<tr><th scope="row">') == 2
  short = tiny.config(train__stop_at=10)
  stages.run_stages(short, str(tmp_path / 'short'), ('train', 'sample'))
  for model in range(8):
    name = f'samples/model-{model:03d}/00000032.npz'
    then = tmp_path / 'run' / 'steps' / '00000010' / name
    one, two = (
      files.read_npz(epath.Path(path), 'images')
      for path in (then, tmp_path / 'short' / name)
    )
    np.testing.assert_array_equal(one['images'], two['images'])
  before = tiny.digests(tmp_path / 'run')
  attack_checkpoints.run_steps(tiny.config(), str(tmp_path / 'run'))
  assert tiny.digests(tmp_path / 'run') == before
  for block in (tmp_path / 'run').glob('models-*'):
    shutil.rmtree(block / 'checkpoints' / '10')
  with pytest.raises(inputs.InputError, match='max_to_keep=0'):
    attack_checkpoints.run_steps(tiny.config(), str(tmp_path / 'run'))
