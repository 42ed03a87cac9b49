"""A run on two processes is the run on one."""

import re
import shutil
import signal
import subprocess
import sys
import time

from etils import epath
import jax
import numpy as np
import pandas as pd
import pytest

from jaxdiff.pipeline import stages
from jaxdiff.runs import files
from jaxdiff.runtime import mesh, multihost, preemption
from jaxdiff.training import block_states, input_pipeline, loop, packing
from tests import processes, tiny

pytestmark = pytest.mark.slow

STAGES = ('train', 'sample', 'attack', 'report')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tmp_path_factory.mktemp('multihost')


@pytest.fixture(scope='module')
def alone(folder):
  """All stages in one process, on 4 devices."""
  path = folder / 'alone'
  assert processes.run(processes.AUDIT, 1, 4, path, *STAGES) == [0]
  return path


def weights(path):
  plans, run = stages.opened(tiny.config(), str(path))
  (block,) = plans.subject.train.ensemble.blocks(run)
  return block_states.restore_ema(
    plans.subject.train, block, mesh.make(8, jax.devices())
  )


def test_two_processes_train_the_same_models(alone, folder):
  """Though one of them was told to leave, and both did."""
  path = folder / 'together'
  both = processes.start(processes.AUDIT, 2, 2, path, 'train')
  while not (path / 'models-000-007' / 'keep.npy').exists():
    assert both[0].poll() is None
    time.sleep(0.01)
  both[1].send_signal(signal.SIGTERM)
  assert [one.wait() for one in both] == [preemption.EXIT_CODE] * 2
  assert not (path / 'metrics.csv').exists()
  assert processes.run(processes.AUDIT, 2, 2, path, 'train') == [0, 0]
  assert tiny.largest_difference(weights(alone), weights(path)) <= 1e-5
  tables = [
    files.read_csv(epath.Path(x) / 'metrics.csv') for x in (alone, path)
  ]
  pd.testing.assert_frame_equal(*tables, rtol=1e-5)


def test_evidence_and_tables_of_two_processes_are_those_of_one(alone, folder):
  path = folder / 'evidence'
  shutil.copytree(alone, path)
  for part in (
    'samples', 'signals', 'neighbours', 'membership', 'extraction',
    'nearest_sample',
  ):  # fmt: skip
    shutil.rmtree(path / part)
  (path / 'quality.csv').unlink()
  codes = processes.run(processes.AUDIT, 2, 2, path, *STAGES[1:])
  assert codes == [0, 0]
  tables = sorted(x.relative_to(alone) for x in alone.rglob('*.csv'))
  assert len(tables) > 10
  for table in tables:
    one, two = (files.read_csv(epath.Path(x / table)) for x in (alone, path))
    # Losses differ in the last bit with the threads of a process, and LiRA
    # divides by their spread: a single score may differ by more than any
    # statistic of all of them (docs/statistics.md).
    exact = table.parts[0] not in ('membership', 'nearest_sample')
    close = {} if exact else {'rtol': 1e-4, 'atol': 1e-5}
    if table.name == 'scores.csv':
      close = {'rtol': 1e-3, 'atol': 1e-3}
    pd.testing.assert_frame_equal(one, two, check_exact=exact, **close)
  for block in sorted(
    block
    for part in ('samples', 'nearest_sample')
    for block in (alone / part).rglob('*.npz')
  ):
    other = path / block.relative_to(alone)
    assert block.read_bytes() == other.read_bytes(), other
  for block in sorted((alone / 'signals').rglob('*.npz')):
    one, two = (
      files.read_npz(epath.Path(x / block.relative_to(alone)), 'signals')
      for x in (alone, path)
    )
    np.testing.assert_allclose(one['signals'], two['signals'], rtol=1e-6)
  assert (path / 'report.html').exists()
  assert not list(path.rglob('*.tmp'))


LONE = """
import sys
from absl import logging
logging.set_verbosity(logging.INFO)
from jaxdiff.runtime import multihost
multihost.SAY_SECONDS = 0.5
multihost.start(sys.argv[1], 2, int(sys.argv[2]), 2)
"""


@pytest.mark.parametrize('number', [0, 1])
def test_a_lone_process_says_whom_it_waits_for_and_ends(number):
  begun = time.monotonic()
  done = subprocess.run(
    [sys.executable, '-c', LONE, processes.free_address(), str(number)],
    cwd=processes.ROOT, capture_output=True, text=True, timeout=60,
  )  # fmt: skip
  assert time.monotonic() - begun < 30
  assert done.returncode == preemption.EXIT_CODE
  assert 'waiting for all 2 processes at localhost' in done.stderr
  last = done.stderr.strip().splitlines()[-1]
  assert last.startswith('jaxdiff: all 2 processes were not at localhost')


def test_work_is_shared_without_gap_or_overlap(monkeypatch):
  for count, number in ((1, 5), (3, 10), (4, 3)):
    monkeypatch.setattr(jax, 'process_count', lambda count=count: count)
    mine = []
    for index in range(count):
      monkeypatch.setattr(jax, 'process_index', lambda index=index: index)
      mine += list(range(number))[multihost.share(number)]
    assert mine == list(range(number))


def groups_of_collectives(devices: int, num_models: int) -> list[list[int]]:
  """Devices that speak to each other in the compiled step."""
  plan = tiny.plans().subject.train
  grid = mesh.make(num_models, jax.devices()[:devices])
  keep = plan.examples.keep[:num_models]
  states = block_states.init_states(plan, range(num_models), grid)
  own = input_pipeline.own_rows(plan, range(num_models), keep, grid)
  pixels = next(input_pipeline.feed(plan, range(num_models), keep, grid, 0))
  packed = packing.Packing(plan, grid)
  slots = [packed.pack_placed(x) for x in mesh.split_slots(grid, states)]
  step = loop.make_step_fn(plan, grid, keep)
  text = step.lower(slots[0], own[0], pixels).compile().as_text()
  names = 'all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter'
  lines = [
    line
    for line in text.splitlines()
    if re.search(rf'= .*({names})(-start)?\(', line)
  ]
  groups = []
  for line in lines:
    listed = re.search(r'replica_groups=\{(\{.*?\})\}', line)
    assert listed, line
    groups += [
      [int(number) for number in group.split(',')]
      for group in re.findall(r'\{([\d,]+)\}', listed[1])
    ]
  return groups


def test_no_collective_crosses_the_ensemble():
  # A model a device: nobody speaks to anybody.
  assert all(len(group) == 1 for group in groups_of_collectives(4, 8))
  # Two rows of two devices: within a row.
  groups = groups_of_collectives(4, 2)
  assert {tuple(group) for group in groups} == {(0, 1), (2, 3)}


PARTNER = """
import sys, time
import jax
from jaxdiff.runtime import mesh, multihost, preemption, roll_call
mesh.use_cpu_devices(1)
count, number, address, how, log = sys.argv[1:]
multihost.start(address, int(count), int(number), 120)
roll_call._PARTING = 3.0
if how.startswith('killed'):  # and threads are late, as on a busy machine
  hear = roll_call.RollCall._hear
  roll_call.RollCall._hear = lambda *one: (time.sleep(0.5), hear(*one))
with roll_call.whose_error():
  if int(number) == int(how.split('-')[1]):
    print('ready', flush=True)
    open(log, 'w').write('ready')
    time.sleep(1.0)
    if how.startswith('killed'):
      import os, signal
      os.kill(os.getpid(), signal.SIGKILL)
    if how.startswith('fails'):
      raise ValueError('of its own')
  else:
    try:
      multihost.barrier('the end')
    except preemption.Preempted as gone:  # it saw first what the roll call sees
      print(gone, flush=True)
      sys.exit(preemption.EXIT_CODE)
"""


@pytest.mark.parametrize('how', ['killed-0', 'killed-2', 'fails-0', 'fails-1'])
def test_where_one_is_gone_the_others_end_to_be_run_again(how, tmp_path):
  begun = time.monotonic()
  with open(tmp_path / 'log', 'w') as log:
    codes = processes.run(PARTNER, 3, how, tmp_path / 'ready', log=log)
  gone = int(how.split('-')[1])
  own = 1 if how.startswith('fails') else -9
  wanted = [preemption.EXIT_CODE] * 3
  wanted[gone] = own
  assert codes == wanted
  assert time.monotonic() - begun < 60
  text = (tmp_path / 'log').read_text()
  assert 'what is whole is saved: run the same command again' in text


def test_processes_that_end_by_themselves_are_not_missed(tmp_path):
  with open(tmp_path / 'log', 'w') as log:
    codes = processes.run(PARTNER, 2, 'idle-9', tmp_path / 'ready', log=log)
  assert codes == [0, 0]
