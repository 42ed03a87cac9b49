"""The wheel alone, outside any checkout: `jaxdiff audit` ends with a report."""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig

import numpy as np
from PIL import Image
import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope='module')
def python(tmp_path_factory):
  """An environment with the wheel and what it depends on, and no project."""
  folder = tmp_path_factory.mktemp('wheel')
  source = folder / 'source'
  # A build leaves files beside its source.
  for name in ('jaxdiff', 'launch', 'configs'):
    ignored = shutil.ignore_patterns('__pycache__')
    shutil.copytree(ROOT / name, source / name, ignore=ignored)
  for name in ('pyproject.toml', 'setup.py', 'README.md', 'LICENSE'):
    shutil.copy(ROOT / name, source / name)
  pip = [sys.executable, '-m', 'pip', '--quiet', '--disable-pip-version-check']
  subprocess.run(
    [*pip, 'wheel', '--no-deps', '--no-build-isolation', '-w', folder, source],
    check=True,
  )
  (wheel,) = folder.glob('jaxdiff-*.whl')
  venv = folder / 'venv'
  subprocess.run(
    [sys.executable, '-m', 'venv', '--without-pip', venv], check=True
  )
  # Dependencies come from here; what .pth files there lead to, does not.
  (site,) = venv.glob('lib/python*/site-packages')
  (site / 'dependencies.pth').write_text(sysconfig.get_path('purelib') + '\n')
  subprocess.run(
    [*pip, '--python', venv / 'bin' / 'python', 'install', '--no-deps', wheel],
    check=True,
  )
  return venv / 'bin' / 'python'


def run(python, folder, *args):
  env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
  return subprocess.run(
    [python.parent / 'jaxdiff', *args],
    cwd=folder, env=env, capture_output=True, text=True, check=False,
  )  # fmt: skip


# So that the page takes seconds: of every config, and of what is run.
NET = {
  'model.block_out_channels': '(4,)',
  'model.down_block_types': "('DownBlock2D',)",
  'model.up_block_types': "('UpBlock2D',)", 'model.norm_num_groups': 2,
  'model.attention_head_dim': 4,
}  # fmt: skip
TINY = NET | {
  'num_samples': 16, 'data.num_examples': 32, 'train.num_steps': 4,
  'train.batch_size': 8, 'train.warmup_steps': 1, 'train.log_every': 2,
  'train.checkpoint_every': 2, 'sample.num_steps': 2,
  'sample.batch_size': 16, 'sample.block_size': 16,
  'signals.timesteps': '(50, 100)', 'signals.draws': 1,
  'membership.num_resamples': 40,
}  # fmt: skip


def test_the_wheel_alone_does_what_the_page_of_a_first_study_says(
  python, tmp_path
):
  text = (ROOT / 'docs' / 'first_study.md').read_text()
  lines = re.findall(r'^jaxdiff .*', text, re.MULTILINE)
  assert len(lines) == 5
  (tmp_path / 'train').mkdir()
  rng = np.random.default_rng(0)
  for number in range(80):
    pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / 'train' / f'{number}.png')
  for line in lines:
    program, *words = shlex.split(line.replace('num_models=10', 'num_models=3'))
    assert program == 'jaxdiff'
    if '--config=digits' in words:
      if 'num_models' not in line:
        words.append('--config.num_models=2')
      words += [f'--config.{key}={value}' for key, value in TINY.items()]
    else:
      words += [f'--config.{key}={value}' for key, value in NET.items()]
    done = run(python, tmp_path, *words)
    assert done.returncode == 0, (line, done.stderr)
    assert ('chip-hours' in done.stdout) == ('--dry_run' in line)
  report = (tmp_path / 'runs' / 'first' / 'report.html').read_text()
  assert '</html>' in report
  assert {x.name for x in (tmp_path / 'runs').iterdir()} == {'first', 'model-0'}
  assert (tmp_path / 'runs' / 'model-0' / 'model_index.json').exists()


def test_what_is_wrong_is_one_line(python, tmp_path):
  for args, said in (
    (['audti'], "no verb 'audti'; did you mean audit?"),
    (['audit', '--config=digit', '--workdir=x'], 'did you mean digits?'),
    (
      ['audit', '--config', 'digits:sweet', '--workdir=x'],
      "'sweet' is unknown",
    ),
    (['train', '--config=mine.py', '--workdir=x'], "no file 'mine.py'"),
  ):
    done = run(python, tmp_path, *args)
    assert done.returncode == 2 and said in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1
  assert not list(tmp_path.iterdir())


def test_it_says_what_there_is(python, tmp_path):
  done = run(python, tmp_path, '--help')
  assert done.returncode == 0
  for name in ('audit', 'attack_checkpoints', 'digits', 'cifar10_shadow'):
    assert name in done.stdout
  assert 'flag_errors' not in done.stdout
  version = run(python, tmp_path, '--version').stdout
  assert version.strip() in (ROOT / 'pyproject.toml').read_text()
