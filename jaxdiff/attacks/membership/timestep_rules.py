"""Which timestep an attack reads: fixed, chosen on other models, the best."""

import numpy as np

from jaxdiff.attacks.membership import (
  registry,
)
from jaxdiff.metrics import roc

ORACLE = 'oracle'


def choose_on_others(
  attack: registry.Attack,
  read: np.ndarray,
  scores: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
) -> np.ndarray | None:
  """For each target, the timestep with the best AUC on the other models.

  The target's models take no part, neither as targets nor as shadows.

  Args:
    attack: of any kind.
    read: [K, N, T, C], what it reads at each timestep.
    scores: [K, N, T], of all models; those of an attack without shadow models
      are the same whoever is left out.
    keep: bool [K, N].
    left_out: int [K].

  Returns:
    int [K], places among the timesteps, or None if too few models remain for
    the attack, or it has one timestep.
  """
  if read.shape[2] == 1:
    return None
  column = np.zeros(len(keep), dtype=int)
  for group in np.unique(left_out):
    rest = left_out != group
    if not rest.any():
      return None
    enough = attack.usable(keep[rest], left_out[rest])
    if not enough.any():
      return None
    if attack.shadows == 'none':
      found = scores[rest]
    else:
      found = attack.grid(read[rest], keep[rest], left_out[rest])
    column[~rest] = best_timestep(found, keep[rest], enough)
  return column


# AUCs as near as this to the best are as good: the first of them is taken, so
# that rounding does not choose.
_AS_GOOD = 1e-4


def best_timestep(
  scores: np.ndarray, keep: np.ndarray, usable: np.ndarray
) -> int:
  """Place of the largest AUC: [K, N, T], bool [K, N], bool [K, N]."""
  aucs = np.array(
    [
      roc.statistics(
        roc.rank(scores[usable][:, q], keep[usable], resolved=True), fprs=()
      )['auc']
      for q in range(scores.shape[-1])
    ]
  )
  return int(np.argmax(aucs >= aucs.max() - _AS_GOOD))


def scores_at(
  attack: registry.Attack,
  scores: np.ndarray,
  column: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
) -> np.ndarray:
  """Scores [K, N] at each target's timestep, on one scale for all targets.

  A likelihood ratio has its scale already. A threshold score is a loss, whose
  size depends on the timestep: where targets differ in it, scores are
  standardised by those of the *other* models' non-members at that timestep.

  Args:
    attack: that made the scores.
    scores: [K, N, T].
    column: int [K].
    keep: bool [K, N].
    left_out: int [K].
  """
  picked = np.take_along_axis(scores, column[:, None, None], axis=2)[..., 0]
  if attack.shadows != 'none' or (column == column[0]).all():
    return picked
  out = np.empty(picked.shape, np.float64)
  for model, q in enumerate(column):
    rest = left_out != left_out[model]
    others = scores[rest, :, q][~keep[rest]]
    out[model] = (picked[model] - others.mean()) / others.std()
  return out
