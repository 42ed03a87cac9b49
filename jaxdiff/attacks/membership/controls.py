"""What must hold before a membership result means membership.

* Blind baseline (Das et al. 2024; CopyMark, 2024): a classifier that sees
  images alone, or their captions, cross-validated, must not tell members from
  non-members. If it does, the two sides differ by themselves, and so may any
  attack's scores. The verdict is a permutation test: exact, whatever the
  classifier, where groups are of one side; cautious where some are of both.
* Null control: an attack's scores of non-members, one random half of which is
  called members, must give an AUC of 1/2 within its interval.
"""

from collections.abc import Callable
from typing import NamedTuple

from etils import epy
import numpy as np
import threadpoolctl

from jaxdiff.attacks.membership import image_features
from jaxdiff.metrics import bootstrap
from jaxdiff.runtime import prng

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats
  from sklearn import linear_model, model_selection, preprocessing

_FOLDS = 5
_PERMUTATIONS = 199
# Labels in memory together.
_LABELS = 2**24
# Sharp splits of pairs that are equal by chance: 1 audit in 100.
SHIFTED = 0.01
# An audit has dozens of controls: one in a thousand fails by chance.
_CONTROL_LEVEL = 0.999


class Blind(NamedTuple):
  """Verdict of the blind baseline.

  Attributes:
    scores: [G, N], of the first model of each group left out together.
    members: bool [G, N].
    auc: pooled, with its interval.
    low: of the interval.
    high: likewise.
    p_value: one-sided, by permutation.
  """

  scores: np.ndarray
  members: np.ndarray
  auc: float
  low: float
  high: float
  p_value: float

  @property
  def shifted(self) -> bool:
    """Whether images alone betray the split."""
    return self.p_value <= SHIFTED


def blind(
  images: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  group: np.ndarray,
  seed: int,
  num_resamples: int,
) -> Blind:
  """`blind_by` what images uint8 [N, H, W, C] look like."""
  return blind_by(
    image_features.describe(images), keep, left_out, group, seed, num_resamples
  )


def _cross_validation(
  features: np.ndarray, group: np.ndarray, seed: int
) -> Callable[[np.ndarray], np.ndarray]:
  """bool [R, N] -> scores [R, N], from ridge regressions on the other folds."""
  x = preprocessing.StandardScaler().fit_transform(features)
  folds = min(_FOLDS, len(np.unique(group)))
  splitter = model_selection.GroupKFold(folds, shuffle=True, random_state=seed)
  splits = list(splitter.split(x, groups=group))

  def scores_of(labels: np.ndarray) -> np.ndarray:
    out = np.empty(labels.shape)
    for train, test in splits:
      ridge = linear_model.Ridge(alpha=float(x.shape[1]))
      ridge.fit(x[train], labels[:, train].T.astype(np.float64))
      out[:, test] = ridge.predict(x[test]).T.reshape(len(labels), -1)
    return out

  return scores_of


@threadpoolctl.threadpool_limits.wrap(limits=1)
def cross_validated(
  features: np.ndarray, labels: np.ndarray, group: np.ndarray, seed: int
) -> np.ndarray:
  """Scores [R, N] of labels bool [R, N] by what is seen, as `blind_by` does.

  Args:
    features: float [N, F], made without any model.
    labels: what is told apart.
    group: int [N]: rows of one group share a fold.
    seed: of the folds.
  """
  return _cross_validation(features, group, seed)(labels)


# On a busy machine threads wait for each other longer than they compute.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def blind_by(
  features: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  group: np.ndarray,
  seed: int,
  num_resamples: int,
) -> Blind:
  """The blind baseline: ridge regression of membership on what is seen.

  Args:
    features: float [N, F], made without any model.
    keep: bool [K, N].
    left_out: int [K].
    group: int [N]: images of one group share a fold, and are permuted together.
    seed: of the permutations.
    num_resamples: of the interval.
  """
  _, first = np.unique(left_out, return_index=True)
  members = keep[first]
  names, position = np.unique(group, return_inverse=True)
  scores_of = _cross_validation(features, group, seed)

  def aucs(labels: np.ndarray) -> np.ndarray:
    ranks = stats.rankdata(scores_of(labels), axis=1)
    ones = labels.sum(axis=1)
    above = (ranks * labels).sum(axis=1) - ones * (ones + 1) / 2
    return above / (ones * (labels.shape[1] - ones))

  rng = prng.rng(seed, 'control', 0)
  # Each group takes the label of another, whole. Many permutations are labels
  # of one regression.
  one_each = np.zeros(len(names), int)
  one_each[position] = np.arange(len(position))
  at_once = max(1, _LABELS // members.size)
  chance = []
  for start in range(0, _PERMUTATIONS, at_once):
    permuted = [
      members[:, one_each[rng.permutation(len(names))][position]]
      for _ in range(start, min(start + at_once, _PERMUTATIONS))
    ]
    found = aucs(np.concatenate(permuted))
    chance += found.reshape(len(permuted), -1).mean(axis=1).tolist()
  scores = scores_of(members)
  auc, low, high = bootstrap.cluster_bootstrap_roc(
    scores, members, np.broadcast_to(group, scores.shape),
    num_resamples=num_resamples, seed=seed, fprs=(),
  )['auc']  # fmt: skip
  reached = (np.array(chance) >= aucs(members).mean()).sum()
  p_value = (1 + reached) / (1 + _PERMUTATIONS)
  return Blind(scores, members, auc, low, high, float(p_value))


def null_control(
  scores: np.ndarray,
  other: np.ndarray,
  cluster: np.ndarray,
  seed: int,
  num_resamples: int,
  level: float = _CONTROL_LEVEL,
  resolved: bool = True,
) -> tuple[float, float, float]:
  """AUC of one half of the non-members against the other, and its interval.

  Args:
    scores: [K, N] of an attack.
    other: bool [K, N], non-members that have a score.
    cluster: int [N]: rows of one cluster fall into one half.
    seed: of the halves.
    num_resamples: of the interval.
    level: of the interval.
    resolved: whether scores are compared by ramps.
  """
  names = np.unique(cluster)
  rng = prng.rng(seed, 'control', 1)
  half = rng.permutation(names)[: len(names) // 2]
  called = np.broadcast_to(np.isin(cluster, half), scores.shape)
  where = np.broadcast_to(cluster, scores.shape)
  if len(np.unique(called[other])) < 2:
    # So few non-members that all of them are in one half.
    few = np.unique(where[other])
    called = np.isin(where, few[: len(few) // 2])
    if len(few) < 2:
      return np.nan, np.nan, np.nan
  return bootstrap.cluster_bootstrap_roc(
    scores[other], called[other], where[other], num_resamples=num_resamples,
    seed=seed, fprs=(), level=level, resolved=resolved,
  )['auc']  # fmt: skip
