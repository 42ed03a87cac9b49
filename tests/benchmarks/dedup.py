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

    launch/local.sh python -m tests.benchmarks.dedup --tiles=photo_tiles_32.npz

says what overlap is found: of `images` uint8 [N, 32, 32, 3], cut to 24 pixels
at two places, the share of images whose two cuts are joined (`recall`), and of
the pairs so joined the share that is of one image (`precision`), for cuts that
lie 0, 1, 2, 4 and 8 pixels apart, with --shift=0 and 1; plain tiles, which
resemble each other, are left out.
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
from tests.benchmarks import faiss_peer, timing


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
  faiss = faiss_peer.load()

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


# Side of a cut, how far two of them are apart, and the least spread of a tile
# that is not plain.
_CUT, _APART, _PLAIN = 24, (0, 1, 2, 4, 8), 8.0


def found_in(images: np.ndarray, **options) -> tuple[dedup.Found, float]:
  """What the join finds, and the seconds that it takes."""
  with tempfile.TemporaryDirectory() as folder:
    path = f'{folder}/images.npz'
    np.savez(path, images=images)
    settings = {
      'against': None, 'threshold': 0.02, 'flip': False, 'shift': 0, 'size': 0,
      'keep': 'first',
    }  # fmt: skip
    plan = dedup.DedupPlan(
      images=image_sets.open_set(path, '--images'), **settings | options
    )
    start = time.perf_counter()
    found = dedup.find(plan, epath.Path(folder) / 'out')
    return found, time.perf_counter() - start


def overlaps(path: str, threshold: float) -> None:
  """Prints recall and precision of cuts that overlap."""
  tiles = np.load(path)['images']
  spread = tiles.reshape(len(tiles), -1, 3).std(axis=1).max(axis=1)
  tiles = tiles[spread > _PLAIN]
  count = len(tiles)
  for apart in _APART:
    cuts = [
      tiles[:, place : place + _CUT, place : place + _CUT]
      for place in (0, apart)
    ]
    for shift in (0, 1):
      found, _ = found_in(
        np.concatenate(cuts), threshold=threshold, shift=shift
      )
      first = found.pairs['first'].to_numpy() % count
      second = found.pairs['second'].to_numpy() % count
      same = first == second
      line = {
        'tiles': count, 'overlap': round((1 - apart / _CUT) ** 2, 3),
        'apart': apart, 'shift': shift, 'threshold': threshold,
        'recall': round(len(np.unique(first[same])) / count, 4),
        'pairs': len(same),
        'precision': round(float(same.mean()), 4) if len(same) else None,
      }  # fmt: skip
      print(json.dumps(line), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser()
  parser.add_argument('--data')
  parser.add_argument('--count', type=int, default=20_000)
  parser.add_argument('--threshold', type=float, default=0.02)
  parser.add_argument('--ours', action='store_true')
  parser.add_argument('--tiles')
  args = parser.parse_args()
  mesh.use_cpu_devices(2)
  if args.tiles:
    overlaps(args.tiles, args.threshold)
    return
  if args.data:
    images = archives.fashion_mnist(args.data).images
  else:
    images = synthetic(args.count)
  found, ours = found_in(images, threshold=args.threshold)
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
