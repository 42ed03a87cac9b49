"""Which captions are worth a prompt: those of copies, or those that stand out.

Models give away images that are many times in the training set (paper, section
4.2: the 350,000 most duplicated by CLIP embeddings), and, of single ones, those
that are far from all others. With embeddings of cosine c,

(1)  duplicates  rows with c >= a threshold, the row itself among them
(2)  outliers    mean over the k nearest other rows of 1 - c
(3)  text        rows of the same caption

by exact neighbours: e / |e| lies in [-1, 1], and half of 1 + e / |e| is an
image of D pixels to the neighbour search, whose distance d has c = 1 - 2 D d^2.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import captions as captions_lib
from jaxdiff.data import datasets
from jaxdiff.nearest import index

KINDS = ('duplicates', 'outliers', 'text')
# Of equation (2), and rows that are asked about at a time.
NEIGHBOURS = 1000
# Of cosines, as float32 gives them.
_ROUNDING = 1e-6
_ROWS = 4096


def scores(
  embeddings: np.ndarray | None,
  captions: Sequence[str],
  by: str,
  cosine: float,
) -> np.ndarray:
  """Equation (1), (2) or (3) of every row: float64 [n].

  Args:
    embeddings: float [n, D], no row of which is zero; None for 'text'.
    captions: [n].
    by: one of KINDS.
    cosine: threshold of (1), to 1e-6.

  Raises:
    ValueError: for a single row, which has no neighbour.
  """
  if by == 'text':
    codes = datasets.codes([captions_lib.plain(text) for text in captions])[0]
    return np.bincount(codes)[codes].astype(np.float64)
  assert embeddings is not None
  if len(embeddings) < 2:
    raise ValueError('one row has no neighbour')
  scaled = unit(embeddings)
  size = scaled.shape[1]
  out = np.empty(len(scaled))
  if by == 'duplicates':
    reach = float(np.sqrt((1.0 - cosine + _ROUNDING) / (2.0 * size)))
    searched = duplicates.index_of(scaled)
    for start in range(0, len(scaled), _ROWS):
      part = scaled[start : start + _ROWS]
      out[start : start + _ROWS] = [
        len(rows) for rows in duplicates.within_index(part, searched, reach)
      ]
    return out
  searched, k = index.Index(scaled), min(NEIGHBOURS, len(scaled) - 1)
  for start in range(0, len(scaled), _ROWS):
    part = scaled[start : start + _ROWS]
    distance, _ = searched.nearest(part, k + 1)
    # The nearest is the row itself, or a copy of it.
    far = 2.0 * size * np.square(distance[:, 1:].astype(np.float64))
    out[start : start + _ROWS] = far.mean(axis=1)
  return out


def unit(embeddings: np.ndarray) -> np.ndarray:
  """Rows of length 1, moved into [0, 1]: float32 [n, D]."""
  lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
  return np.clip((embeddings / lengths[:, None] + 1.0) / 2.0, 0.0, 1.0).astype(
    np.float32
  )


def best(
  embeddings: np.ndarray | None,
  captions: Sequence[str],
  ids: Sequence[str],
  *,
  by: str,
  top: int,
  cosine: float = 0.95,
) -> pd.DataFrame:
  """The captions of the largest scores, each once: id, prompt, score.

  Args:
    embeddings: as `scores`.
    captions: [n].
    ids: [n], what the user calls them.
    by: one of KINDS.
    top: how many, at most.
    cosine: as `scores`.
  """
  table = pd.DataFrame(
    {
      'id': list(ids),
      'prompt': list(captions),
      'score': scores(embeddings, captions, by, cosine),
    }
  )
  table = table.sort_values('score', ascending=False, kind='stable')
  plain = table['prompt'].map(captions_lib.plain)
  return table[~plain.duplicated()].head(top).reset_index(drop=True)
