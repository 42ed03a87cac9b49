"""Checkpoints: damage is seen, and the one before is used."""

import pathlib
import re
import subprocess
import sys

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import optax
from orbax.checkpoint import type_handlers
import pytest

from jaxdiff import inputs
from jaxdiff.runs import checkpoints
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import train_state


def state(value):
  mesh = mesh_lib.make(4)
  tree = {'w': np.full((4, 256), value, np.float32), 'n': np.arange(4)}
  return mesh_lib.put(mesh, tree, mesh_lib.PER_MODEL)


@pytest.fixture
def saved(tmp_path):
  out = checkpoints.Checkpoints(epath.Path(tmp_path / 'checkpoints'))
  for step in (10, 20):
    out.save(step, state(step))
  yield out, tmp_path / 'checkpoints'
  out.close()


def data_files(folder):
  return sorted(
    (path for path in folder.rglob('*') if path.is_file()),
    key=lambda path: path.stat().st_size,
  )


def test_comes_back_equal_in_the_sharding_asked_for(saved):
  out, _ = saved
  assert out.newest_whole() == 20
  two = mesh_lib.make(4, jax.devices()[:2])
  like = mesh_lib.put(
    two, {'w': jnp.zeros((4, 256)), 'n': jnp.zeros(4, int)},
    mesh_lib.PER_MODEL,
  )  # fmt: skip
  got = out.restore(20, like)
  np.testing.assert_array_equal(got['w'], np.full((4, 256), 20.0))
  assert got['w'].sharding == like['w'].sharding


def test_some_fields_are_read_and_no_others(tmp_path, monkeypatch, caplog):
  def state(ema):
    made = train_state.create(
      {'a': {'w': jnp.full((4, 3), 1.0)}}, optax.adam(0.1)
    )
    return made._replace(ema_params={'a': {'w': jnp.full((4, 3), ema)}})

  out = checkpoints.Checkpoints(tmp_path / 'of')
  out.save(1, state(2.0))
  out.save(2, state(3.0))
  two = mesh_lib.make(4, jax.devices()[:2])
  like = mesh_lib.put(two, state(0.0).ema_params, mesh_lib.PER_MODEL)
  read = []
  deserialize = type_handlers.ArrayHandler.deserialize

  def counted(self, infos, args=None):
    read.extend(info.name for info in infos)
    return deserialize(self, infos, args)

  monkeypatch.setattr(type_handlers.ArrayHandler, 'deserialize', counted)
  caplog.clear()
  got = out.restore_fields(2, {'ema_params': like})
  assert not [r for r in caplog.records if r.levelname == 'WARNING']
  assert read == ['ema_params.a.w']
  for other in ({'a': {}}, {'a': like['a'] | {'b': like['a']['w']}}):
    with pytest.raises(inputs.InputError, match='no ema_params/a/[wb]$'):
      out.restore_fields(2, {'ema_params': other})
  out.close()
  assert got.keys() == {'ema_params'}
  found = got['ema_params']['a']['w']
  np.testing.assert_array_equal(found, np.full((4, 3), 3.0))
  assert found.sharding == like['a']['w'].sharding


def flip_a_bit(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 1
  path.write_bytes(bytes(data))


def truncate(path):
  path.write_bytes(path.read_bytes()[:-5])


def remove(path):
  path.unlink()


@pytest.mark.parametrize('damage', [flip_a_bit, truncate, remove])
def test_damage_falls_back_to_the_one_before(saved, damage, caplog):
  out, folder = saved
  damage(data_files(folder / '20')[-1])
  with caplog.at_level('WARNING'):
    assert out.newest_whole() == 10
  assert 'step 20 is damaged' in caplog.text
  np.testing.assert_array_equal(
    out.restore(10, state(0))['w'], np.full((4, 256), 10.0)
  )
  # ... and training writes the damaged step anew.
  out.save(20, state(21))
  assert out.newest_whole() == 20


def test_a_step_without_manifest_was_never_finished(saved, caplog):
  out, folder = saved
  (folder / 'manifest-20.json').unlink()
  with caplog.at_level('WARNING'):
    assert out.newest_whole() == 10
  assert 'never finished' in caplog.text


def test_only_the_newest_are_kept_with_their_manifests(tmp_path):
  folder = tmp_path / 'checkpoints'
  out = checkpoints.Checkpoints(epath.Path(folder), max_to_keep=2)
  for step in (1, 2, 3):
    out.save(step, state(step))
  out.close()
  names = {path.name for path in folder.iterdir()}
  assert {'2', '3', 'manifest-2.json', 'manifest-3.json'} <= names
  assert not {'1', 'manifest-1.json'} & names


FULL = """
import resource, sys
from absl import logging
from etils import epath
import numpy as np
from jaxdiff.runs import checkpoints
from jaxdiff.runtime import progress
logging.use_absl_handler()
logging.get_absl_handler().addFilter(progress.ours)
logging.get_absl_handler().setFormatter(progress.Lines())
path = epath.Path(sys.argv[1])
with progress.log_to(path / 'logs', 0):
  made = checkpoints.Checkpoints(path / 'checkpoints')
  rng = np.random.default_rng(0)
  state = {str(i): rng.normal(size=(200, 200)) for i in range(8)}
  # kB that a file may have: as a full disk.
  resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
  try:
    made.save(1, state)
  except OSError as error:
    print('refused', error)
"""


def test_what_cannot_be_written_is_said_without_tracebacks(tmp_path):
  done = subprocess.run(
    [sys.executable, '-c', FULL, tmp_path],
    cwd=pathlib.Path(__file__).parents[2],
    capture_output=True, text=True, check=False,
  )  # fmt: skip
  assert done.stdout.startswith('refused') and done.returncode == 0
  assert 'Traceback' not in done.stderr
  for line in done.stderr.splitlines():
    assert re.match(r'[WE]\d{4} |WARNING: Logging before', line), line
