"""Images by prompt with planted cliques: found, resumed, and how long a prompt.

    launch/local.sh python -m tests.benchmarks.prompt_cliques
    launch/local.sh \
      python -m tests.benchmarks.prompt_cliques --prompts=10000 --again=0

Of every prompt 100 images of 64 pixels in a tar: a plain background that all
of them share and an object elsewhere in each, so that few pixels differ. Of
every fourth prompt 8 to 40 are one image with Gaussian noise (RMSE 0.01 to
0.12). `wanted`: prompts in which 10 or more planted images are within tau of
each other, by distances of float64 differences; `by_chance`: others in which
that many of all images are. One JSON line: wanted, found, missed, false; the
time a prompt; the peak of memory beside that of a tenth of the prompts; whether
a run that was killed ends in the same bytes.
"""

import argparse
import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import time

import networkx as nx
import numpy as np
import pandas as pd
from PIL import Image

TAU, GRID, SIZE, COUNT, MIN_SIZE = 0.1, 4, 64, 100, 10


def images_of(
  rng: np.random.Generator, planted: bool
) -> tuple[np.ndarray, int]:
  """uint8 [COUNT, SIZE, SIZE, 3], and the largest planted clique within tau."""
  images = np.full((COUNT, SIZE, SIZE, 3), rng.integers(90, 160), np.float64)
  for image in images:
    top, left = rng.integers(0, SIZE - 16, 2)
    image[top : top + 16, left : left + 16] = rng.integers(0, 256, 3)
  if not planted:
    return _bytes(images), 0
  size = int(rng.integers(8, 41))
  noise = (
    255.0
    * rng.uniform(0.01, 0.12)
    * rng.standard_normal((size, *images.shape[1:]))
  )
  images[:size] = images[0] + noise
  found = _bytes(images)
  return found[rng.permutation(COUNT)], largest(found[:size])


def largest(images: np.ndarray) -> int:
  """Images of the largest clique, by float64 differences of all pairs."""
  count, cell = len(images), SIZE // GRID
  tiles = images.astype(np.float64).reshape(count, GRID, cell, GRID, cell, 3)
  graph = nx.Graph()
  for a in range(count):
    gaps = np.square((tiles[a] - tiles) / 255.0).mean(axis=(2, 4, 5))
    near = np.flatnonzero(gaps.max(axis=(1, 2)) <= TAU**2)
    graph.add_edges_from((a, b) for b in near if a < b)
  return max(map(len, nx.find_cliques(graph)), default=0)


def _by_chance(prompt: int) -> int:
  """The largest clique among all images of a prompt, planted or not."""
  rng = np.random.default_rng(prompt)
  return largest(images_of(rng, prompt % 4 == 0)[0])


def _bytes(images: np.ndarray) -> np.ndarray:
  return np.clip(np.rint(images), 0, 255).astype(np.uint8)


def write(path: pathlib.Path, prompts: int) -> list[int]:
  """A tar of images, a folder a prompt; the largest planted clique of each."""
  planted = []
  with tarfile.open(path, 'w') as archive:
    for prompt in range(prompts):
      rng = np.random.default_rng(prompt)
      images, size = images_of(rng, prompt % 4 == 0)
      planted.append(size)
      for number, image in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format='PNG', compress_level=1)
        member = tarfile.TarInfo(f'prompt-{prompt:05d}/{number:03d}.png')
        member.size = buffer.tell()
        buffer.seek(0)
        archive.addfile(member, buffer)
  return planted


def command(images: pathlib.Path, workdir: pathlib.Path) -> list[str]:
  return [
    sys.executable, '-m', 'launch.audit', '--config=configs/folders.py',
    f'--config.generated={images}', '--config.prompts.of=folders',
    f'--config.prompts.tau={TAU}', f'--config.prompts.grid={GRID}',
    f'--config.prompts.min_size={MIN_SIZE}', f'--workdir={workdir}',
  ]  # fmt: skip


def run(images: pathlib.Path, workdir: pathlib.Path) -> tuple[float, int]:
  """Seconds, and MB at the peak."""
  begun = time.perf_counter()
  with (workdir.parent / f'{workdir.name}.log').open('w') as log:
    process = subprocess.Popen(command(images, workdir), stderr=log, stdout=log)
    _, status, usage = os.wait4(process.pid, 0)
  if status:
    log = workdir.parent / f'{workdir.name}.log'
    raise SystemExit(log.read_text()[-2000:])
  return time.perf_counter() - begun, usage.ru_maxrss // 1024


def main() -> None:
  """One JSON line."""
  parser = argparse.ArgumentParser()
  parser.add_argument('--prompts', type=int, default=200)
  parser.add_argument('--again', type=int, default=1)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as name:
    root = pathlib.Path(name)
    planted = write(root / 'images.tar', args.prompts)
    few = max(args.prompts // 10, 2)
    more = args.prompts - few
    write(root / 'tenth.tar', few)
    seconds, peak = run(root / 'images.tar', root / 'run')
    few_seconds, few_peak = run(root / 'tenth.tar', root / 'few')
    table = pd.read_csv(root / 'run' / 'prompts' / 'prompts.csv')
    found = set(table.loc[table['clique_size'] > 0, 'prompt'])
    wanted = {
      f'prompt-{k:05d}' for k, size in enumerate(planted) if size >= MIN_SIZE
    }
    chance = {x for x in found - wanted if _by_chance(int(x[-5:])) >= MIN_SIZE}
    line = {
      'name': 'prompt_cliques', 'prompts': args.prompts,
      'planted': sum(size > 0 for size in planted), 'wanted': len(wanted),
      'found': len(found), 'missed': len(wanted - found),
      'by_chance': len(chance), 'false': len(found - wanted - chance),
      'seconds': round(seconds, 1),
      'ms_a_prompt': round(
        1e3 * (seconds - few_seconds) / more, 1
      ),
      'peak_mb': peak, 'peak_mb_of_a_tenth': few_peak,
    }  # fmt: skip
    if args.again:
      line['resumed_equal'] = _resumed(root)
    print(json.dumps(line), flush=True)


def _resumed(root: pathlib.Path) -> bool:
  """Whether a run that was killed half-way ends in the same bytes."""
  again = root / 'again'
  parts = again / 'prompts' / 'parts'
  process = subprocess.Popen(
    command(root / 'images.tar', again), stderr=subprocess.DEVNULL,
    stdout=subprocess.DEVNULL,
  )  # fmt: skip
  while process.poll() is None and len(list(parts.glob('*.npz'))) < 3:
    time.sleep(0.005)
  process.send_signal(signal.SIGKILL)
  killed = process.wait() == -signal.SIGKILL
  run(root / 'images.tar', again)
  tables = [x / 'prompts' / 'prompts.csv' for x in (root / 'run', again)]
  first, second = (table.read_bytes() for table in tables)
  return killed and first == second


if __name__ == '__main__':
  main()
