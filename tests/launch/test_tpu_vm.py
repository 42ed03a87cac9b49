"""launch/tpu_vm.sh with a stand-in for gcloud: every command line it gives.

The transcripts beside this file are what it must say; no Google Cloud was at
hand. To write them anew: REWRITE=1 python -m pytest tests/launch/test_tpu_vm.py
"""

import os
import pathlib
import re
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
TRANSCRIPTS = pathlib.Path(__file__).parent / 'tpu_vm'
AUDIT = (
  'python', '-m', 'launch.audit', '--config=configs/digits.py:a b',
  '--workdir=gs://bucket/study',
)  # fmt: skip

# Writes its arguments down, and answers `describe` and the command on the hosts
# by the next line of a file each; without a line, READY and exit code 0.
GCLOUD = r"""#!/usr/bin/env bash
printf 'gcloud' >>"$LOG"; printf ' %q' "$@" >>"$LOG"; echo >>"$LOG"
next() {
  local line
  line=$(head -n 1 "$1" 2>/dev/null); sed -i 1d "$1" 2>/dev/null
  echo "${line:-$2}"
}
case "$*" in
  *describe*) state=$(next "$ANSWERS/states" READY)
    [[ $state != GONE ]] || exit 1; echo "$state";;
  *"--command cd jaxdiff; launch"*)
    for code in $(next "$ANSWERS/codes" "0 0"); do
      echo "jaxdiff exit $code"
    done
    [[ $code == 0 ]];;
  *"tpu-vm create"*) exit "$(next "$ANSWERS/creates" 0)";;
  *"--command"*|*" scp "*) exit "$(next "$ANSWERS/installs" 0)";;
esac
"""


@pytest.fixture
def cloud(tmp_path):
  """Runs the script in a copy: exit code, gcloud's lines, what was said."""
  project = tmp_path / 'project'
  (project / 'launch').mkdir(parents=True)
  shutil.copy(ROOT / 'launch' / 'tpu_vm.sh', project / 'launch')
  (tmp_path / 'bin').mkdir()
  (tmp_path / 'bin' / 'gcloud').write_text(GCLOUD)
  (tmp_path / 'bin' / 'gcloud').chmod(0o755)

  def run(*args, states=(), codes=(), installs=(), creates=(), **env):
    log = tmp_path / 'log'
    log.write_text('')
    for name, lines in (
      ('states', states), ('codes', codes), ('installs', installs),
      ('creates', creates),
    ):  # fmt: skip
      (tmp_path / name).write_text(''.join(f'{line}\n' for line in lines))
    given = {
      'TPU_NAME': 'study', 'ZONE': 'us-central2-b', 'ACCELERATOR_TYPE': 'v4-8',
      'RUNTIME_VERSION': 'tpu-ubuntu2204-base', 'RETRY_SECONDS': '0',
      'LOG': str(log), 'ANSWERS': str(tmp_path), 'HOME': str(tmp_path),
      'PATH': f'{tmp_path / "bin"}:{os.environ["PATH"]}',
    }  # fmt: skip
    done = subprocess.run(
      [str(project / 'launch' / 'tpu_vm.sh'), *args], env=given | env,
      cwd=tmp_path, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    text = re.sub(
      r'/\S*/jaxdiff-source', '/TMP/jaxdiff-source', log.read_text()
    )
    return done.returncode, text, done.stderr

  return run


def compare(name: str, text: str) -> None:
  file = TRANSCRIPTS / f'{name}.txt'
  if os.environ.get('REWRITE'):
    file.write_text(text)
  assert text == file.read_text()


@pytest.mark.parametrize(
  ('name', 'args', 'env', 'states'),
  [
    ('create', ('create',), {}, ()),
    ('create_spot', ('create',), {'SPOT': '1', 'PROJECT': 'mine'}, ()),
    ('queue', ('queue',), {'SPOT': '1'}, ('GONE', 'CREATING', 'READY')),
    ('run', ('run', *AUDIT), {}, ()),
    ('fetch', ('fetch', 'gs://bucket/study', 'here'), {}, ()),
    ('fetch_local', ('fetch', 'runs/study', 'here'), {}, ()),
    ('delete', ('delete',), {}, ()),
    ('delete_queued', ('delete',), {'QUEUE': '1'}, ('GONE',)),
  ],
)
def test_every_command_line_is_as_written_down(cloud, name, args, env, states):
  code, text, said = cloud(*args, states=states, **env)
  assert code == 0, said
  compare(name, text)


def test_a_preempted_run_is_given_again(cloud):
  """Told to leave; then the slice is gone; then done."""
  code, text, said = cloud(
    'run', *AUDIT, states=('READY', 'PREEMPTED', 'PREEMPTED'),
    codes=('75 75', '0 0'), SPOT='1',
  )  # fmt: skip
  assert code == 0
  assert 'restart 1 in 0 s (jaxdiff exit 75)' in said
  assert 'making study anew' in said
  compare('preempted', text)


def test_a_slice_that_vanished_is_queued_again(cloud):
  code, text, said = cloud(
    'run', *AUDIT, states=('GONE', 'GONE', 'GONE', 'READY'),
    codes=('0 134', '0 0'), QUEUE='1',
  )  # fmt: skip
  assert code == 0
  assert 'study waits in the queue' in said
  compare('vanished', text)


def test_bad_input_and_hopeless_cases_end_it(cloud):
  code, text, said = cloud('run', *AUDIT, codes=('2 2',))
  assert code == 2 and 'refused' in said
  assert text.count('multihost') == 1
  code, text, said = cloud('run', *AUDIT, codes=('75 1',) * 5, MAX_RESTARTS='3')
  assert code == 2 and 'gave up after 3 restarts' in said
  assert text.count('multihost') == 4
  # No room for a slice: asked again, and nothing is sent before there is one.
  gone = ('GONE',) * 4
  code, text, said = cloud('run', *AUDIT, states=gone, creates=('1', '0'))
  assert code == 0 and 'no host answered' in said
  assert text.count('tpu-vm create') == 2 and text.count(' scp ') == 1
  # An installation that fails is tried again, and nothing runs before.
  code, text, said = cloud('run', *AUDIT, installs=('1',))  # scp itself
  assert code == 0 and text.count(' scp ') == 2
  assert text.count('launch/local.sh') == 2  # installed once, run once
  code, text, said = cloud('run', *AUDIT, installs=('0', '1'))
  assert code == 0 and 'no host answered' in said
  assert text.count('scp') == 2 and text.count('multihost') == 1


@pytest.mark.parametrize(
  ('args', 'env', 'message'),
  [
    ((), {}, "no verb ''; there is create"),
    (('destroy',), {}, "no verb 'destroy'"),
    (('create',), {'TPU_NAME': ''}, 'set TPU_NAME'),
    (('create',), {'ACCELERATOR_TYPE': ''}, 'set ACCELERATOR_TYPE'),
    (('run',), {}, 'no command; try'),
    (('fetch', 'gs://bucket'), {}, 'fetch what, and where to?'),
  ],
)
def test_what_is_missing_is_said_in_one_line(cloud, args, env, message):
  code, text, said = cloud(*args, **env)
  assert code == 2 and text == ''
  assert said.startswith('launch/tpu_vm.sh: ') and message in said
  assert said.count('\n') == 1


@pytest.mark.parametrize('script', ['local.sh', 'tpu_vm.sh'])
def test_scripts_parse(script):
  subprocess.run(['bash', '-n', ROOT / 'launch' / script], check=True)
