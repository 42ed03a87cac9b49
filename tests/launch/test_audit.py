"""launch.audit of a config whose sweep is the point of it."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = """
from tests import tiny

AUDIT_ALL = {all}


def get_config(arg=None):
  return tiny.config()


def sweep(arg=None):
  return [
    {{'knob': 'steps', 'value': '20', 'run': 'base', 'overrides': {{}}}},
    {{'knob': 'steps', 'value': '30', 'run': 'more',
     'overrides': {{'train.num_steps': 30}}}},
  ]
"""


def started(tmp_path, whole, *flags):
  path = tmp_path / 'points.py'
  path.write_text(CONFIG.format(all=whole))
  return subprocess.run(
    [sys.executable, '-m', 'launch.audit', f'--config={path}',
     f'--workdir={tmp_path / "out"}', *flags],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip


@pytest.mark.parametrize(('whole', 'steps'), [(True, [20, 30]), (False, [20])])
def test_all_points_where_the_config_says_so(tmp_path, whole, steps):
  done = started(tmp_path, whole, '--dry_run')
  assert done.returncode == 0, done.stderr
  said = [line for line in done.stdout.splitlines() if ' parameters, ' in line]
  for count, line in zip(steps, said, strict=True):
    assert f', {count} steps' in line


@pytest.mark.parametrize(
  ('whole', 'flag', 'said'),
  [
    (True, '--fail_if=membership.auc > 0.5', 'has one a point'),
    (False, '--shard=0/2', '--shard: this config is one run'),
  ],
)
def test_flags_that_the_config_has_no_use_for(tmp_path, whole, flag, said):
  done = started(tmp_path, whole, flag)
  assert done.returncode == 2 and said in done.stderr
  assert not (tmp_path / 'out').exists()
