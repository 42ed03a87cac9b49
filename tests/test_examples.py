"""Every script of docs/examples/ does what its head says."""

import os
import pathlib
import subprocess
import sys

import numpy as np
from PIL import Image
import pytest

from jaxdiff.data import datasets

pytestmark = pytest.mark.slow

EXAMPLES = pathlib.Path(__file__).parents[1] / 'docs' / 'examples'


def run(name, *args):
  done = subprocess.run(
    [sys.executable, EXAMPLES / f'{name}.py', *map(str, args)],
    cwd=EXAMPLES.parents[1], capture_output=True, text=True, check=False,
    env=os.environ | {'PYTHONPATH': str(EXAMPLES.parents[1])},
  )  # fmt: skip
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_every_example_is_run_here():
  names = {path.stem for path in EXAMPLES.glob('*.py')}
  assert names == {'lira', 'two_folders', 'ensemble'}


def test_lira(tmp_path):
  rng = np.random.default_rng(0)
  keep = rng.random((8, 200)) < 0.5
  # Examples are easy or hard for all models: what LiRA sees through.
  losses = rng.normal(size=keep.shape) - 3.0 * keep + 3.0 * rng.normal(size=200)
  np.savez(tmp_path / 'losses.npz', losses=losses, keep=keep)
  said = run('lira', tmp_path / 'losses.npz')
  assert 'LiRA, auc: 0.9' in said and 'RMIA, tpr@fpr=0.05' in said


def test_two_folders(tmp_path):
  images = datasets.digits().images
  parts = {
    'generated': images[:20], 'training': images[:60],
    'control': images[60:120],
  }  # fmt: skip
  for name, part in parts.items():
    (tmp_path / name).mkdir()
    for number, image in enumerate(part):
      Image.fromarray(image[..., 0]).save(tmp_path / name / f'{number:03d}.png')
  said = run('two_folders', *(tmp_path / name for name in parts))
  assert said.startswith('20 training images and 0 of the control are hit')


def test_ensemble(tmp_path):
  said = run('ensemble', tmp_path / 'run')
  assert (
    'strong_threshold' in said and (tmp_path / 'run' / 'report.html').exists()
  )
