"""Alternating runs and the JSON line that every benchmark prints."""

from collections.abc import Callable
import json
import pathlib
import re
import time

import numpy as np


def timed(run: Callable[[], object]) -> float:
  start = time.perf_counter()
  run()
  return time.perf_counter() - start


def medians(repeats: int, **runs: Callable[[], object]) -> dict[str, float]:
  """Median seconds of each; run in turn, after one round that is not counted.

  The first round compiles: a cost that a long job pays once.
  """
  seconds = {name: [] for name in runs}
  for number in range(repeats + 1):
    for name, run in runs.items():
      value = timed(run)
      if number:
        seconds[name].append(value)
  return {name: float(np.median(values)) for name, values in seconds.items()}


def emit(name: str, ours_s: float, peer: str, peer_s: float, **more) -> None:
  line = {
    'name': name, 'ratio': round(peer_s / ours_s, 2),
    'ours_s': round(ours_s, 3), 'peer': peer, 'peer_s': round(peer_s, 3),
    **more,
  }  # fmt: skip
  print(json.dumps(line), flush=True)


def peak_memory() -> int:
  """Most resident memory of this process so far, MB.

  Not getrusage's, which starts from the parent's.
  """
  status = pathlib.Path('/proc/self/status').read_text()
  return int(re.search(r'VmHWM:\s+(\d+) kB', status)[1]) // 1024
