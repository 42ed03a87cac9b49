"""Runs that are killed, stopped, damaged, or out of disk go on to the same."""

import json
import pathlib
import subprocess
import sys

import pytest

from tests import tiny
from tests.tools import kill_and_resume

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


@pytest.mark.parametrize(
  ('count', 'stages', 'further', 'least'),
  [(1, ['sample'], [], 15), (2, ['train'], ['--verbs', 'train'], 4)],
)
def test_killed_and_run_again(
  monkeypatch, capsys, count, stages, further, least
):
  # Every stage, and a full disk: python -m tests.tools.kill_and_resume --tmpfs;
  # every attack: --config=paper.
  for name in ('TINY', 'VERBS'):
    monkeypatch.setenv(name, '')  # which the tool sets
  arguments = ['--runs=1', '--seed=7', '--config=least']
  arguments += [f'--processes={count}', '--stages', *stages, *further]
  assert kill_and_resume.main(arguments) == 0
  line = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert (
    line['compared'] >= least and line['different'] == line['leftover'] == []
  )
  assert list(line['killed_after_s']) == stages
  assert (line['told_after_s'] is not None) == ('train' in stages)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path):
  folder = tmp_path / 'run'
  overrides = [
    f'--config.{key}={value}'
    for key, value in {
      'num_models': 2,
      'num_samples': 512,
      'data.num_examples': 64,
      'model.block_out_channels': '(8, 8)',
      'model.layers_per_block': 1,
      'model.norm_num_groups': 4,
      'train.num_steps': 2,
      'train.log_every': 1,
      'train.checkpoint_every': 1,
      'sample.num_steps': 2,
      'sample.batch_size': 512,
      'sample.block_size': 512,
    }.items()
  ]

  def launch(stage, limit='unlimited'):
    # With a limit in kB on every file, writes fail half-way, as on a full
    # disk.
    command = [
      sys.executable, '-m', f'launch.{stage}', f'--workdir={folder}',
      '--config=configs/digits.py', *overrides,
    ]  # fmt: skip
    return subprocess.run(
      ['bash', '-c', f'ulimit -f {limit}; exec "$@"', 'bash', *command],
      cwd=ROOT,
      capture_output=True,
      text=True,
      check=False,
    )

  assert launch('train').returncode == 0
  before = tiny.digests(folder)
  full = launch('sample', limit=30)
  assert full.returncode == 2, full.stderr
  lines = [x for x in full.stderr.splitlines() if x.startswith('jaxdiff:')]
  assert len(lines) == 1 and 'same command again' in lines[0]
  assert 'Traceback' not in full.stderr
  after = tiny.digests(folder)
  assert {name: after[name] for name in before} == before
  samples = folder / 'samples'
  assert not [*folder.rglob('*.tmp'), *samples.rglob('*.npz')]
  assert launch('sample').returncode == 0
  assert len(list(samples.rglob('*.npz'))) == 2
