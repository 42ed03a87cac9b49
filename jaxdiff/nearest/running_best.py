"""The k nearest so far of every query."""

import numpy as np


class RunningBest:
  """The k nearest so far of every query.

  Attributes:
    squared: float64 [B, k], rising.
    index: int32 [B, k]; negative where nothing was found yet.
  """

  def __init__(self, number: int, k: int):
    self.k = k
    self.squared = np.full((number, k), np.inf)
    self.index = np.tile(-1 - np.arange(k, dtype=np.int32), (number, 1))

  def part(self, rows: slice) -> 'RunningBest':
    """Some of the queries, in the same memory."""
    part = RunningBest(0, self.k)
    part.squared, part.index = self.squared[rows], self.index[rows]
    return part

  @property
  def farthest(self) -> np.ndarray:
    return self.squared[:, -1]

  def merge(
    self, rows: np.ndarray, index: np.ndarray, squared: np.ndarray
  ) -> None:
    """Takes up distances of (query, reference) pairs, some known before."""
    nearer = squared <= self.farthest[rows]
    number = len(self.squared)
    rows = np.concatenate([np.repeat(np.arange(number), self.k), rows[nearer]])
    index = np.concatenate([self.index.ravel(), index[nearer]])
    squared = np.concatenate([self.squared.ravel(), squared[nearer]])
    order = np.lexsort((index, squared, rows))
    rows, index, squared = rows[order], index[order], squared[order]
    again = (rows[1:] == rows[:-1]) & (index[1:] == index[:-1])
    new = np.concatenate([[True], ~again])
    rows, index, squared = rows[new], index[new], squared[new]
    rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
    self.index[...] = index[rank < self.k].reshape(number, self.k)
    self.squared[...] = squared[rank < self.k].reshape(number, self.k)
