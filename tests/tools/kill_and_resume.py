"""Torments audits at seeded random moments and compares what they leave.

    launch/local.sh python -m tests.tools.kill_and_resume --runs=3 --processes=2

Each run audits a config of tests/tiny.py, as one or several processes that
share two devices. It is killed (SIGKILL, to all) at a random moment of every
stage in turn: train, sample, signals, neighbours, report, and with
--config=paper inpainting, side and canaries too. During training, one of its
processes also gets SIGTERM, SIGINT or SIGHUP, upon which all must leave with
75, and then the newest checkpoint is damaged. With --tmpfs (root alone may
mount) the folder is a file system that is full half-way, and grows after the
audit has failed. After each of these the same command is given again. In the
end every CSV and the weights must equal those of an undisturbed run to the
byte, and no temporary file may be left. Prints one JSON line a run and exits
with 1 if anything differs.
"""

import argparse
from collections.abc import Sequence
import contextlib
import hashlib
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxdiff.pipeline import stages as stages_lib
from jaxdiff.runtime import mesh, preemption
from jaxdiff.training import block_states
from tests import processes, tiny

# How a stage shows that it has begun, and that it is over: files of the run, by
# its last model.
STAGES = {
  'train': ('models-000-{last:03d}/keep.npy', 'metrics.csv'),
  'sample': ('metrics.csv', 'samples/model-{last:03d}/00000032.npz'),
  'signals': ('signals/queries.csv', 'signals/model-{last:03d}/00000048.npz'),
  'neighbours': ('membership/summary.csv', 'extraction/summary.csv'),
  'report': ('extraction/summary.csv', 'report.html'),
}
# With --config=paper, in this order before the report.
FURTHER = {
  'inpainting': ('quality.csv', 'inpainting/summary.csv'),
  'side': ('inpainting/summary.csv', 'guidance/summary.csv'),
  'canaries': ('guidance/summary.csv', 'canaries/summary.csv'),
}

VERBS = ('train', 'sample', 'attack', 'report')


def tiny_config() -> ml_collections.ConfigDict:
  return getattr(tiny, os.environ['TINY'])()


def sign(folder: pathlib.Path, stage: str, end: bool = False) -> pathlib.Path:
  """The file that shows that a stage has begun, or ended."""
  name = (STAGES | FURTHER)[stage][end]
  return folder / name.format(last=tiny_config().num_models - 1)


def start(folder: pathlib.Path, count: int) -> list[subprocess.Popen]:
  """The audit on the tiny config of the tests, or what of it is asked for."""
  verbs = os.environ.get('VERBS', ' '.join(VERBS)).split()
  with open(f'{folder}.log', 'w') as log:
    return processes.start(
      processes.AUDIT, count, 2 // count, folder, *verbs, log=log
    )


def finish(folder: pathlib.Path, count: int) -> None:
  codes = [process.wait() for process in start(folder, count)]
  if any(codes):
    said = pathlib.Path(f'{folder}.log').read_text()
    raise SystemExit(f'{said}\nthe audit of {folder} ended with {codes}')


def outcome(folder: pathlib.Path) -> dict[str, str]:
  """Digests of the tables and of the final weights."""
  out = {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*.csv'))
  }
  plans, run = stages_lib.opened(tiny_config(), str(folder))
  (block,) = plans.subject.train.ensemble.blocks(run)
  weights = block_states.restore_ema(
    plans.subject.train, block, mesh.make(len(block.models), jax.devices()[:1])
  )
  digest = hashlib.sha256()
  for leaf in jax.tree.leaves(weights):
    digest.update(np.asarray(leaf).tobytes())
  return out | {'weights': digest.hexdigest()}


def start_into(
  stage: str, folder: pathlib.Path, count: int
) -> list[subprocess.Popen]:
  """An audit that has begun a stage."""
  running = start(folder, count)
  while not sign(folder, stage).exists():
    if running[0].poll() is not None:
      raise SystemExit(f'the audit ended before {stage} began')
    time.sleep(0.002)
  return running


def terminate(
  folder: pathlib.Path, lasts: float, rng: random.Random, count: int
) -> float:
  """A signal to one process while training; all must be gone with 75."""
  # The sign that training has begun is written anew, or it would be too early.
  sign(folder, 'train').unlink(missing_ok=True)
  running = start_into('train', folder, count)
  # Before what follows training, which has its own kills.
  moment = rng.uniform(0.0, lasts / 2)
  time.sleep(moment)
  told = rng.choice((signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
  rng.choice(running).send_signal(told)
  codes = {process.wait() for process in running}
  if codes != {preemption.EXIT_CODE}:
    raise SystemExit(f'after {told.name} the audit ended with {codes}')
  return moment


def damage(folder: pathlib.Path) -> int | None:
  """Flips a bit in the newest checkpoint; returns its step."""
  checkpoints = sign(folder, 'train').parent / 'checkpoints'
  steps = [int(x.name) for x in checkpoints.iterdir() if x.name.isdigit()]
  if not steps:
    return None
  files = [x for x in (checkpoints / str(max(steps))).rglob('*') if x.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(bytes(data))
  return max(steps)


@contextlib.contextmanager
def too_small(folder: pathlib.Path, needed: int, count: int):
  """The folder on a tmpfs that an audit has found full, then made larger."""

  def mount(*options: str) -> None:
    subprocess.run(['mount', *options, str(folder)], check=True)

  folder.mkdir()
  mount('-t', 'tmpfs', '-o', f'size={needed // 2}', 'tmpfs')
  try:
    codes = [process.wait() for process in start(folder, count)]
    if not all(codes):
      raise SystemExit(f'on a full disk the audit ended with {codes}')
    mount('-o', f'remount,size={4 * needed}')
    yield
  finally:
    subprocess.run(['umount', str(folder)], check=True)


def kill_within(
  folder: pathlib.Path, stage: str, lasts: float, rng: random.Random, count: int
) -> float:
  """Kills a run at a random moment of a stage; returns how far into it."""
  running = start_into(stage, folder, count)
  moment = rng.uniform(0.0, lasts)
  try:
    running[0].wait(moment)
  except subprocess.TimeoutExpired:
    for process in running:
      process.send_signal(signal.SIGKILL)
  for process in running:
    process.wait()
  return moment


def durations(folder: pathlib.Path) -> dict[str, float]:
  """How long each stage of a finished run took, by its files' times."""
  out = {}
  for stage in STAGES | FURTHER:
    begin, end = sign(folder, stage), sign(folder, stage, end=True)
    if begin.exists() and end.exists():
      out[stage] = max(0.05, end.stat().st_mtime - begin.stat().st_mtime)
  return out


def torment(
  folder: pathlib.Path,
  lasts: dict[str, float],
  rng: random.Random,
  count: int,
  stages: Sequence[str],
) -> dict[str, Any]:
  """All that happens to a run until it is through; when it did, in seconds."""
  moments, terminated, damaged = {}, None, None
  for stage in stages:
    if stage == 'train' and not (folder / 'metrics.csv').exists():
      terminated = round(terminate(folder, lasts['train'], rng, count), 3)
      damaged = damage(folder)
    moments[stage] = round(
      kill_within(folder, stage, lasts[stage], rng, count), 3
    )
  finish(folder, count)
  return {
    'killed_after_s': moments, 'told_after_s': terminated,
    'damaged_step': damaged,
  }  # fmt: skip


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', type=int, default=3, help='runs to torment')
  parser.add_argument('--seed', type=int, default=0)
  parser.add_argument('--processes', type=int, default=1, choices=(1, 2))
  parser.add_argument(
    '--stages', nargs='+', choices=STAGES | FURTHER,
    help='in which to kill',
  )  # fmt: skip
  parser.add_argument('--tmpfs', action='store_true', help='fill a disk too')
  parser.add_argument(
    '--config', default='config', choices=('least', 'config', 'paper'),
    help='paper: every attack',
  )  # fmt: skip
  parser.add_argument(
    '--verbs', nargs='+', default=VERBS, choices=VERBS,
    help='of which an audit consists: all, or train for its stage alone',
  )  # fmt: skip
  args = parser.parse_args(argv)
  os.environ['TINY'], os.environ['VERBS'] = args.config, ' '.join(args.verbs)
  *first, last = STAGES
  order = [*first, *(FURTHER if args.config == 'paper' else ()), last]
  stages = args.stages or order
  rng = random.Random(args.seed)
  failed = False
  with tempfile.TemporaryDirectory() as scratch:
    whole = pathlib.Path(scratch) / 'undisturbed'
    finish(whole, args.processes)
    wanted, lasts = outcome(whole), durations(whole)
    needed = sum(x.stat().st_size for x in whole.rglob('*') if x.is_file())
    for number in range(args.runs):
      folder = pathlib.Path(scratch) / f'run-{number}'
      disk = contextlib.nullcontext()
      if args.tmpfs:
        disk = too_small(folder, needed, args.processes)
      with disk:
        line = torment(folder, lasts, rng, args.processes, stages)
        got = outcome(folder)
        leftover = [str(path) for path in folder.rglob('*.tmp')]
      different = sorted(
        name for name in wanted | got if wanted.get(name) != got.get(name)
      )
      failed |= bool(different or leftover)
      line |= {
        'full_disk': args.tmpfs, 'compared': len(wanted),
        'different': different, 'leftover': leftover,
      }  # fmt: skip
      print(json.dumps(line), flush=True)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
