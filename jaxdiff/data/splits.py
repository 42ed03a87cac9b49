"""Which model trains on which example.

`paired` (default): models 2j and 2j + 1 train on complementary halves drawn
from (seed, j) alone. An ensemble can grow by pairs without touching what is
there, and a single model is the first of pair 0. When a model is attacked, it
*and its mate* are left out of the shadow statistics: were every example in
exactly half of the K models and only the target left out, the other models'
counts would give its membership away.

`independent` (the paper, section 5): every model draws a half of its own.
"""

import numpy as np

from jaxdiff import keys

SPLITS = ('paired', 'independent')


def keep_matrix(
  seed: int,
  models: range,
  group: np.ndarray,
  split: str = 'paired',
) -> np.ndarray:
  """Membership of every example in every model's training set.

  Args:
    seed: of the split.
    models: model numbers.
    group: int [N]; examples of one group stay together. With groups of one,
      halves have floor(N / 2) and ceil(N / 2) examples.
    split: one of SPLITS.

  Returns:
    bool [len(models), N].

  Raises:
    ValueError: for an unknown split.
  """
  if split not in SPLITS:
    raise ValueError(f'split: no {split!r}; there is {", ".join(SPLITS)}')
  rows = []
  for model in models:
    if split == 'paired':
      first = _half(seed, model // 2, group)
      rows.append(first if model % 2 == 0 else ~first)
    else:
      rows.append(_half(seed, model, group))
  return np.array(rows, dtype=bool).reshape(len(rows), len(group))


def left_out_together(num_models: int, split: str = 'paired') -> np.ndarray:
  """int [K]: models of one number are left out together when one is attacked.

  The pairs of a paired split; each model by itself in an independent one.
  """
  return np.arange(num_models) // (2 if split == 'paired' else 1)


def _half(seed: int, draw: int, group: np.ndarray) -> np.ndarray:
  """Whole groups in random order, up to half of the examples."""
  names, position = np.unique(group, return_inverse=True)
  order = keys.rng(seed, 'split', draw).permutation(len(names))
  sizes = np.bincount(position)[order]
  # A group belongs to the half when most of it lies below N / 2.
  middle = np.cumsum(sizes) - sizes / 2
  chosen = np.zeros(len(names), dtype=bool)
  chosen[order[middle < len(group) // 2]] = True
  return chosen[position]
