"""Nearest neighbours against faiss-cpu's exact IndexFlatL2.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.nearest

* full: 1,024 x 50,000 x 3,072 random float32 and uint8, k = 50, beside the bare
  matrix product in float32.
* images: k = 1 and 50, path `auto`, index building counted on both sides.
  --data takes .npz files with `images` uint8 [N, H, W, C] (queries are 10,000
  of them with Gaussian noise of sd 16 / 255) and folders with the four IDX
  files of (Fashion-)MNIST (queries are the test set). Without it, tiles of
  scikit-learn's two sample photographs.

`exact` says that all indices (of the full case: of 64 queries) equal those of
float64 differences or of integers. Runs alternate; medians of --repeats. JAX
has a device a core, as the launchers have it (--devices), the bare product one.
"""

import argparse
import gzip
import json
import pathlib

import jax
import numpy as np
from sklearn import datasets as sklearn_datasets

from jaxdiff.nearest import index as index_lib
from jaxdiff.runtime import mesh
from tests.benchmarks import faiss_peer, timing


def truth(queries, references, k):
  """Indices [S, k] by float64; exact for integers, ties to the lower."""
  q = queries.reshape(len(queries), -1).astype(np.float64)
  r = references.reshape(len(references), -1).astype(np.float64)
  norms = np.einsum('nd,nd->n', r, r)
  rows = []
  for start in range(0, len(q), 256):
    squared = norms - 2.0 * q[start : start + 256] @ r.T
    for query, row in zip(q[start : start + 256], squared, strict=True):
      near = np.flatnonzero(row <= np.partition(row, k - 1)[k - 1] + 1e-6)
      exact = np.square(r[near] - query).sum(axis=1)
      rows.append(near[np.lexsort((near, exact))[:k]])
  return np.stack(rows)


def faiss_search(queries, references, k):
  index = faiss_peer.load().IndexFlatL2(references.shape[1])
  index.add(references)
  return index.search(queries, k)


def full(repeats: int, dtype: type) -> None:
  """Random images; faiss takes them as float32."""
  rng = np.random.default_rng(0)
  queries = rng.random((1024, 3072), np.float32)
  references = rng.random((50_000, 3072), np.float32)
  if dtype == np.uint8:
    queries, references = (
      (256 * x).astype(dtype) for x in (queries, references)
    )
  ours = index_lib.Index(references)
  given = queries, references
  queries, references = (x.astype(np.float32) for x in given)
  peer = faiss_peer.load().IndexFlatL2(references.shape[1])
  peer.add(references)
  product = jax.jit(lambda q, r: q @ r.T)
  on_device = jax.numpy.asarray(queries), jax.numpy.asarray(references)
  seconds = timing.medians(
    repeats,
    ours=lambda: ours.nearest(given[0], 50, 'full'),
    peer=lambda: peer.search(queries, 50),
    product=lambda: product(*on_device).block_until_ready(),
  )
  _, index = ours.nearest(given[0], 50, 'full')
  exact = np.array_equal(index[::16], truth(queries[::16], references, 50))
  work = 2e-9 * len(queries) * references.size
  timing.emit(
    f'nearest full 1024 x 50000 x 3072 {np.dtype(dtype)} k=50',
    seconds['ours'],
    'faiss IndexFlatL2',
    seconds['peer'],
    exact=bool(exact),
    product_s=round(seconds['product'], 3),
    of_product=round(seconds['product'] / seconds['ours'], 3),
    **{f'{who}_gflops': round(work / s, 1) for who, s in seconds.items()},
  )


def images(name: str, queries, references, repeats: int) -> None:
  """uint8 images; faiss takes them as float32."""
  flat = (
    queries.reshape(len(queries), -1),
    references.reshape(len(references), -1),
  )
  wide = (flat[0].astype(np.float32), flat[1].astype(np.float32))
  for k in (1, 50):
    seconds = timing.medians(
      repeats,
      ours=lambda k=k: index_lib.nearest(*flat, k),
      peer=lambda k=k: faiss_search(*wide, k),
      full=lambda k=k: index_lib.nearest(*flat, k, path='full'),
    )
    index = index_lib.Index(flat[1])
    found = index.nearest(flat[0], k)[1]
    timing.emit(
      f'nearest {name} {len(queries)} x {len(references)} x '
      f'{flat[0].shape[1]} k={k}',
      seconds['ours'],
      'faiss IndexFlatL2',
      seconds['peer'],
      exact=bool(np.array_equal(found, truth(*flat, k))),
      path=index.path,
      num_coordinates=index.num_coordinates,
      certified=round(float(index.certified), 4),
      full_s=round(seconds['full'], 3),
    )


def noised(images, count: int):
  rng = np.random.default_rng(0)
  chosen = images[rng.choice(len(images), min(count, len(images)), False)]
  noise = rng.normal(0.0, 16.0, chosen.shape)
  return np.clip(np.rint(chosen + noise), 0, 255).astype(np.uint8)


def photo_tiles(size: int = 32, stride: int = 8):
  tiles = []
  for photo in sklearn_datasets.load_sample_images().images:
    windows = np.lib.stride_tricks.sliding_window_view(photo, (size, size, 3))[
      ::stride, ::stride, 0
    ]
    tiles.append(windows.reshape(-1, size, size, 3))
  return np.concatenate(tiles)


def read_idx(path: pathlib.Path):
  raw = gzip.decompress(path.read_bytes())
  count = int.from_bytes(raw[4:8])
  return np.frombuffer(raw, np.uint8, offset=16).reshape(count, -1)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', nargs='*', type=pathlib.Path, default=[])
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--devices', type=int)
  args = parser.parse_args()
  threads = faiss_peer.load().omp_get_max_threads()
  devices = args.devices or threads
  mesh.use_cpu_devices(devices)
  print(json.dumps({'threads': threads, 'devices': devices}))
  for dtype in (np.float32, np.uint8):
    full(args.repeats, dtype)
  if not args.data:
    tiles = photo_tiles()
    images('sample photo tiles', noised(tiles, 10_000), tiles, args.repeats)
  for path in args.data:
    if path.is_dir():
      references = read_idx(path / 'train-images-idx3-ubyte.gz')
      queries = read_idx(path / 't10k-images-idx3-ubyte.gz')
    else:
      references = np.load(path, allow_pickle=False)['images']
      queries = noised(references, 10_000)
    images(path.stem, queries, references, args.repeats)


if __name__ == '__main__':
  main()
