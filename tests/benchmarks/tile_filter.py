"""Tiled distances of 500 images of 512 x 512 against torch's Gram matrices.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.tile_filter

Images are random crops, scaled to 512 x 512, of scikit-learn's two sample
photographs; half of them are 10 groups of near-copies (Gaussian noise of RMSE
0.01 to 0.12). --data takes a folder of photographs (.jpg, .png) instead. The
peer computes a float32 Gram matrix a tile, on all cores, and for a graph
compares the distances with tau. `exact`: distances within 3e-7 of float64
differences on 200 pairs; edges equal to those of the exact distances.
"""

import argparse
import pathlib
import resource

import numpy as np
from PIL import Image
from sklearn import datasets as sklearn_datasets
import torch

from jaxdiff.metrics import tiled_distance
from tests.benchmarks import timing

COUNT, SIZE, GRID = 500, 512, 4


def make_images(photos):
  rng = np.random.default_rng(0)

  def crop():
    photo = photos[rng.integers(len(photos))]
    side = rng.integers(128, min(photo.shape[:2]) + 1)
    top, left = (rng.integers(0, n - side + 1) for n in photo.shape[:2])
    part = Image.fromarray(photo[top : top + side, left : left + side])
    return np.asarray(part.resize((SIZE, SIZE), Image.Resampling.BICUBIC))

  images = np.stack([crop() for _ in range(COUNT)])
  for group in range(10):
    base = crop().astype(np.float32)
    for i in range(COUNT // 2 * group // 10, COUNT // 2 * (group + 1) // 10):
      noise = rng.standard_normal(base.shape, np.float32)
      noisy = base + 255.0 * rng.uniform(0.01, 0.12) * noise
      images[i] = np.clip(np.rint(noisy), 0, 255)
  return images


def torch_distances(images):
  count, side = len(images), SIZE // GRID
  x = torch.from_numpy(images).view(count, GRID, side, GRID, side, 3)
  largest = torch.zeros(count, count)
  for i in range(GRID):
    for j in range(GRID):
      tile = x[:, i, :, j].reshape(count, -1).float().div_(255.0)
      gram = tile @ tile.T
      norms = torch.diagonal(gram)
      squares = (norms[:, None] + norms[None] - 2.0 * gram).clamp_min_(0.0)
      largest = torch.maximum(largest, squares / tile.shape[1])
  return largest.sqrt().numpy()


def torch_graph(images, tau):
  return np.argwhere(np.triu(torch_distances(images) <= tau, 1))


def pair_distance(a, b):
  squares = np.square(a.astype(np.float64) - b) / 255.0**2
  side = SIZE // GRID
  return np.sqrt(
    squares.reshape(GRID, side, GRID, side, 3).mean(axis=(1, 3, 4)).max()
  )


def peak() -> int:
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--data', type=pathlib.Path)
  parser.add_argument('--repeats', type=int, default=7)
  args = parser.parse_args()
  photos = sklearn_datasets.load_sample_images().images
  if args.data:
    photos = [
      np.asarray(Image.open(path).convert('RGB'))
      for path in sorted(args.data.iterdir())
      if path.suffix.lower() in ('.jpg', '.jpeg', '.png')
    ]
  images = make_images(photos)
  before = peak()
  exact = tiled_distance.tile_distances(images)
  extra = {'extra_memory': round((peak() - before) / images.nbytes, 2)}
  rng = np.random.default_rng(1)
  pairs = np.concatenate(
    [rng.integers(0, COUNT, (100, 2)), rng.integers(0, 25, (100, 2))]
  )
  right = all(
    np.isclose(exact[a, b], pair_distance(images[a], images[b]), rtol=3e-7)
    for a, b in pairs
  )
  seconds = timing.medians(
    args.repeats,
    ours=lambda: tiled_distance.tile_distances(images),
    peer=lambda: torch_distances(images),
  )
  size = f'{COUNT} x {SIZE} x {SIZE} x 3'
  timing.emit(
    f'tile_distances {size}', seconds['ours'], 'torch Gram a tile',
    seconds['peer'], exact=bool(right), **extra,
    peer_error=float(f'{np.abs(torch_distances(images) - exact).max():.2g}'),
  )  # fmt: skip
  for tau in (0.05, 0.10, 0.15):
    edges, _ = tiled_distance.tile_graph(images, tau)
    seconds = timing.medians(
      args.repeats,
      ours=lambda tau=tau: tiled_distance.tile_graph(images, tau),
      peer=lambda tau=tau: torch_graph(images, tau),
    )
    want = np.argwhere(np.triu(exact.astype(np.float64) <= tau, 1))
    timing.emit(
      f'tile_graph {size} tau={tau}', seconds['ours'], 'torch Gram a tile',
      seconds['peer'], exact=bool(np.array_equal(edges, want)),
      edges=len(edges), peer_edges_equal=bool(
        np.array_equal(torch_graph(images, tau), want)
      ),
    )  # fmt: skip


if __name__ == '__main__':
  main()
