"""Overlap: do two models give the same images away?

Carlini et al. (2023), section 6. Among the images that both trained on, one
gives some away and the other some. Were which ones a matter of chance, the
number in common would be hypergeometric. Between whole runs, images that more
models of a run trained on are given away more, and where runs share their
splits, by both: so the law is taken within strata s, images that as many models
of either run trained on, with N_s images of which A_s and B_s were given away:

(1)  common ~ sum over s of Hypergeometric(N_s, A_s, B_s)
(2)  p = P(more than that in common) + P(as many) / 2

(2) is the mid-p value: the usual one is too large where numbers are small. A
small p says that it is the images, not the models, that make the leak.
"""

from etils import epy
import numpy as np
import pandas as pd

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import signal, stats


def compare(
  first: np.ndarray,
  second: np.ndarray,
  both: np.ndarray,
  stratum: np.ndarray | None = None,
) -> dict[str, float]:
  """Equations (1) and (2).

  Args:
    first: bool [G], distinct images that one model gives away.
    second: of the other.
    both: that both trained on.
    stratum: int [G]; None is one stratum.
  """
  if stratum is None:
    stratum = np.zeros(len(both), int)
  in_first, in_second = first[both], second[both]
  law, expected = np.ones(1), 0.0
  for name in np.unique(stratum[both]):
    here = stratum[both] == name
    size, a, b = (
      int(here.sum()),
      int(in_first[here].sum()),
      int(in_second[here].sum()),
    )
    most = min(a, b)
    law = signal.convolve(
      law, stats.hypergeom.pmf(np.arange(most + 1), size, a, b), 'full'
    )
    expected += a * b / size
  common = int((in_first & in_second).sum())
  p_value = law[common + 1 :].sum() + 0.5 * law[common]
  return {
    'population': int(both.sum()),
    'first_extracted': int(in_first.sum()),
    'second_extracted': int(in_second.sum()),
    'common': common,
    'expected': expected if both.any() else np.nan,
    'p_value': float(np.clip(p_value, 0.0, 1.0)) if both.any() else np.nan,
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
  times, other_times = trained_on.sum(axis=0), other_trained_on.sum(axis=0)
  return compare(
    hit.sum(axis=0) > 0,
    other_hit.sum(axis=0) > 0,
    (times > 0) & (other_times > 0),
    times * (len(other_trained_on) + 1) + other_times,
  )
