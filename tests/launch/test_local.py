"""launch/local.sh with stand-ins for Python: what it says and when it acts."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]

# Stands in for python3: has a version, makes an environment whose pip counts
# its calls and fails on demand.
PYTHON = """#!/usr/bin/env bash
case "$*" in
  *version_info*) exit {too_old};;
  --version) echo "Python 3.{minor}.1";;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python";;
  "-m pip "*) echo "$*" >>"{log}"; exit {pip_fails};;
  *) echo "ran: $*";;
esac
"""


@pytest.fixture
def project(tmp_path):
  """A copy of what local.sh needs, in a folder with a space in its name."""
  folder = tmp_path / 'my project'
  (folder / 'launch').mkdir(parents=True)
  for name in ('launch/local.sh', 'launch/constraints.txt', 'pyproject.toml'):
    shutil.copy(ROOT / name, folder / name)
  return folder


def run(project, *command, extras='', too_old=0, minor=12, pip_fails=0):
  python = project / 'python-stand-in'
  log = project / 'pip.log'
  text = PYTHON.format(
    too_old=too_old, minor=minor, pip_fails=pip_fails, log=log
  )
  for path in (python, project / '.venv' / 'bin' / 'python'):
    if path.parent.exists():
      path.write_text(text)
      path.chmod(0o755)
  done = subprocess.run(
    ['bash', str(project / 'launch' / 'local.sh'), *command],
    env={
      'PATH': '/usr/bin:/bin',
      'PYTHON': str(python),
      'JAXDIFF_EXTRAS': extras,
    },
    capture_output=True,
    text=True,
    check=False,
  )
  calls = log.read_text().splitlines() if log.exists() else []
  return done, calls


def test_installs_once_then_only_runs(project):
  done, calls = run(project, 'python', '-m', 'launch.audit')
  assert done.returncode == 0, done.stderr
  assert done.stdout == 'ran: -m launch.audit\n'
  assert len(calls) == 1 and '[test]' in calls[0]
  assert '--constraint' in calls[0]
  done, calls = run(project, 'python', 'x')
  assert len(calls) == 1 and done.stderr == ''


def test_extras_add_up_and_changes_install_again(project):
  run(project, 'true')
  _, calls = run(project, 'true', extras='bench')
  assert len(calls) == 2 and '[bench,test]' in calls[1]
  _, calls = run(project, 'true')
  assert len(calls) == 2
  with (project / 'launch' / 'constraints.txt').open('a') as file:
    file.write('# newer\n')
  _, calls = run(project, 'true')
  assert len(calls) == 3 and '[bench,test]' in calls[2]


def one_line(done):
  """The complaint: the last line, after what is being done was said."""
  assert done.returncode == 2
  line = done.stderr.splitlines()[-1]
  assert line.startswith('launch/local.sh: ')
  return line


def test_python_too_old_is_one_line(project):
  done, _ = run(project, 'true', too_old=1, minor=9)
  line = one_line(done)
  assert 'Python 3.9.1 is too old' in line and 'PYTHON=' in line
  assert not (project / '.venv').exists()


def test_no_network_is_one_line_and_tried_again(project):
  done, _ = run(project, 'true', pip_fails=1)
  assert 'no network' in one_line(done)
  done, calls = run(project, 'true')
  assert done.returncode == 0 and len(calls) == 2


def test_no_python_and_no_command_are_one_line(project):
  done = subprocess.run(
    ['bash', str(project / 'launch' / 'local.sh'), 'true'],
    env={'PATH': '/usr/bin:/bin', 'PYTHON': 'python-that-is-not-there'},
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert 'python-that-is-not-there not found' in one_line(done)
  done, _ = run(project)
  assert 'no command' in one_line(done)
