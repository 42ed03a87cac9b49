"""Kills audits at seeded random moments and compares what they leave.

    launch/local.sh python -m tests.kill_and_resume --runs=3 --processes=2

Each run audits a tiny config, as one or several processes that share two
devices, and is killed (SIGKILL, to all) at a random moment of every stage in
turn: train, sample, signals, neighbours, report. After each kill the same
command is given again. In the end every CSV must equal that of an undisturbed
run to the byte, and no temporary file may be left. Prints one JSON line a run
and exits with 1 if anything differs.
"""

import argparse
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

from tests import processes

# How a stage shows that it has begun, and that it is over: files of the run.
STAGES = {
  'train': ('models-000-007/keep.npy', 'metrics.csv'),
  'sample': ('metrics.csv', 'samples/model-007/00000032.npz'),
  'signals': ('signals/queries.csv', 'signals/model-007/00000048.npz'),
  'neighbours': ('membership/summary.csv', 'extraction/summary.csv'),
  'report': ('extraction/summary.csv', 'report.html'),
}

STAGE_NAMES = ('train', 'sample', 'attack', 'report')


def start(folder: pathlib.Path, count: int) -> list[subprocess.Popen]:
  """The audit on the tiny config of the tests."""
  program = processes.AUDIT
  return processes.start(program, count, 2 // count, folder, *STAGE_NAMES)


def finish(folder: pathlib.Path, count: int) -> None:
  codes = [process.wait() for process in start(folder, count)]
  if any(codes):
    raise SystemExit(f'the audit of {folder} ended with {codes}')


def tables(folder: pathlib.Path) -> dict[str, str]:
  return {
    str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
    for path in sorted(folder.rglob('*.csv'))
  }


def kill_within(
  folder: pathlib.Path, stage: str, lasts: float, rng: random.Random, count: int
) -> float:
  """Kills a run at a random moment of a stage; returns how far into it."""
  begin = folder / STAGES[stage][0]
  running = start(folder, count)
  while not begin.exists():
    if running[0].poll() is not None:
      raise SystemExit(f'the audit ended before {stage} began')
    time.sleep(0.002)
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
  parser.add_argument('--processes', type=int, default=1, choices=(1, 2))
  args = parser.parse_args(argv)
  rng = random.Random(args.seed)
  failed = False
  with tempfile.TemporaryDirectory() as scratch:
    whole = pathlib.Path(scratch) / 'undisturbed'
    finish(whole, args.processes)
    wanted, lasts = tables(whole), durations(whole)
    for number in range(args.runs):
      folder = pathlib.Path(scratch) / f'run-{number}'
      moments = {
        stage: round(
          kill_within(folder, stage, lasts[stage], rng, args.processes), 3
        )
        for stage in STAGES
      }
      finish(folder, args.processes)
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
