"""Dataset inference: was a set of images trained on, as a whole?

A suspect set is compared with a set that is known not to be trained on, by all
signals at once and without shadow models (CDI, Dubinski et al. 2025; Maini et
al. 2021): one half of both trains a logistic regression, the other is scored,
and a one-sided Welch test asks whether the suspects score higher. From random
parts of the scored half follows how many images the claim needs.

Rows `never` do the same with two halves of the images never trained on: the
share of small p-values must be the level of the test.
"""

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import signals as signals_lib
from jaxdiff.runtime import prng

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats
  from sklearn import linear_model, pipeline, preprocessing

LEVEL = 0.01
COLUMNS = ('model', 'suspects', 'num_images', 'median_p', 'share_below_level')
_RESAMPLES = 200
_SMALLEST = 4


def features(signals: np.ndarray, queries: pd.DataFrame) -> np.ndarray:
  """One a kind, timestep and layer, averaged over draws: [K, N, F]."""
  parts = []
  keys_of = ['name', 't', 'layer']
  for (name, _, _), rows in queries.groupby(keys_of, sort=False):
    mean = signals[:, :, rows.index.to_numpy()].mean(axis=2)
    if signals_lib.SIGNALS[name].learned:
      mean = np.log(np.maximum(mean, np.finfo(np.float32).tiny))
    parts.append(mean)
  return np.stack(parts, axis=2).astype(np.float64)


def halves(group: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Whole groups in random halves: bool [N]."""
  names, position = np.unique(group, return_inverse=True)
  chosen = np.zeros(len(names), bool)
  chosen[rng.permutation(len(names))[: len(names) // 2]] = True
  return chosen[position]


def p_values(
  x: np.ndarray,
  suspect: np.ndarray,
  train: np.ndarray,
  rng: np.random.Generator,
) -> dict[int, np.ndarray]:
  """Welch's p-values of random parts, by how many images of each side.

  Args:
    x: [N, F] features of the images compared.
    suspect: bool [N].
    train: bool [N]: half that the regression sees; the other is scored.
    rng: of the parts.
  """
  classifier = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(C=0.1, solver='newton-cholesky', tol=1e-8),
  ).fit(x[train], suspect[train])
  scores = classifier.decision_function(x[~train])
  sides = scores[suspect[~train]], scores[~suspect[~train]]
  most = min(map(len, sides))
  out, number = {}, _SMALLEST
  while number <= most:
    parts = [
      np.stack([rng.permutation(side)[:number] for _ in range(_RESAMPLES)])
      for side in sides
    ]
    out[number] = stats.ttest_ind(
      *parts, axis=1, equal_var=False, alternative='greater'
    ).pvalue
    number *= 2
  return out


def table(
  signals: np.ndarray,
  queries: pd.DataFrame,
  keep: np.ndarray,
  group: np.ndarray,
  seed: int,
) -> pd.DataFrame:
  """One row a model, kind of suspects and number of images.

  Args:
    signals: [K, N, Q].
    queries: table of the Q columns.
    keep: bool [K, N]: whose members are the suspects of model k.
    group: int [N]: images of one group fall into one half.
    seed: of halves and parts.
  """
  x = features(signals, queries)
  rows = []
  for model, members in enumerate(keep):
    rng = prng.rng(seed, 'control', 2, model)
    train = halves(group, rng)
    # The null's suspects: a random half of those never trained on.
    null = halves(group, rng)[~members]
    cases = (
      ('members', x[model], members, train),
      ('never', x[model][~members], null, train[~members]),
    )
    for name, of, suspect, first in cases:
      both = (len(np.unique(suspect[part])) == 2 for part in (first, ~first))
      if not all(both):
        continue
      for number, values in p_values(of, suspect, first, rng).items():
        rows.append(
          (model, name, number, np.median(values), (values < LEVEL).mean())
        )
  return pd.DataFrame(rows, columns=COLUMNS)
