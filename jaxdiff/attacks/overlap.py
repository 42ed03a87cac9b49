"""Overlap: do two models give the same images away?

Carlini et al. (2023), section 6. Among the N distinct images that both trained
on, one gives A away and the other B. Were which ones a matter of chance, the
number in common would be hypergeometric, A B / N on average:

(1)  p = P(common or more) = hypergeom.sf(common - 1, N, A, B)

A small p says that it is the images, not the models, that make the leak.
"""

import numpy as np
import pandas as pd
from scipy import stats


def compare(
  first: np.ndarray, second: np.ndarray, both: np.ndarray
) -> dict[str, float]:
  """Equation (1).

  Args:
    first: bool [G], distinct images that one model gives away.
    second: of the other.
    both: that both trained on.
  """
  one, two = first & both, second & both
  population, a, b = int(both.sum()), int(one.sum()), int(two.sum())
  common = int((one & two).sum())
  return {
    'population': population,
    'first_extracted': a,
    'second_extracted': b,
    'common': common,
    'expected': a * b / population if population else np.nan,
    'p_value': float(stats.hypergeom.sf(common - 1, population, a, b)),
  }


def between_models(hit: np.ndarray, trained_on: np.ndarray) -> pd.DataFrame:
  """Every two models of a run that share training images.

  Args:
    hit: bool [K, G], distinct images that each gives away.
    trained_on: bool [K, G].

  Returns:
    One row a pair: first, second, and what `compare` gives.
  """
  rows = []
  for i in range(len(hit)):
    for j in range(i + 1, len(hit)):
      both = trained_on[i] & trained_on[j]
      if both.any():
        rows.append({'first': i, 'second': j, **compare(hit[i], hit[j], both)})
  names = ['first', 'second', *compare(*np.zeros((3, 1), bool))]
  return pd.DataFrame(rows, columns=names)


def between_families(
  hit: np.ndarray,
  trained_on: np.ndarray,
  other_hit: np.ndarray,
  other_trained_on: np.ndarray,
) -> dict[str, float]:
  """All models of one run against all of another, as the paper's 244 in common.

  Args:
    hit: bool [K, G] of this run.
    trained_on: bool [K, G].
    other_hit: bool [J, G] of another run on the same images.
    other_trained_on: bool [J, G].
  """
  return compare(
    hit.any(axis=0),
    other_hit.any(axis=0),
    trained_on.any(axis=0) & other_trained_on.any(axis=0),
  )
