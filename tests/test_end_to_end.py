"""The whole audit on a tiny config: outputs, a rerun, growth, bad input."""

import hashlib
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from jaxdiff import audit, runs
from tests import tiny

ROOT = pathlib.Path(__file__).parents[1]


def digests(folder):
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*'))
    if path.is_file()
  }


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('audit') / 'run'
  run = audit.run_stages(tiny.config(), str(folder))
  return run, folder, digests(folder)


def test_leaves_the_run_folder(finished):
  run, folder, _ = finished
  for path in (
    run.config, run.provenance, run.examples, run.metrics, run.queries,
    run.membership_scores, run.membership_summary, run.membership_roc,
    run.membership_timesteps, run.extraction_matches, run.extraction_summary,
    run.extraction_curve, run.report, run.samples(7, 32),
    run.neighbours(7, 32), run.signals(7, 48),
  ):  # fmt: skip
    assert path.exists(), path
  assert not list(folder.rglob('*.tmp'))
  metrics = runs.read_csv(run.metrics)
  assert len(metrics) == 8 * 4 * 2  # models, logged steps, names
  assert list(metrics.columns) == ['model', 'step', 'name', 'value']
  # Models are told apart, and training did something.
  losses = metrics[metrics['name'] == 'loss'].pivot(
    index='step', columns='model', values='value'
  )
  assert losses.loc[20].nunique() == 8
  assert (losses.loc[20] < losses.loc[5]).all()


def test_tables_carry_every_attack_with_intervals(finished):
  run, _, _ = finished
  table = runs.read_csv(run.membership_summary)
  assert set(table['attack']) == {
    'threshold', 'strong_threshold', 'lira', 'strong_lira',
  }  # fmt: skip
  assert set(table['timestep_rule']) == {'fixed', 'other models'}
  auc = table[table['metric'] == 'auc']
  assert ((auc['low'] <= auc['value']) & (auc['value'] <= auc['high'])).all()
  # 8 models on halves of 64: 256 non-members resolve 1 %, not 0.1 %.
  assert table[table['metric'] == 'tpr@fpr=0.001']['value'].isna().all()
  assert table[table['metric'] == 'tpr@fpr=0.01']['value'].notna().all()
  extraction = runs.read_csv(run.extraction_summary)
  assert set(extraction['setting']) == {'chosen', 'paper'}
  assert {'pooled', 'median', 'model-000'} <= set(extraction['target'])
  scores = runs.read_csv(run.membership_scores)
  assert len(scores) == 4 * 8 * 64
  keep = tiny.plans().membership.keep
  lira = scores[scores['attack'] == 'lira']
  np.testing.assert_array_equal(
    lira['member'].to_numpy().reshape(8, 64), keep.astype(int)
  )


def test_a_second_run_changes_no_file(finished):
  _, folder, before = finished
  times = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  audit.run_stages(tiny.config(), str(folder))
  assert digests(folder) == before
  after = {p: p.stat().st_mtime_ns for p in folder.rglob('*') if p.is_file()}
  assert times == after


def test_the_report_holds_the_numbers_and_needs_nothing_else(finished):
  run, _, _ = finished
  text = run.report.read_text()
  for part in ('AUC', 'strong_lira', 'control', 'data:image/png;base64,'):
    assert part in text
  assert 'http://' not in text and 'https://' not in text
  assert '<script' not in text


def test_it_grows_without_touching_what_is_there(finished, tmp_path):
  run, folder, before = finished
  import shutil

  grown = tmp_path / 'grown'
  shutil.copytree(folder, grown)
  audit.run_stages(tiny.config(num_models=10, num_samples=96), str(grown))
  after = digests(grown)
  for name in before:
    if name.endswith('.npz') or name.startswith('models-'):
      assert after[name] == before[name], name
  assert any(name.startswith('models-008-009/') for name in after)
  summary = pd.read_csv(grown / 'membership' / 'summary.csv')
  assert set(summary['num_models']) == {10}
  extraction = pd.read_csv(grown / 'extraction' / 'summary.csv')
  assert set(extraction['num_samples']) == {96, 960}


@pytest.mark.parametrize('num_models', [1, 3])
def test_few_models_and_every_other_setting(tmp_path, num_models):
  c = tiny.config(
    num_models=num_models,
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
  run = audit.run_stages(c, str(tmp_path / 'run'))
  table = runs.read_csv(run.membership_summary)
  # Too few shadows for LiRA: left out, not made up.
  assert set(table['attack']) == {'threshold', 'strong_threshold'}
  extraction = runs.read_csv(run.extraction_summary)
  rules, settings = set(table['timestep_rule']), set(extraction['setting'])
  if num_models == 1:  # no other model to choose on
    assert rules == {'fixed'} and settings == {'paper'}
  else:
    assert rules == {'fixed', 'other models'}
    assert settings == {'chosen', 'paper'}
  assert run.report.exists()


def launch(*args):
  return subprocess.run(
    [sys.executable, '-m', 'launch.audit', *args],
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=False,
  )


def test_bad_values_are_one_line_and_exit_code_2(tmp_path):
  done = launch(
    '--config=configs/digits.py',
    f'--workdir={tmp_path / "run"}',
    '--config.sample.num_steps=5000',
  )
  assert done.returncode == 2, done.stderr
  lines = [x for x in done.stderr.splitlines() if x.startswith('jaxdiff:')]
  assert len(lines) == 1 and 'sample.num_steps' in lines[0]
  assert 'Traceback' not in done.stderr
  assert not (tmp_path / 'run').exists()
