"""launch.dedup as a user starts it: what it prints, and refuses in a line."""

import pathlib
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def started(*flags):
  return subprocess.run(
    [sys.executable, '-m', 'launch.dedup', *flags],
    cwd=ROOT, capture_output=True, text=True, check=False,
  )  # fmt: skip


def test_from_images_to_what_stays(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (30, 8, 8, 1)).astype(np.uint8)
  np.savez(tmp_path / 'x.npz', images=np.concatenate([images, images[:4]]))
  flags = [f'--images={tmp_path / "x.npz"}', f'--out={tmp_path / "out"}']
  dry = started(*flags, '--dry_run')
  assert dry.returncode == 0 and 'v5e-256: ' in dry.stdout
  assert not (tmp_path / 'out').exists()
  done = started(*flags)
  assert done.returncode == 0, done.stderr
  assert '30 of 34 images stay' in done.stdout
  assert len((tmp_path / 'out' / 'kept.txt').read_text().split()) == 30
  assert 'data:image/png' in (tmp_path / 'out' / 'dedup.html').read_text()


@pytest.mark.parametrize(
  ('flags', 'said'),
  [
    (['--images=nowhere'], '--images: no file or folder'),
    (['--keep=order'], '--keep=order: name the file'),
    (['--order=x.txt'], '--order: goes with --keep=order'),
    (['--keep=order', '--order=nowhere.txt'], 'nowhere.txt'),
    (['--against=nowhere'], '--against: no file or folder'),
    (['--pdq=31', '--threshold=0.1'], '--threshold: is about pixels'),
    (['--pdq=31'], '--pdq: images of --images have 8 pixels'),
    (['--pdq=65'], 'in the range [0, 64]'),
    (['--shift=7'], '--shift: 7 leaves nothing'),
    (['--threshold=2'], 'threshold'),
  ],
)
def test_bad_input_is_one_line(tmp_path, flags, said):
  np.savez(tmp_path / 'x.npz', images=np.zeros((4, 8, 8, 1), np.uint8))
  given = [f'--images={tmp_path / "x.npz"}', f'--out={tmp_path / "out"}']
  done = started(*given, *flags)
  assert done.returncode != 0 and said in done.stderr
  assert 'Traceback' not in done.stderr
