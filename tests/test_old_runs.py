"""A run folder made before subjects, stages and `side` is read and finished.

tests/goldens/before_the_move.tar.xz is what commit 2b292bd left of

    tiny.paper(**SETTINGS)

stages train, sample and attack, without checkpoints, logs and pictures.
"""

import shutil
import tarfile

import numpy as np
import pandas as pd
import pytest

from jaxdiff.attacks.canaries import exposure
from jaxdiff.pipeline import stages
from tests import processes, tiny

pytestmark = pytest.mark.slow

GOLDEN = processes.ROOT / 'tests' / 'goldens' / 'before_the_move.tar.xz'
SETTINGS = {
  'signals__kinds': ('loss', 'secmi'), 'num_models': 6,
  'data__num_examples': 48, 'train__num_steps': 10,
  'train__checkpoint_every': 5, 'signals__block_size': 32,
  'membership__num_resamples': 40, **tiny.TWO_LEVELS,
}  # fmt: skip
# Tables of attacks; what else ends so is evidence, or was there before them.
FOLDERS = ('membership', 'extraction', 'inpainting', 'guidance', 'canaries')


@pytest.fixture(scope='module')
def before(tmp_path_factory):
  folder = tmp_path_factory.mktemp('before')
  with tarfile.open(GOLDEN) as archive:
    archive.extractall(folder, filter='data')
  return folder / 'before_the_move'


def tables(folder):
  found = [
    path
    for name in FOLDERS
    for path in (folder / name).glob('*.csv')
    if path != folder / 'canaries' / 'metrics.csv'
  ]
  return [*found, folder / 'quality.csv', folder / 'tables.json']


def test_it_is_reported_as_it_is(before, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(before, folder)
  digests = tiny.digests(folder)
  run = stages.run_stages(tiny.paper(**SETTINGS), str(folder), ['report'])
  text = run.report.read_text()
  for name in ('inpainting', 'side', 'canaries', 'membership', 'extraction'):
    assert f'id="{name}"' in text
  after = tiny.digests(folder)
  changed = {name for name in digests if digests[name] != after[name]}
  assert changed <= {'provenance.json'}  # another commit, other hardware


def test_its_tables_are_made_again_from_its_evidence(before, tmp_path):
  folder = tmp_path / 'run'
  shutil.copytree(before, folder)
  for path in tables(folder):
    path.unlink()
  evidence = tiny.digests(folder)
  plans, run = stages.opened(tiny.paper(**SETTINGS), str(folder))
  for stage in plans.stages:
    if stage.name == 'canaries':
      # Its models were left out with the checkpoints; what they said was not.
      exposure.analyse(stage.plan.exposure, run)
    elif stage.verb == 'attack':
      stage.run(run)
  after = tiny.digests(folder)
  changed = {name for name in evidence if evidence[name] != after[name]}
  # Evidence is of this run, and no block of it is made again.
  assert changed <= {'inpainting/examples.npz'}
  for path in tables(before):
    if path.suffix != '.csv':
      continue
    want = pd.read_csv(path)
    got = pd.read_csv(folder / path.relative_to(before))
    assert list(got.columns) == list(want.columns) and len(got) == len(want)
    for column in want:
      # The same bytes on one machine with as many devices (two, there); LiRA
      # rounds otherwise on four.
      if pd.api.types.is_float_dtype(want[column]):
        np.testing.assert_allclose(
          got[column], want[column], rtol=5e-4, atol=1e-4,
          err_msg=f'{path.name} {column}',
        )  # fmt: skip
      else:
        assert got[column].equals(want[column]), (path.name, column)
