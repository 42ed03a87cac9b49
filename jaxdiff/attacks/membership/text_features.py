"""What a caption looks like, in a few numbers, without any model."""

from collections.abc import Sequence

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import decomposition
  from sklearn.feature_extraction import text

_COMPONENTS = 256
# Runs of characters that are counted.
_LENGTHS = (1, 5)
_MOST_TERMS = 2**17


def describe(captions: Sequence[str]) -> np.ndarray:
  """Texts [N] -> float64 [N, F]: what runs of characters they are made of.

  Their TF-IDF by principal directions, as many as the texts allow, 256 at most,
  and the lengths.
  """
  terms = text.TfidfVectorizer(
    analyzer='char_wb',
    ngram_range=_LENGTHS,
    sublinear_tf=True,
    max_features=_MOST_TERMS,
  ).fit_transform(captions)
  lengths = np.array([[len(x), len(x.split())] for x in captions], np.float64)
  components = min(_COMPONENTS, len(captions) // 4, terms.shape[1] - 1)
  if components < 1 or len(set(captions)) == 1:
    return lengths
  svd = decomposition.TruncatedSVD(components, random_state=0)
  return np.concatenate([svd.fit_transform(terms), lengths], axis=1)
