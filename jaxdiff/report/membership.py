"""The membership section of the report: what its tables say, in words."""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.report import figures, galleries
from jaxdiff.runs import files, layout

METRICS = ('auc', 'tpr@fpr=0.05', 'tpr@fpr=0.01', 'tpr@fpr=0.001')
# Studies that the report draws, and what is along the axis.
_STUDIES = {
  'draws': 'Noise draws averaged',
  'models': 'Models in the run',
  'outliers': 'The tenth farthest from all others, and the nearest',
}


def section(run: layout.Run, pictures: galleries.Pictures) -> dict[str, Any]:
  """What the template needs, by name."""
  comparison = files.read_csv(run.membership_comparison)
  comparison = comparison.assign(flags=_words(comparison['flags']))
  best = best_rule(comparison)
  blind = files.read_csv(run.membership_blind).iloc[0]
  roc = files.read_csv(run.membership_roc)
  timesteps = files.read_csv(run.membership_timesteps)
  losses, others = figures.by_signal(comparison['attack'])
  timestep_figure, metric = figures.timesteps(timesteps, losses)
  studies = files.read_csv(run.membership_studies)
  return {
    'best': rows_of(best),
    'others': rows_of(comparison.drop(best.index)),
    'cheaper': cheaper_and_better(best),
    'blind': {
      'auc': number(blind['auc'], blind['low'], blind['high']),
      'p_value': f'{blind["p_value"]:.3g}',
      'shifted': bool(blind['shifted']),
    },
    'roc': figures.roc(roc, losses),
    'other_roc': figures.roc(roc, others) if others else None,
    'timesteps': timestep_figure,
    'timestep_metric': metric,
    'other_timesteps': (
      figures.timesteps(timesteps, others)[0] if others else None
    ),
    'inference': inference(files.read_csv(run.membership_inference)),
    'studies': [
      {
        'name': name,
        'axis': axis,
        'figure': figures.study(studies[studies['study'] == name], axis),
      }
      for name, axis in _STUDIES.items()
      if name in set(studies['study'])
    ],
    'extremes': [
      {
        'kind': kind,
        'attack': rows['attack'].iloc[0],
        'images': [
          {
            'url': pictures.training(row.index_),
            'index': row.index_,
            'margin': f'{row.margin:.3g}',
          }
          for row in rows.itertuples()
        ],
      }
      for kind, rows in files.read_csv(run.membership_extremes)
      .rename(columns={'index': 'index_'})
      .groupby('kind', sort=False)
    ],
  }


def number(value: float, low: float, high: float, digits: int = 4) -> str:
  """'0.982 (0.971 to 0.990)', or a dash where the data cannot say."""
  if np.isnan(value):
    return '-'
  if np.isnan(low):
    return _text(value, digits)
  low, high = _text(low, digits), _text(high, digits)
  return f'{_text(value, digits)} ({low} to {high})'


def _text(value: float, digits: int) -> str:
  """In so many digits; what is not quite 1 is not rounded to 1."""
  if 1.0 - 10.0**-digits < value < 1.0:
    decimals = min(int(np.ceil(-np.log10(1.0 - value))) + 1, 9)
    return f'{value:.{decimals}f}' if decimals < 9 else 'above 0.9999999'
  return f'{value:.{digits}g}'


def span(low: float, high: float, digits: int = 3) -> str:
  """'0.97 to 0.99', or a dash."""
  if np.isnan(low):
    return '-'
  return f'{_text(low, digits)} to {_text(high, digits)}'


def _words(column: pd.Series) -> pd.Series:
  """Text of a table: empty cells are read as missing numbers."""
  return column.astype(object).fillna('').astype(str)


def rows_of(comparison: pd.DataFrame) -> list[dict[str, str]]:
  """One row an attack, variance and rule, numbers as text."""
  rows = []
  for _, line in comparison.iterrows():
    rows.append(
      {
        'attack': line['attack'],
        'variance': line['variance'],
        'rule': line['timestep_rule'].replace('_', ' '),
        't': '-' if str(line['t']) == '-1' else str(line['t']),
        'queries': f'{line["queries"]:g}',
        'shadow_models': str(line['shadow_models']),
        'flags': line['flags'] or 'valid',
      }
      | {
        metric: number(*(line[metric + x] for x in ('', '_low', '_high')))
        for metric in (*METRICS, 'null_auc')
      }
      | {
        f'{metric}_models': span(
          *(line[f'{metric}_{end}_models'] for end in ('low', 'high'))
        )
        for metric in ('auc', 'tpr@fpr=0.01')
      }
    )
  return rows


def best_rule(comparison: pd.DataFrame) -> pd.DataFrame:
  """One row an attack: its timestep chosen on other models, if it was."""
  valid = comparison[comparison['timestep_rule'] != 'oracle']
  return valid.groupby(['attack', 'variance'], sort=False).tail(1)


def cheaper_and_better(best: pd.DataFrame) -> list[str]:
  """Sentences on attacks that a cheaper one beats, intervals apart.

  Cheaper: no more queries and no more shadow models, and fewer of one.
  """
  out = []
  for _, dear in best.iterrows():
    cheap = best[
      (best['queries'] <= dear['queries'])
      & (best['shadow_models'] <= dear['shadow_models'])
      & (
        (best['queries'] < dear['queries'])
        | (best['shadow_models'] < dear['shadow_models'])
      )
      & (best['auc_low'] > dear['auc_high'])
    ]
    if cheap.empty:
      continue
    won = cheap.sort_values(['shadow_models', 'queries', 'auc']).iloc[0]
    out.append(f'{_costs(won)} beats {_costs(dear)}.')
  return out


def _costs(row: pd.Series) -> str:
  name = row['attack']
  if row['variance'] != '-':
    name += f', {row["variance"]}'
  queries = 'query' if row['queries'] == 1 else 'queries'
  return (
    f'{name} (AUC {row["auc"]:.4f}; {row["queries"]:g} {queries} an image, '
    f'{row["shadow_models"]} shadow models)'
  )


def inference(table: pd.DataFrame) -> list[dict[str, str]]:
  """One row a number of images: median over models, and the range."""
  rows = []
  for count, part in table.groupby('num_images'):
    row = {'num_images': str(count)}
    for name, own in part.groupby('suspects'):
      row[name] = number(*own['share_below_level'].quantile([0.5, 0.0, 1.0]))
    rows.append(row)
  return rows
