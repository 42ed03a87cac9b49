"""launch.compare and launch.onset as users start them: refusals, in a line."""

import pathlib
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--run=a=nowhere'], 'name two runs at least'),
    (['--run=a=x', '--run=a=y'], 'two are called a'),
    (['--run=nowhere'], 'NAME=FOLDER'),
    (['--run=_a=nowhere'], 'NAME=FOLDER'),
    (['--run=a=nowhere', '--run=b=nowhere'], 'no finished audit'),
    ([], '--run'),
  ],
)
def test_bad_input_is_one_line(tmp_path, flags, said):
  done = subprocess.run(
    [sys.executable, '-m', 'launch.compare', f'--out={tmp_path / "out"}']
    + flags,
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode != 0 and said in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--run=a=nowhere'], 'name two runs at least'),
    (['--run=x=a', '--run=x=b'], 'two are called x'),
    (['--run=nowhere'], 'NAME=FOLDER'),
    (['--run=x=a', '--run=y=b'], 'has no steps.csv'),
    (
      ['--run=x=a', '--run=y=b', '--level=2'],
      'in the range [0.0, 1.0]',
    ),
    ([], '--run'),
  ],
)
def test_sizes_that_cannot_be_compared(tmp_path, flags, said):
  done = subprocess.run(
    [sys.executable, '-m', 'launch.onset', f'--out={tmp_path / "out"}', *flags],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.returncode != 0 and said in done.stderr
  assert 'Traceback' not in done.stderr
