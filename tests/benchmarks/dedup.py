"""The range join of deduplication against faiss-cpu's range search.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.dedup \
      --data=FOLDER

--data is a folder with the IDX files of (Fashion-)MNIST; without it, --count
synthetic images 32 x 32 x 3: smooth fields of few coordinates with noise, a
hundredth of them near-duplicates of others. Both start from images in memory;
ours writes blocks to disk, faiss keeps everything. `pairs` are those of ours,
`same` says whether faiss found the same ones, up to rounding at the threshold.
Prints a JSON line; --ours alone leaves faiss out, for sizes that it takes hours
for.
"""

import argparse
import json
import tempfile
import time

from etils import epath
import numpy as np

from jaxdiff.data import image_sets
from jaxdiff.data.readers import archives
from jaxdiff.defences import dedup
from jaxdiff.runtime import mesh
from tests.benchmarks import timing


def synthetic(count: int) -> np.ndarray:
  """Smooth images of 40 coordinates, with copies."""
  rng = np.random.default_rng(0)
  coarse = rng.normal(size=(40, 8, 8, 3)).astype(np.float32)
  basis = np.repeat(np.repeat(coarse, 4, axis=1), 4, axis=2).reshape(40, -1)
  out = np.empty((count, 32, 32, 3), np.uint8)
  for start in range(0, count, 10_000):
    some = out[start : start + 10_000]
    x = rng.normal(size=(len(some), 40)).astype(np.float32) @ basis
    x = 127.5 + 9.0 * x + rng.normal(size=x.shape).astype(np.float32)
    some[:] = np.clip(x, 0, 255).astype(np.uint8).reshape(some.shape)
  rows = rng.permutation(count)[: 2 * (count // 200)]
  first, second = rows[::2], rows[1::2]
  noise = rng.normal(size=(len(first), 32, 32, 3)) * 2.0
  out[second] = np.clip(out[first] + noise, 0, 255).astype(np.uint8)
  return out


def faiss_pairs(images: np.ndarray, threshold: float) -> set[tuple[int, int]]:
  """By float32 range search."""
  import faiss

  x = images.reshape(len(images), -1).astype(np.float32) / 255.0
  index = faiss.IndexFlatL2(x.shape[1])
  index.add(x)
  out = set()
  for start in range(0, len(x), 4096):
    limits, _, found = index.range_search(
      x[start : start + 4096], threshold**2 * x.shape[1]
    )
    row = start + np.repeat(
      np.arange(len(limits) - 1), np.diff(limits.astype(int))
    )
    once = row < found
    out |= set(zip(row[once].tolist(), found[once].tolist(), strict=True))
  return out


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--data')
  parser.add_argument('--count', type=int, default=20_000)
  parser.add_argument('--threshold', type=float, default=0.02)
  parser.add_argument('--ours', action='store_true')
  args = parser.parse_args()
  mesh.use_cpu_devices(2)
  if args.data:
    images = archives.fashion_mnist(args.data).images
  else:
    images = synthetic(args.count)
  with tempfile.TemporaryDirectory() as folder:
    path = f'{folder}/images.npz'
    np.savez(path, images=images)
    plan = dedup.DedupPlan(
      images=image_sets.open_set(path, '--images'), against=None,
      threshold=args.threshold, flip=False, shift=0, size=0, keep='first',
    )  # fmt: skip
    start = time.perf_counter()
    found = dedup.find(plan, epath.Path(folder) / 'out')
    ours = time.perf_counter() - start
  group = dedup.groups(len(images), found.pairs)
  line = {
    'images': len(images), 'shape': images.shape[1:],
    'threshold': args.threshold, 'pairs': len(found.pairs),
    'groups': int(group.max()) + 1, 'seconds': round(ours, 1),
    'peak_mb': timing.peak_memory(),
    'images_mb': images.nbytes // 2**20,
  }  # fmt: skip
  if not args.ours:
    start = time.perf_counter()
    peer = faiss_pairs(images, args.threshold)
    line['faiss_seconds'] = round(time.perf_counter() - start, 1)
    line['ratio'] = round(line['faiss_seconds'] / ours, 2)
    # Exact copies are joined to the first of their like alone.
    mine = set(zip(found.pairs['first'], found.pairs['second'], strict=True))
    missing = int(sum(group[a] != group[b] for a, b in peer))
    line |= {'missing': missing, 'same': mine <= peer and not missing}
  print(json.dumps(line))


if __name__ == '__main__':
  main()
