"""The run folder: one config, whole files, torn ones seen."""

import json

from etils import epath
import numpy as np
import pandas as pd
import pytest

from jaxdiff import inputs
from jaxdiff.runs import files, layout, opening

CONFIG = {'seed': 0, 'num_models': 4, 'num_samples': 8, 'train': {'lr': 0.1}}


def test_a_folder_keeps_its_config(tmp_path):
  folder = str(tmp_path / 'run')
  run = opening.open_run(folder, CONFIG)
  before = run.config.read_bytes()
  opening.open_run(folder, CONFIG)
  assert run.config.read_bytes() == before
  changed = {**CONFIG, 'train': {'lr': 0.2}}
  with pytest.raises(
    inputs.InputError, match=r'train.lr is 0.1 there, 0.2 now'
  ):
    opening.open_run(folder, changed)
  assert run.config.read_bytes() == before


def test_models_and_samples_may_grow_and_never_shrink(tmp_path):
  folder = str(tmp_path)
  opening.open_run(folder, CONFIG)
  grown = {**CONFIG, 'num_models': 6, 'num_samples': 16}
  may_grow = {'num_models', 'num_samples'}
  with pytest.raises(inputs.InputError, match='num_samples is 8 there, 16 now'):
    opening.open_run(folder, grown, {'num_models'})
  opening.open_run(folder, grown, may_grow)
  with pytest.raises(inputs.InputError, match='may only grow'):
    opening.open_run(folder, CONFIG, may_grow)


def test_a_folder_of_something_else_is_left_alone(tmp_path):
  (tmp_path / 'thesis.txt').write_text('mine')
  with pytest.raises(inputs.InputError, match='no run'):
    opening.open_run(str(tmp_path), CONFIG)
  assert [p.name for p in tmp_path.iterdir()] == ['thesis.txt']


def test_a_path_through_a_file_is_bad_input(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(inputs.InputError, match='workdir'):
    opening.open_run(str(tmp_path / 'file' / 'run'), CONFIG)


def test_a_run_killed_at_its_first_write_begins_again(tmp_path):
  left = tmp_path / f'.config.json.{"0" * 16}.tmp'
  left.write_text('{"se')
  run = opening.open_run(str(tmp_path), CONFIG)
  files.remove_leftovers(run.path)
  assert [p.name for p in tmp_path.iterdir()] == ['config.json']
  run.config.write_text('{"se')
  with pytest.raises(inputs.InputError, match='damaged'):
    opening.open_run(str(tmp_path), CONFIG)


def test_a_config_of_functions_is_refused(tmp_path):
  with pytest.raises(inputs.InputError, match='plain value'):
    opening.open_run(str(tmp_path), {'seed': lambda: 0})


def test_what_changes_no_result_is_free(tmp_path):
  run = opening.open_run(str(tmp_path), CONFIG | {'place': {'shards': 0}})
  changed = CONFIG | {'place': {'shards': 2}}
  with pytest.raises(inputs.InputError, match='place.shards is 0 there'):
    opening.open_run(str(tmp_path), changed)
  opening.open_run(str(tmp_path), changed, free=('place.shards',))
  assert json.loads(run.config.read_text()) == changed


def test_a_relative_folder_becomes_absolute(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  run = opening.open_run('runs/mine', CONFIG)
  assert run.path == epath.Path(tmp_path / 'runs' / 'mine')
  assert run.config.exists()


def test_writes_replace_and_leave_nothing_behind(tmp_path):
  path = epath.Path(tmp_path / 'a' / 'b.csv')
  for value in (1, 2):
    files.write_csv(path, pd.DataFrame({'x': [value]}))
  assert files.read_csv(path)['x'].tolist() == [2]
  assert [p.name for p in path.parent.iterdir()] == ['b.csv']


def test_a_failed_write_leaves_the_old_file(tmp_path):
  path = epath.Path(tmp_path / 'x.npz')
  files.write_npz(path, a=np.arange(3))
  before = path.read_bytes()
  with pytest.raises(TypeError):
    files.write(path, 'not bytes')
  assert path.read_bytes() == before
  assert [p.name for p in path.parent.iterdir()] == ['x.npz']


@pytest.mark.parametrize('cut', [0, 10, 200, -1])
def test_torn_blocks_read_as_absent(tmp_path, cut):
  path = epath.Path(tmp_path / 'x.npz')
  assert files.read_npz(path) is None
  files.write_npz(path, a=np.arange(100), b=np.ones(3))
  np.testing.assert_array_equal(files.read_npz(path)['a'], np.arange(100))
  path.write_bytes(path.read_bytes()[:cut])
  assert files.read_npz(path) is None


def test_a_flipped_bit_reads_as_absent(tmp_path):
  path = epath.Path(tmp_path / 'x.npz')
  files.write_npz(path, a=np.arange(100))
  data = bytearray(path.read_bytes())
  data[400] ^= 1
  path.write_bytes(bytes(data))
  assert files.read_npz(path) is None


def test_no_flipped_bit_passes(tmp_path):
  path = epath.Path(tmp_path / 'x.npz')
  files.write_npz(path, a=np.arange(9))
  whole = path.read_bytes()
  for place in range(len(whole)):
    for bit in (0, 5):
      data = bytearray(whole)
      data[place] ^= 1 << bit
      path.write_bytes(bytes(data))
      block = files.read_npz(path, 'a')
      if block is not None:  # a bit that means nothing, as a date's
        np.testing.assert_array_equal(block['a'], np.arange(9))


def test_object_arrays_are_never_unpickled(tmp_path):
  path = tmp_path / 'x.npz'
  np.savez(path, a=np.array([{'a': 1}], dtype=object))
  assert files.read_npz(epath.Path(path)) is None


def test_blocks_of_models_stay_as_they_were_made(tmp_path):
  run = layout.Run(epath.Path(tmp_path))
  spans = lambda blocks: [(b.first, b.last) for b in blocks]
  first = run.model_blocks(6, 4)
  assert spans(first) == [(0, 3), (4, 5)]
  for block in first:
    block.path.mkdir(parents=True)
  assert spans(run.model_blocks(12, 4)) == [(0, 3), (4, 5), (6, 9), (10, 11)]


def test_blocks_are_equal_for_equal_content(tmp_path):
  one, two = epath.Path(tmp_path / '1.npz'), epath.Path(tmp_path / '2.npz')
  for path in (one, two):
    files.write_npz(path, a=np.arange(5))
  assert one.read_bytes() == two.read_bytes()


def test_unknown_file_is_an_attribute_error(tmp_path):
  with pytest.raises(AttributeError):
    _ = layout.Run(epath.Path(tmp_path)).nothing
