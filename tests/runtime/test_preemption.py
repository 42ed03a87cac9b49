"""Told to leave: saved, left with 75, and gone on from to the same bits."""

import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pytest

from jaxdiff.runs import layout
from jaxdiff.runtime import mesh, preemption
from jaxdiff.training import block_states, loop, profiling
from tests import tiny

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[2]


def test_training_goes_on_to_the_same_bits(tmp_path, monkeypatch):
  plan = tiny.plans(num_models=2, train__models_per_block=2).subject.train
  folders = [layout.Run(epath.Path(tmp_path / name)) for name in ('one', 'two')]
  # A process of each would compile its own.
  step_fns = loop.StepFns(plan)
  monkeypatch.setattr(loop, 'StepFns', lambda plan: step_fns)
  loop.fit(plan, folders[0])

  step = 0
  call = profiling.Program.__call__

  def counted(*args):
    nonlocal step
    out = call(*args)
    step = int(np.asarray(out[0].step).max())
    return out

  monkeypatch.setattr(profiling.Program, '__call__', counted)
  # Before any log, at a checkpoint, between logs.
  for stop in (3, 10, 13):
    monkeypatch.setattr(preemption, 'asked', lambda stop=stop: step >= stop)
    with pytest.raises(preemption.Preempted, match='run the same command'):
      loop.fit(plan, folders[1])
    assert step == stop
    (block,) = plan.ensemble.blocks(folders[1])
    assert block_states.whole_steps(plan, block)[-1] == stop
  monkeypatch.setattr(preemption, 'asked', lambda: False)
  loop.fit(plan, folders[1])
  one, two = (run.metrics.read_bytes() for run in folders)
  assert one == two
  # Figures not yet averaged stay as long as the checkpoint that they belong to:
  # of 13, to which training goes back when a later one is damaged.
  (left,) = (tmp_path / 'two').rglob('metrics/*.npz')
  assert left.stem == '00000013'
  shutil.rmtree(block.checkpoints / '20')
  loop.fit(plan, folders[1])
  assert folders[1].metrics.read_bytes() == two
  one, two = (
    block_states.restore_ema(plan, plan.ensemble.blocks(run)[0], mesh.make(2))
    for run in folders
  )
  assert jax.tree.all(jax.tree.map(np.array_equal, one, two))


# A terminal's child: what nohup and shells ignore in the background is not.
HEED = """
import os, signal, sys
for name in ('SIGTERM', 'SIGINT', 'SIGHUP'):
  signal.signal(getattr(signal, name), signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGINT', 'SIGHUP'])
def test_a_launcher_leaves_with_75(name, tmp_path):
  command = [
    sys.executable, '-c', HEED, '-m', 'launch.train',
    '--config=configs/digits.py',
    f'--workdir={tmp_path}/run', '--config.num_models=2',
    '--config.data.num_examples=64', '--config.train.batch_size=16',
    '--config.model.block_out_channels=(8,)',
    '--config.model.down_block_types=("DownBlock2D",)',
    '--config.model.up_block_types=("UpBlock2D",)',
    '--config.model.norm_num_groups=4', '--config.model.layers_per_block=1',
    '--config.train.num_steps=200000',
  ]  # fmt: skip
  process = subprocess.Popen(
    command, cwd=ROOT, stderr=subprocess.PIPE, text=True,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )  # fmt: skip
  try:
    while not (tmp_path / 'run' / 'models-000-001' / 'keep.npy').exists():
      assert process.poll() is None, process.stderr.read()
      time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=120)
  finally:
    process.kill()
  assert process.returncode == preemption.EXIT_CODE, said
  assert said.splitlines()[-1].startswith(f'jaxdiff: stopped by {name}')
  manifests = (tmp_path / 'run' / 'models-000-001' / 'checkpoints').glob(
    'manifest-*.json'
  )
  assert list(manifests)
