"""2^14 samples x 50,000 images x 3,072 pixels through the extraction stage.

    launch/local.sh python -m tests.benchmarks.extraction

One model, half of the images its own and half its control, k = 50. Images and
samples are generated: noise, and every 16th sample a noisy copy of some image.
A first run goes through; a second is killed (SIGKILL) when half of its blocks
are written, and started again. `exact` says that both wrote the same
matches.csv, byte for byte. Seconds are the stage's, without making the data;
peak memory is the process's, data included.
"""

import argparse
import dataclasses
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

from etils import epath
import numpy as np

from jaxdiff.attacks.extraction import duplicates, neighbours
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.runs import blocks, layout
from jaxdiff.runs import samples as samples_lib
from tests import tiny

IMAGES, SHAPE, BLOCK = 50_000, (32, 32, 3), 1024


def make_plan(samples: int, run: layout.Run) -> neighbours.ExtractionPlan:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (IMAGES, *SHAPE), np.uint8)
  for start in range(0, samples, BLOCK):
    made = rng.integers(0, 256, (BLOCK, *SHAPE), np.uint8)
    copies = images[rng.integers(0, IMAGES, BLOCK // 16)].astype(np.int16)
    copies += rng.integers(-20, 21, copies.shape, np.int16)
    made[::16] = np.clip(copies, 0, 255)
    if not run.samples(0, start).exists():
      indices = np.arange(start, start + BLOCK)
      blocks.write_block(
        run.samples(0, start), '', 0, images=made, indices=indices
      )
  return neighbours.ExtractionPlan(
    examples=tiny.examples(images, np.arange(IMAGES)[None] % 2 == 0),
    samples=samples_lib.Samples(num_samples=samples, block_size=BLOCK),
    target_precision=0.95,
  )


def child(workdir: str, samples: int) -> None:
  run = layout.Run(epath.Path(workdir))
  plan = make_plan(samples, run)
  begun = time.perf_counter()
  image = duplicates.groups(plan.examples.images, 0.0, False)
  examples = dataclasses.replace(plan.examples, image=image)
  plan = dataclasses.replace(plan, examples=examples)
  start = time.perf_counter()
  neighbours.find_neighbours(plan, run)
  middle = time.perf_counter()
  extraction_evaluate.analyse(plan, run)
  done = time.perf_counter()
  peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  line = {
    'duplicates_s': round(start - begun, 1),
    'neighbours_s': round(middle - start, 1),
    'analyse_s': round(done - middle, 1), 'peak_gb': round(peak / 2**20, 2),
  }  # fmt: skip
  print(json.dumps(line))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--samples', type=int, default=2**14)
  parser.add_argument('--child')
  args = parser.parse_args()
  if args.child:
    child(args.child, args.samples)
    return
  command = [sys.executable, '-m', 'tests.benchmarks.extraction']
  command += [f'--samples={args.samples}', '--child']
  with tempfile.TemporaryDirectory() as folder:
    whole, killed = (pathlib.Path(folder, x) for x in ('whole', 'killed'))
    ran = subprocess.run(
      [*command, str(whole)], stdout=subprocess.PIPE, text=True, check=True
    )
    figures = json.loads(ran.stdout)
    process = subprocess.Popen([*command, str(killed)])
    half = args.samples // BLOCK // 2
    while len(list(killed.glob('neighbours/*/*.npz'))) < half:
      if process.poll() is not None:
        raise RuntimeError('the run ended before it was killed')
      time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    subprocess.run(
      [*command, str(killed)], stdout=subprocess.DEVNULL, check=True
    )
    name = 'extraction/matches.csv'
    matches = [(one / name).read_bytes() for one in (whole, killed)]
    line = {
      'name': f'extraction {args.samples} x {IMAGES} x 3072 k=50', **figures,
      'exact': matches[0] == matches[1], 'matches': matches[0].count(b'\n') - 1,
    }  # fmt: skip
    print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
