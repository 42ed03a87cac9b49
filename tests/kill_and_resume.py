"""Kills audits at seeded random moments and compares what they leave.

    launch/local.sh python -m tests.kill_and_resume --runs=3

Each run audits a tiny config and is killed (SIGKILL) at a random moment of
every stage in turn: train, sample, signals, neighbours, report. After each kill
the same command is given again. In the end every CSV must equal that of an
undisturbed run to the byte, and no temporary file may be left. Prints one JSON
line a run and exits with 1 if anything differs.
"""

import argparse
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

ROOT = pathlib.Path(__file__).parents[1]

# How a stage shows that it has begun, and that it is over: files of the run.
STAGES = {
  'train': ('models-000-007/keep.npy', 'metrics.csv'),
  'sample': ('metrics.csv', 'samples/model-007/00000032.npz'),
  'signals': ('signals/queries.csv', 'signals/model-007/00000048.npz'),
  'neighbours': ('membership/summary.csv', 'extraction/summary.csv'),
  'report': ('extraction/summary.csv', 'report.html'),
}

# The audit on the tiny config of the tests, as a process of its own.
PROGRAM = """
import sys
from jaxdiff import audit, mesh
from tests import tiny
mesh.use_cpu_devices(2)
audit.run_stages(tiny.config(), sys.argv[1])
"""


def start(folder: pathlib.Path) -> subprocess.Popen:
  return subprocess.Popen(
    [sys.executable, '-c', PROGRAM, str(folder)],
    cwd=ROOT,
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
  )


def finish(folder: pathlib.Path) -> None:
  code = start(folder).wait()
  if code:
    raise SystemExit(f'the audit of {folder} ended with {code}')


def tables(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*.csv'))
  }


def kill_within(
  folder: pathlib.Path, stage: str, lasts: float, rng: random.Random
) -> float:
  """Kills a run at a random moment of a stage; returns how far into it."""
  begin = folder / STAGES[stage][0]
  process = start(folder)
  while not begin.exists():
    if process.poll() is not None:
      raise SystemExit(f'the audit ended before {stage} began')
    time.sleep(0.002)
  moment = rng.uniform(0.0, lasts)
  try:
    process.wait(moment)
  except subprocess.TimeoutExpired:
    process.send_signal(signal.SIGKILL)
  process.wait()
  return moment


def durations(folder: pathlib.Path) -> dict[str, float]:
  """How long each stage of a finished run took, by its files' times."""
  return {
    stage: max(
      0.05,
      (folder / end).stat().st_mtime - (folder / begin).stat().st_mtime,
    )
    for stage, (begin, end) in STAGES.items()
  }


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--runs', type=int, default=3, help='runs to torment')
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args(argv)
  rng = random.Random(args.seed)
  failed = False
  with tempfile.TemporaryDirectory() as scratch:
    whole = pathlib.Path(scratch) / 'undisturbed'
    finish(whole)
    wanted, lasts = tables(whole), durations(whole)
    for number in range(args.runs):
      folder = pathlib.Path(scratch) / f'run-{number}'
      moments = {
        stage: round(kill_within(folder, stage, lasts[stage], rng), 3)
        for stage in STAGES
      }
      finish(folder)
      got = tables(folder)
      different = sorted(
        name for name in wanted | got if wanted.get(name) != got.get(name)
      )
      leftover = [str(path) for path in folder.rglob('*.tmp')]
      failed |= bool(different or leftover)
      line = {
        'killed_after_s': moments, 'tables': len(wanted),
        'different': different, 'leftover': leftover,
      }  # fmt: skip
      print(json.dumps(line), flush=True)
  return int(failed)


if __name__ == '__main__':
  sys.exit(main())
