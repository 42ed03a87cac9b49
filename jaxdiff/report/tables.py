"""Tables of membership attacks, as templates show them."""

from collections.abc import Sequence
from typing import Any

from etils import epath
import pandas as pd

from jaxdiff.attacks.membership import comparison as membership_comparison
from jaxdiff.report import figures, names, parts, policy
from jaxdiff.runs import files

METRICS = ('auc', 'tpr@fpr=0.05', 'tpr@fpr=0.01', 'tpr@fpr=0.001')

# Curves that a figure has colours and dashes for.
_MOST_CURVES = 8


def of_attacks(paths: membership_comparison.Files) -> dict[str, Any]:
  """What `attacks.html.jinja` shows of some attacks, and their ROC curves."""
  comparison = read_comparison(paths)
  best = best_rule(comparison)
  attacks = list(dict.fromkeys(comparison['attack']))
  return {
    'best': rows_of(best),
    'others': rows_of(comparison.drop(best.index)),
    'roc': figures.roc(_named(paths.roc), attacks[:_MOST_CURVES]),
    'shown': [names.title(attack) for attack in attacks[:_MOST_CURVES]],
  }


def read_comparison(paths: membership_comparison.Files) -> pd.DataFrame:
  """The table of all attacks, an empty flag as empty text."""
  comparison = _named(paths.comparison)
  return comparison.assign(flags=parts.words(comparison['flags']))


def _named(path: epath.Path) -> pd.DataFrame:
  """A table whose attacks may be called anything: 1, or NA."""
  table = files.read_csv(path)
  words = files.read_csv(path, dtype=str, keep_default_na=False)
  return table.assign(attack=words['attack'], variance=words['variance'])


def of_blind(blind: pd.Series) -> dict[str, Any]:
  """The blind baseline's verdict."""
  return {
    'auc': parts.of_row(blind.rename({'auc': 'value'})),
    'p_value': f'{blind["p_value"]:.3g}',
    'shifted': bool(blind['shifted']),
  }


def finding(
  paths: membership_comparison.Files, preferred: Sequence[str], sentence: str
) -> str:
  """A sentence on the attack that comes first of those named beforehand.

  The best of many on the same scores would be read as better than it is.

  Args:
    paths: of the tables.
    preferred: names of attacks; if there is none, the first of the table.
    sentence: with {attack} and {auc}.
  """
  best = best_rule(read_comparison(paths))
  there = [name for name in preferred if name in set(best['attack'])]
  name = there[0] if there else best['attack'].iloc[0]
  row = best[best['attack'] == name].iloc[0]
  auc = parts.number(row['auc'], row['auc_low'], row['auc_high'])
  return sentence.format(attack=names.title(name), auc=auc)


def rows_of(comparison: pd.DataFrame) -> list[dict[str, str]]:
  """One row an attack, variance and rule, numbers as text."""
  rows = []
  for _, line in comparison.iterrows():
    rows.append(
      {
        'attack': names.title(line['attack']),
        'variance': line['variance'],
        'rule': line['timestep_rule'].replace('_', ' '),
        't': '-' if str(line['t']) == '-1' else str(line['t']),
        'queries': f'{line["queries"]:g}',
        'shadow_models': str(line['shadow_models']),
        'flags': line['flags'] or 'valid',
      }
      | {
        metric: parts.number(*(line[metric + x] for x in ('', '_low', '_high')))
        for metric in (*METRICS, 'null_auc')
      }
      | {
        f'{metric}_models': parts.span(
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


def metrics(
  paths: membership_comparison.Files,
) -> tuple[tuple[policy.Metric, ...], tuple[policy.Metric, ...]]:
  """What report.json says of attacks, and of their null controls.

  Of each attack at the timestep that `best_rule` chooses, and of LiRA with the
  pooled variance alone.
  """
  found: list[policy.Metric] = []
  controls: list[policy.Metric] = []
  summary = _named(paths.summary)
  best = best_rule(read_comparison(paths))
  for _, row in best[best['variance'].isin(['-', 'pooled'])].iterrows():
    count = int(
      summary[summary['attack'] == row['attack']]['num_examples'].max()
    )
    for name in (*METRICS, 'null_auc'):
      ends = [name + end for end in ('', '_low', '_high')]
      metric = policy.Metric.of(f'{row["attack"]}.{name}', row, ends, count)
      (controls if name == 'null_auc' else found).append(metric)
  return tuple(found), tuple(controls)


def blind_metric(path: epath.Path, name: str, count: int) -> policy.Metric:
  """What report.json says of a blind baseline.

  Args:
    path: of its table.
    name: what it is called there.
    count: of images.
  """
  blind = files.read_csv(path).iloc[0]
  return policy.Metric.of(f'{name}.auc', blind, ('auc', 'low', 'high'), count)
