"""Noised means of a few images of each class, to start private training with.

DP-FETA (Li et al. 2025, "From Easy to Hard: Building a Shortcut for
Differentially Private Image Synthesis") trains on such before it trains on
images. With images in [-1, 1] as vectors of D numbers, n the public number of
examples, Y classes, a share q of which is drawn by Poisson's law, and s the
noise multiplier:

(1)  release(y) = (sum of the images of class y drawn + N(0, s^2 D)) Y / (q n)

An image is part of one sum alone, whose norm it changes by sqrt(D) at most: all
Y sums of a release are one Gaussian mechanism. Dividing by n / Y takes classes
for equally large, and n for the size of the training set: what is divided by is
no secret.
"""

import numpy as np

# Images that are added up at a time.
_PIECE = 4096


def releases(
  images: np.ndarray,
  labels: np.ndarray | None,
  num_classes: int,
  *,
  count: int,
  public: int,
  share: float,
  noise: float,
  rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
  """Equation (1), `count` times.

  Args:
    images: uint8 [n, H, W, C] of a training set.
    labels: int [n]; None is one class.
    num_classes: Y.
    count: R.
    public: n.
    share: q.
    noise: s.
    rng: of draws and noise.

  Returns:
    float32 [R Y, H, W, C] in [-1, 1], and the class of each int32 [R Y].
  """
  classes = max(num_classes, 1) if labels is not None else 1
  which = np.zeros(len(images), int) if labels is None else labels
  flat = images.reshape(len(images), -1)
  out = np.empty((count, classes, flat.shape[1]), np.float32)
  for release in out:
    drawn = np.flatnonzero(rng.random(len(flat)) < share)
    sums = np.zeros(release.shape)
    # In pieces: the set may be larger than the memory.
    for start in range(0, len(drawn), _PIECE):
      rows = drawn[start : start + _PIECE]
      np.add.at(sums, which[rows], flat[rows].astype(np.float32) / 127.5 - 1.0)
    sums += noise * np.sqrt(flat.shape[1]) * rng.standard_normal(sums.shape)
    release[:] = sums * classes / (share * public)
  # What follows costs nothing.
  made = np.clip(out, -1.0, 1.0).reshape(-1, *images.shape[1:])
  return made, np.tile(np.arange(classes, dtype=np.int32), count)
