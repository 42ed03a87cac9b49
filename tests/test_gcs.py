"""A run in gs:// is the run in a folder (against a fake of the service)."""

from etils import epath
import pytest

from jaxdiff import inputs
from jaxdiff.pipeline import stages
from jaxdiff.runtime import preemption
from tests import fake_gcs, tiny

pytestmark = pytest.mark.slow


def tables_and_blocks(folder):
  """Bytes of every table and block of evidence, by name."""
  out, pending = {}, [folder]
  while pending:
    for child in pending.pop().iterdir():
      if child.is_dir():
        pending.append(child)
      elif child.suffix in ('.csv', '.npz', '.npy'):
        name = str(child).removeprefix(str(folder))
        out[name] = child.read_bytes()
  return out


def test_a_bucket_holds_what_a_folder_does(tmp_path, monkeypatch):
  config = tiny.least(num_samples=32, train__models_per_block=2)
  stages.run_stages(config, str(tmp_path / 'run'))
  want = tables_and_blocks(epath.Path(tmp_path / 'run'))
  assert len(want) > 15
  with fake_gcs.serve() as env:
    for name, value in env.items():
      monkeypatch.setenv(name, value)
    # Told to leave at once, and then the only checkpoint is damaged.
    monkeypatch.setattr(preemption, 'leave_if_asked', lambda: None)
    monkeypatch.setattr(preemption, 'asked', lambda: True)
    with pytest.raises(preemption.Preempted):
      stages.run_stages(config, 'gs://bucket/run')
    monkeypatch.undo()
    for name, value in env.items():
      monkeypatch.setenv(name, value)
    saved = [name for name in fake_gcs.STORE if '/checkpoints/1/' in name]
    assert saved
    largest = max(saved, key=lambda name: len(fake_gcs.STORE[name][1]))
    data = bytearray(fake_gcs.STORE[largest][1])
    data[len(data) // 2] ^= 1
    fake_gcs.put(largest, bytes(data))
    stages.run_stages(config, 'gs://bucket/run')
    got = tables_and_blocks(epath.Path('gs://bucket/run'))
    assert set(got) == set(want)
    assert not [name for name in want if got[name] != want[name]]
    before = dict(fake_gcs.STORE)
    stages.run_stages(config, 'gs://bucket/run')
    assert before == fake_gcs.STORE
    with pytest.raises(inputs.InputError, match='another config'):
      stages.run_stages(tiny.least(), 'gs://bucket/run')
