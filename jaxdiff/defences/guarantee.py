"""A guarantee held against what attacks measured: ceiling.csv, audit.csv.

With epsilon and delta of `accounting`, no membership attack has a true-positive
rate above the ceiling: one that does shows a bug, in the training or in the
audit. What each model's scores say of epsilon themselves, from one training
run, is a bound from below (Mahloujifar et al. 2024, "Auditing f-Differential
Privacy in One Run"; jax-privacy tests the trade-off of a Gaussian mechanism of
that epsilon and delta), which can never be more than so many examples allow.

Both are about an example that is in or out by a coin of its own: `proven` says
whether the split was drawn so.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.defences import accounting
from jaxdiff.runs import files, layout

# Of the bounds from below.
SIGNIFICANCE = 0.05
# Of the attack whose scores are audited, in order of preference: thresholds,
# which know nothing of other examples' membership.
AUDITED = ('strong_threshold', 'threshold')
_RATES = 'tpr@fpr='


class Paths(layout.Part):
  """What is guaranteed, and what was measured."""

  guarantee = layout.File('private/guarantee.csv')
  ceiling = layout.File('private/ceiling.csv')
  verdicts = layout.File('private/verdicts.csv')
  audit = layout.File('private/audit.csv')


@dataclasses.dataclass(frozen=True)
class GuaranteePlan:
  """All that is held against each other; made by `plans`.

  Attributes:
    mechanism: of private training; None where it is not.
    epsilon: that it keeps to; infinite where it does not.
    delta: of it, and of the bounds from below.
    warm_epsilon: what the first phase alone takes.
    clip_norm: largest norm of an example's gradient.
    multiplicity: noise draws of an example.
    proven: whether examples are in or out by coins of their own.
  """

  mechanism: accounting.Mechanism | None
  epsilon: float
  delta: float
  warm_epsilon: float
  clip_norm: float
  multiplicity: int
  proven: bool


def analyse(plan: GuaranteePlan, run: layout.Run) -> None:
  """Writes the tables from those of membership."""
  of_membership = membership_paths.Paths(run)
  paths = Paths(run)
  files.write_csv(paths.guarantee, _guarantee(plan))
  fprs = np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 200)])
  files.write_csv(
    paths.ceiling,
    pd.DataFrame({'fpr': fprs, 'ceiling': _ceiling(plan, fprs)}),
  )
  files.write_csv(
    paths.verdicts, verdicts(plan, files.read_csv(of_membership.summary))
  )
  files.write_csv(
    paths.audit, audit(files.read_csv(of_membership.scores), plan.delta)
  )


def _ceiling(plan: GuaranteePlan, fprs: np.ndarray) -> np.ndarray:
  if plan.mechanism is None:
    return np.ones(len(fprs))
  return accounting.ceiling(plan.mechanism, fprs)


def _guarantee(plan: GuaranteePlan) -> pd.DataFrame:
  """What is stated: one row."""
  row = {
    'epsilon': plan.epsilon,
    'delta': plan.delta,
    'relation': accounting.RELATION,
    'sampling': accounting.SAMPLING,
    'proven': int(plan.proven),
  }
  if plan.mechanism is not None:
    row |= dataclasses.asdict(plan.mechanism) | {
      'share': plan.mechanism.share,
      'clip_norm': plan.clip_norm,
      'multiplicity': plan.multiplicity,
      'warm_epsilon': plan.warm_epsilon,
    }
  return pd.DataFrame([row])


def verdicts(plan: GuaranteePlan, summary: pd.DataFrame) -> pd.DataFrame:
  """Every attack at every rate: its TPR, the ceiling, and whether it is above.

  Above is a rate whose lower end is: the lower of both intervals, over examples
  and over models too.

  Args:
    plan: with the guarantee.
    summary: membership/summary.csv.
  """
  rows = summary[summary['metric'].str.startswith(_RATES)]
  rows = rows[rows['timestep_rule'] != 'oracle'].dropna(subset=['value'])
  fpr = rows['metric'].str.removeprefix(_RATES).astype(float).to_numpy()
  low = rows[['low', 'low_models']].min(axis=1).to_numpy()
  limit = _ceiling(plan, fpr)
  return pd.DataFrame(
    {
      'attack': rows['attack'].to_numpy(),
      'variance': rows['variance'].to_numpy(),
      'timestep_rule': rows['timestep_rule'].to_numpy(),
      'fpr': fpr,
      'tpr': rows['value'].to_numpy(),
      'low': low,
      'high': rows['high'].to_numpy(),
      'ceiling': limit,
      'above': (low > limit).astype(int),
    }
  )


def audit(scores: pd.DataFrame, delta: float) -> pd.DataFrame:
  """What each model's own scores prove of epsilon: a row a model.

  Args:
    scores: membership/scores.csv.
    delta: of the bounds.

  Returns:
    model, attack, members, non_members, bound, cap: the largest bound that so
    many examples allow.
  """
  there = set(scores['attack'])
  name = next((name for name in AUDITED if name in there), None)
  rows: list[Sequence] = []
  if name is not None:
    chosen = scores[scores['attack'] == name]
    # At a fixed timestep: one that is chosen looks at examples.
    chosen = chosen[chosen['timestep_rule'] == 'fixed']
    for model, part in chosen.groupby('model'):
      inside = part['score'][part['member'] == 1].to_numpy()
      outside = part['score'][part['member'] == 0].to_numpy()
      rows.append(
        (
          model, name, len(inside), len(outside),
          lower_bound(inside, outside, delta),
          lower_bound(np.ones(len(inside)), np.zeros(len(outside)), delta),
        )
      )  # fmt: skip
  names = ['model', 'attack', 'members', 'non_members', 'bound', 'cap']
  return pd.DataFrame(rows, columns=names)


def lower_bound(inside: np.ndarray, outside: np.ndarray, delta: float) -> float:
  """Of epsilon, at 95 %, from scores that are larger for members."""
  # Brings dp-accounting along: only who audits waits for it.
  from jax_privacy import auditing

  auditor = auditing.CanaryScoreAuditor(inside, outside)
  return float(auditor.epsilon_one_run_fdp(SIGNIFICANCE, delta))
