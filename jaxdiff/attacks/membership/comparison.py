"""The tables of attacks as files: where they go, and one row an attack."""

from typing import Protocol

from absl import logging
from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import (
  controls,
  timestep_rules,
)
from jaxdiff.metrics import roc
from jaxdiff.runs import files

# Rows of scores.csv: some 300 MB.
MOST_ROWS = 5_000_000


class Files(Protocol):
  """Where the tables of some attacks go."""

  @property
  def scores(self) -> epath.Path: ...

  @property
  def summary(self) -> epath.Path: ...

  @property
  def roc(self) -> epath.Path: ...

  @property
  def timesteps(self) -> epath.Path: ...

  @property
  def comparison(self) -> epath.Path: ...


def write(tables: dict[str, pd.DataFrame], files_of: Files) -> None:
  """Writes what `score` made.

  Scores of hundreds of models are gigabytes as CSV. Above MOST_ROWS all of them
  go to scores_all.parquet, and scores.csv has those of the first models alone.
  """
  scores = tables['scores']
  every = files_of.scores.parent / 'scores_all.parquet'
  if len(scores) > MOST_ROWS:
    files.write_parquet_of(every, scores)
    first = first_models(scores['model'].to_numpy(), MOST_ROWS)
    logging.warning(
      '%s has the scores of the first %d models; %s has all %d',
      files_of.scores, len(first), every.name, len(scores),
    )  # fmt: skip
    scores = scores[scores['model'].isin(first)]
  else:
    every.unlink(missing_ok=True)
  files.write_csv(files_of.scores, scores)
  files.write_csv(files_of.summary, tables['summary'])
  files.write_csv(files_of.roc, tables['roc'])
  files.write_csv(files_of.timesteps, tables['timesteps'])
  files.write_csv(files_of.comparison, tables['comparison'])


def first_models(model: np.ndarray, most: int) -> np.ndarray:
  """The first models, one at least, that have `most` rows together at most.

  Args:
    model: [rows], numbers or names.
    most: rows.
  """
  place, models = pd.factorize(model)
  rows = np.cumsum(np.bincount(place))
  return np.asarray(models[: max(1, int((rows <= most).sum()))])


def blind_table(blind: controls.Blind) -> pd.DataFrame:
  """The blind baseline's verdict, one row."""
  return pd.DataFrame(
    [
      {
        'auc': blind.auc, 'low': blind.low, 'high': blind.high,
        'p_value': blind.p_value, 'shifted': int(blind.shifted),
      }
    ]
  )  # fmt: skip


def of_summary(summary: pd.DataFrame, shifted: bool) -> pd.DataFrame:
  """One row an attack and rule: cost, AUC, TPR, and whether it is valid.

  Args:
    summary: of all attacks.
    shifted: the blind baseline told members apart.

  Returns:
    Columns attack, variance, timestep_rule, t, queries, shadow_models; value,
    low, high, low_models and high_models of each metric, null_auc among them;
    flags, words separated by '; ', empty for a valid result.
  """
  rows = []
  keys = ['attack', 'variance', 'timestep_rule', 't', 'queries',
          'shadow_models']  # fmt: skip
  for values, group in summary.groupby(keys, sort=False):
    row = dict(zip(keys, values, strict=True))
    flags = []
    if row['timestep_rule'] == timestep_rules.ORACLE:
      flags.append('oracle: timestep chosen on the target')
    if shifted:
      flags.append('split is shifted')
    for statistic in group.itertuples():
      row[statistic.metric] = statistic.value
      for end in ('low', 'high', 'low_models', 'high_models'):
        row[f'{statistic.metric}_{end}'] = getattr(statistic, end)
      if statistic.metric.startswith('tpr'):
        rate = statistic.metric.removeprefix('tpr@fpr=')
        if np.isnan(statistic.value):
          flags.append(f'too few non-members for FPR {rate}')
        elif statistic.num_non_members * float(rate) < roc.FEW:
          flags.append(f'few non-members for FPR {rate}')
    if np.isnan(row['null_auc']):
      flags.append('too few non-members for a null control')
    elif not row['null_auc_low'] <= 0.5 <= row['null_auc_high']:
      flags.append('null control failed')
    rows.append({**row, 'flags': '; '.join(flags)})
  return pd.DataFrame(rows)
