"""What is known of prompts beside their text: whether images have them."""

from collections.abc import Sequence
import dataclasses
import re

from absl import logging
from etils import epy
import numpy as np

from jaxdiff.data import captions, datasets

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import sparse
  from sklearn.feature_extraction import text as text_lib

# Cosine of TF-IDF of runs of characters above which texts are one group, up to
# so many texts; of more, those of the same words alone are.
_ALIKE, _MOST = 0.8, 20_000
_ROWS = 1024


@dataclasses.dataclass(frozen=True)
class Known:
  """Of P prompts and K models.

  Attributes:
    trained: int8 [K, P]: 1, images of it were trained on; 0, none were; -1,
      nobody knows.
    copies: int [P], images of it that there are; 0 where nobody knows.
    group: int [P]; prompts of one group are no independent evidence.
    ids: [P], what the user calls them.
  """

  trained: np.ndarray
  copies: np.ndarray
  group: np.ndarray
  ids: tuple[str, ...]


def of_captions(
  texts: Sequence[str], told: Sequence[str], keep: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """`trained` and `copies` of prompts by the captions of images.

  A prompt of which a model saw some images and others not is neither.

  Args:
    texts: [P] prompts.
    told: [N] captions.
    keep: bool [K, N], which model trained on which image.
  """
  codes, _ = datasets.codes([captions.plain(text) for text in (*texts, *told)])
  of_texts, of_told = codes[: len(texts)], codes[len(texts) :]
  count = int(codes.max(initial=0)) + 1

  def number(chosen: np.ndarray) -> np.ndarray:
    """Images of each prompt, of those chosen: int [P]."""
    return np.bincount(of_told[chosen], minlength=count)[of_texts]

  copies = number(np.ones(len(told), bool))
  trained = np.full((len(keep), len(texts)), -1, np.int8)
  for row, of_model in zip(trained, keep, strict=True):
    inside = number(of_model)
    row[(inside > 0) & (inside == copies)] = 1
    row[(inside == 0) & (copies > 0)] = 0
  return trained, copies


def groups(texts: Sequence[str]) -> np.ndarray:
  """Numbers of groups of texts that are nearly the same: int [P].

  Of the same words in any order; or, up to 20,000 texts, of much the same runs
  of characters (cosine of their TF-IDF at least 0.8), and what is so joined.
  """
  words = [
    # Of pictographs alone there are no words.
    ' '.join(sorted(re.findall(r'\w+', text.casefold()))) or text
    for text in texts
  ]
  same = datasets.codes(words)[0]
  if len(texts) > _MOST:
    logging.info(
      'prompts: %s are grouped by their words alone', f'{len(texts):,}'
    )
    return same
  distinct, first = np.unique(same, return_index=True)
  chosen = [texts[k] for k in first]
  terms = text_lib.TfidfVectorizer(
    analyzer='char_wb', ngram_range=(2, 4), sublinear_tf=True
  ).fit_transform(chosen)
  rows, columns = [], []
  for start in range(0, len(distinct), _ROWS):
    alike = (terms[start : start + _ROWS] @ terms.T).tocoo()
    near = alike.data >= _ALIKE
    rows.append(alike.row[near] + start)
    columns.append(alike.col[near])
  row, column = np.concatenate(rows), np.concatenate(columns)
  graph = sparse.csr_array(
    (np.ones(len(row), bool), (row, column)), shape=(len(distinct),) * 2
  )
  joined = sparse.csgraph.connected_components(graph, directed=False)[1]
  return joined[np.searchsorted(distinct, same)].astype(np.int32)
