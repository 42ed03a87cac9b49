"""Which model trains on which example.

`paired` (default): models 2j and 2j + 1 train on complementary halves drawn
from (seed, j) alone. An ensemble can grow by pairs without touching what is
there, and a single model is the first of pair 0. When a model is attacked, it
*and its mate* are left out of the shadow statistics: were every example in
exactly half of the K models and only the target left out, the other models'
counts would give its membership away.

`independent` (the paper, section 5): every model draws a half of its own.

`bernoulli`: every group is in or out by a fair coin of its own, for every
model: what the proven limits of private training are about. Halves of a fixed
size tell of an example what the others are.
"""

import numpy as np

from jaxdiff.runtime import prng

SPLITS = ('paired', 'independent', 'bernoulli')


def keep_matrix(
  seed: int,
  models: range,
  group: np.ndarray,
  split: str = 'paired',
  image: np.ndarray | None = None,
) -> np.ndarray:
  """Membership of every example in every model's training set.

  Args:
    seed: of the split.
    models: model numbers.
    group: int [N]; examples of one group stay together. With groups of one,
      halves have floor(N / 2) and ceil(N / 2) examples.
    split: one of SPLITS.
    image: int [N], equal for near-duplicates, each within one group: halves
      have as many distinct images. None: every example is another image.

  Returns:
    bool [len(models), N].

  Raises:
    ValueError: for an unknown split.
  """
  if split not in SPLITS:
    raise ValueError(f'split: no {split!r}; there is {", ".join(SPLITS)}')
  if image is None:
    image = np.arange(len(group))
  rows = []
  for model in models:
    if split == 'paired':
      first = _half(seed, model // 2, group, image)
      rows.append(first if model % 2 == 0 else ~first)
    elif split == 'bernoulli':
      names, position = np.unique(group, return_inverse=True)
      coins = prng.rng(seed, 'split', model, 1).integers(0, 2, len(names))
      rows.append(coins[position] == 1)
    else:
      rows.append(_half(seed, model, group, image))
  return np.array(rows, dtype=bool).reshape(len(rows), len(group))


def left_out_together(num_models: int, split: str = 'paired') -> np.ndarray:
  """int [K]: models of one number are left out together when one is attacked.

  The pairs of a paired split; each model by itself in any other.
  """
  return np.arange(num_models) // (2 if split == 'paired' else 1)


def _half(
  seed: int, draw: int, group: np.ndarray, image: np.ndarray
) -> np.ndarray:
  """Random whole groups: half of the examples and half of the distinct images.

  Groups of one size (distinct images, examples) are drawn from in random order.
  What is left over, at most one of each size, is taken in pairs of nearly equal
  sizes, one of a pair by a fair coin.
  """
  names, position = np.unique(group, return_inverse=True)
  rng = prng.rng(seed, 'split', draw)
  order = rng.permutation(len(names))
  sizes = np.bincount(position)
  distinct = np.bincount(
    np.unique(np.stack([position, image]), axis=1)[0], minlength=len(names)
  )
  order = order[np.lexsort((-sizes[order], -distinct[order]))]
  same = (np.diff(sizes[order]) == 0) & (np.diff(distinct[order]) == 0)
  parts = np.split(order, np.flatnonzero(~same) + 1)
  chosen = np.zeros(len(names), dtype=bool)
  left = []
  for part in parts:
    half = len(part) // 2
    chosen[part[:half]] = True
    left += part[2 * half :].tolist()
  # The last of groups that are all alike is any of them already.
  if len(parts) > 1:
    coins = rng.integers(0, 2, -(-len(left) // 2))
    for place, name in enumerate(left):
      chosen[name] = (place + coins[place // 2]) % 2
  return chosen[position]
