"""Short runs of the tools that try what a user could bring or break."""

import json
import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


def run(name, *args):
  done = subprocess.run(
    [sys.executable, '-m', f'tests.tools.{name}', *args],
    cwd=ROOT, capture_output=True, text=True, timeout=1500,
  )  # fmt: skip
  lines = [json.loads(x) for x in done.stdout.splitlines() if x[:1] == '{']
  assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
  return lines


def test_no_mutated_file_surprises():
  lines = run('fuzz_loaders', '--mutations=25', '--seed=7')
  assert len(lines) > 15
  for line in lines:
    bad = line['outcomes'].keys() & {'traceback', 'silent', 'memory', 'hang'}
    assert not bad, line
