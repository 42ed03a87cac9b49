"""The guard: one query at a time beside faiss, and many clients at once.

    JAXDIFF_EXTRAS=bench,guard launch/local.sh python -m tests.benchmarks.guard

faiss's exact index (IndexFlatL2, float32) is asked the same query, alternately,
on as many threads as there are cores. Then 16 clients ask a server for a
minute. Images are Fashion-MNIST's, or smooth noise of CIFAR-10's shape.
Prints a JSON line each.
"""

import argparse
import io
import json
import os
import pathlib
import statistics
import tempfile
import threading
import time
import urllib.request

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import numpy as np
from PIL import Image

from jaxdiff import guard
from jaxdiff.data.readers import archives
from tests.benchmarks import faiss_peer

COUNT, QUERIES = 50_000, 200


def smooth(count: int) -> np.ndarray:
  """Noise with the spectrum of photographs: uint8 [n, 32, 32, 3]."""
  rng = np.random.default_rng(0)
  y, x = np.meshgrid(np.fft.fftfreq(32), np.fft.fftfreq(32), indexing='ij')
  power = 1.0 / np.maximum(np.hypot(x, y), 1 / 32) ** 1.5
  out = np.empty((count, 32, 32, 3), np.uint8)
  for start in range(0, count, 1000):
    noise = rng.standard_normal((min(1000, count - start), 3, 32, 32))
    field = np.fft.ifft2(np.fft.fft2(noise) * power).real
    field *= 50.0 / field.std(axis=(2, 3), keepdims=True)
    shown = np.clip(field + 128.0, 0, 255).astype(np.uint8)
    out[start : start + len(shown)] = shown.transpose(0, 2, 3, 1)
  return out


def quantiles(seconds: list[float]) -> dict[str, float]:
  return {
    'median_ms': round(1e3 * statistics.median(seconds), 2),
    'p99_ms': round(1e3 * float(np.quantile(seconds, 0.99)), 2),
  }


def beside_faiss(name: str, images: np.ndarray, index: guard.Index) -> None:
  faiss = faiss_peer.load()

  train, queries = images[:COUNT], images[COUNT : COUNT + QUERIES]
  flat = faiss.IndexFlatL2(train[0].size)
  flat.add(train.reshape(COUNT, -1).astype(np.float32))
  ours, theirs, equal = [], [], 0
  for query in queries:
    start = time.perf_counter()
    verdict = index.check(query)
    middle = time.perf_counter()
    row = query.reshape(1, -1).astype(np.float32)
    distance, nearest = flat.search(row, index.neighbours)
    theirs.append(time.perf_counter() - middle)
    ours.append(middle - start)
    best = np.sqrt(distance[0, 0] / query.size) / 255.0
    equal += abs(best - verdict.distance) < 1e-4
    del nearest
  print(json.dumps({
    'benchmark': 'guard', 'images': name, 'training': COUNT,
    'guard': quantiles(ours), 'faiss': quantiles(theirs),
    'ratio': round(statistics.median(ours) / statistics.median(theirs), 3),
    'agree': int(equal), 'queries': QUERIES,
  }), flush=True)  # fmt: skip


def under_load(images: np.ndarray, index: guard.Index, seconds: float) -> None:
  import uvicorn

  from jaxdiff.guard import service

  port = 18765
  server = uvicorn.Server(
    uvicorn.Config(service.make(index), port=port, log_level='error')
  )
  thread = threading.Thread(target=server.run)
  thread.start()
  while not server.started:
    time.sleep(0.01)
  bodies = []
  for image in images[COUNT : COUNT + 64]:
    buffer = io.BytesIO()
    Image.fromarray(image.squeeze()).save(buffer, 'PNG')
    bodies.append(buffer.getvalue())
  took: list[float] = []
  errors: list[str] = []
  end = time.monotonic() + seconds

  def client(number: int) -> None:
    turn = number
    while time.monotonic() < end:
      start = time.perf_counter()
      try:
        request = urllib.request.Request(
          f'http://127.0.0.1:{port}/check', bodies[turn % len(bodies)]
        )
        urllib.request.urlopen(request, timeout=30).read()
        took.append(time.perf_counter() - start)
      except OSError as error:
        errors.append(str(error))
      turn += 1

  clients = [threading.Thread(target=client, args=(k,)) for k in range(16)]
  for one in clients:
    one.start()
  for one in clients:
    one.join()
  server.should_exit = True
  thread.join()
  print(json.dumps({
    'benchmark': 'guard_service', 'clients': 16, 'seconds': seconds,
    'answers': len(took), 'errors': len(errors), **quantiles(took),
  }), flush=True)  # fmt: skip


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--seconds', type=float, default=60.0)
  args = parser.parse_args()
  sets = {'smooth noise 32x32x3': smooth(COUNT + QUERIES)}
  if pathlib.Path(archives.FASHION_MNIST).is_dir():
    sets['fashion_mnist'] = archives.fashion_mnist('').images
  for name, images in sets.items():
    with tempfile.TemporaryDirectory() as scratch:
      np.savez(f'{scratch}/training.npz', images=images[:COUNT])
      start = time.monotonic()
      index = guard.build(f'{scratch}/training.npz', f'{scratch}/index')
      built = time.monotonic() - start
      start = time.monotonic()
      guard.load(f'{scratch}/index')
      print(json.dumps({
        'benchmark': 'guard_build', 'images': name, 'seconds': round(built, 1),
        'load_seconds': round(time.monotonic() - start, 2),
        'bytes': os.path.getsize(f'{scratch}/index'),
      }), flush=True)  # fmt: skip
      beside_faiss(name, images, index)
      under_load(images, index, args.seconds)


if __name__ == '__main__':
  main()
