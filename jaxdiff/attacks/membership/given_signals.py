"""Membership tables of scores and signals that were measured elsewhere.

A verdict is ranked as it is. A signal of several models is calibrated too, by
LiRA and RMIA, as far as there are the shadow models. Scores are compared as
they are, without ramps (`roc`, equation 3): AUC and TPR are those of any other
program.
"""

import dataclasses

import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import comparison as membership_comparison
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import lira, registry
from jaxdiff.attacks.membership.signals import base
from jaxdiff.data.readers import score_set
from jaxdiff.runs import layout


class Paths(layout.Part):
  """Tables of scores that were measured elsewhere."""

  scores = layout.File('scores/scores.csv')
  summary = layout.File('scores/summary.csv')
  roc = layout.File('scores/roc.csv')
  timesteps = layout.File('scores/columns.csv')
  comparison = layout.File('scores/comparison.csv')


@dataclasses.dataclass(frozen=True)
class GivenPlan:
  """All that the evaluation needs; made by `plans`.

  Attributes:
    scores: examples, models and what is made of the signals; its `timestep`,
      0, is the first column of a signal.
    given: what was measured.
  """

  scores: membership_evaluate.MembershipPlan
  given: score_set.ScoreSet


def attacks(given: score_set.ScoreSet) -> list[registry.Attack]:
  """What is made of every signal; a verdict is ranked alone."""
  several = len(given.columns) > 1
  chosen = []
  for column in given.columns:
    on_it = registry.on_signal(column.name, lira.VARIANCES)
    if column.final:
      chosen.append(dataclasses.replace(on_it[0], name=column.name))
      continue
    chosen += [
      dataclasses.replace(
        attack, name=f'{column.name}_{attack.name}' if several else attack.name
      )
      for attack in on_it
    ]
  return chosen


def queries_of(given: score_set.ScoreSet) -> pd.DataFrame:
  """The columns of all signals; the place of one stands where others have t."""
  return base.table(
    [
      (column.name, place, 0, 0, '', 0.0)
      for column in given.columns
      for place in range(column.values.shape[2])
    ]
  )


def analyse(plan: GivenPlan, run: layout.Run) -> None:
  """Writes the tables of scores/."""
  queries = queries_of(plan.given)
  signals = np.concatenate([x.values for x in plan.given.columns], axis=2)
  tables = membership_evaluate.score(
    plan.scores, signals, queries, attacks(plan.given), shifted=False
  )
  models = np.array(plan.given.models, object)
  names = np.array(plan.given.examples, object)
  scores = tables['scores']
  tables['scores'] = scores.assign(
    model=models[scores['model']], example=names[scores['index']]
  )
  membership_comparison.write(tables, Paths(run))
