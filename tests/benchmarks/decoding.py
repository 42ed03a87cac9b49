"""How fast files of mixed sizes become images of one size, beside Pillow.

    launch/local.sh python -m tests.benchmarks.decoding --count=20000

Pictures with detail at every scale, of 96 to 480 pixels a side, are written as
JPEG; then read by `image_sets` as an audit of folders reads them, and by Pillow
in a pool of as many processes as there are cores, with the same crop and
resize. The two take turns. Prints one JSON line: images a second of each
(medians), and how many cores ours kept busy.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import tempfile
import time

import numpy as np
from PIL import Image

from jaxdiff.data import image_sets

SIZE = 64


def write(folder: pathlib.Path, count: int) -> None:
  """Some pictures, many files: content repeats, work does not."""
  rng = np.random.default_rng(0)
  for number in range(count):
    height, width = rng.integers(96, 481, 2)
    picture = np.zeros((height, width, 3))
    for side in (4, 16, 64):
      noise = rng.integers(0, 256, (side, side, 3), np.uint8)
      fine = Image.fromarray(noise).resize((int(width), int(height)))
      picture += np.asarray(fine, float) / 3.0
    Image.fromarray(picture.astype(np.uint8)).save(
      folder / f'{number:06d}.jpg', quality=int(rng.integers(60, 96))
    )


def by_pillow(path: str) -> np.ndarray:
  """What most people would write."""
  with Image.open(path) as image:
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    box = (left, top, left + side, top + side)
    return np.asarray(
      image.convert('RGB').resize((SIZE, SIZE), Image.Resampling.LANCZOS, box)
    )


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--count', type=int, default=20_000)
  parser.add_argument('--runs', type=int, default=3)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    write(folder, args.count)
    paths = sorted(map(str, folder.iterdir()))
    ours, theirs, cores = [], [], []
    with multiprocessing.get_context('spawn').Pool(os.cpu_count()) as pool:
      pool.map(by_pillow, paths[:64])  # processes have started
      for _ in range(args.runs):
        images = image_sets.open_set(str(folder), 'training')
        begun, cpu = time.monotonic(), time.process_time()
        decoded = sum(1 for _ in images.decoded(range(len(images)), SIZE, 3))
        seconds = time.monotonic() - begun
        ours.append(decoded / seconds)
        cores.append((time.process_time() - cpu) / seconds)
        begun = time.monotonic()
        for _ in pool.imap(by_pillow, paths, chunksize=64):
          pass
        theirs.append(len(paths) / (time.monotonic() - begun))
  print(
    json.dumps(
      {
        'benchmark': 'decoding',
        'count': args.count,
        'images_per_s': round(float(np.median(ours)), 1),
        'pillow_pool_per_s': round(float(np.median(theirs)), 1),
        'ratio': round(float(np.median(ours) / np.median(theirs)), 2),
        'cores_busy': round(float(np.median(cores)), 2),
        'cores': os.cpu_count(),
      }
    )
  )


if __name__ == '__main__':
  main()
