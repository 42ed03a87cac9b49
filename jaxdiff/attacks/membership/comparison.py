"""The tables of attacks as files: where they go, and one row an attack."""

from typing import Protocol

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import (
  controls,
  timestep_rules,
)
from jaxdiff.metrics import roc
from jaxdiff.runs import files


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
  """Writes what `score` made."""
  files.write_csv(files_of.scores, tables['scores'])
  files.write_csv(files_of.summary, tables['summary'])
  files.write_csv(files_of.roc, tables['roc'])
  files.write_csv(files_of.timesteps, tables['timesteps'])
  files.write_csv(files_of.comparison, tables['comparison'])


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
