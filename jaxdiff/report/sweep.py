"""sweep.csv and sweep.html: what runs memorised, by what set them apart."""

from typing import Any

from etils import epath
import pandas as pd

from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.report import figures, parts
from jaxdiff.runs import files, layout

# In order of preference.
_ATTACKS = (
  ('strong_lira', 'pooled'), ('strong_threshold', '-'),
  ('relativistic_lira', 'pooled'), ('relativistic', '-'),
  ('discriminator_lira', 'pooled'), ('discriminator', '-'),
)  # fmt: skip


def results(run: layout.Run) -> pd.DataFrame:
  """Extraction and membership of one run: metric, value, low, high.

  Extraction is pooled over targets, alpha chosen on the other models, or by
  the control where there are none (0 where none is safe); membership is
  LiRA's, at a timestep chosen on other models, or the threshold's where too few
  models remain. Intervals are over models too:
  what is compared across runs is what newly trained models would show.
  """
  table = files.read_csv(extraction_paths.Paths(run).summary)
  # One target, or two that share a split, have no others to choose on.
  setting = 'chosen' if 'chosen' in set(table['setting']) else 'controlled'
  extracted = table[
    (table['setting'] == setting)
    & (table['target'] == 'pooled')
    & (table['metric'] == 'extracted_fraction')
  ]
  table = files.read_csv(membership_paths.Paths(run).summary)
  table = table[table['timestep_rule'] != 'oracle']
  metric = 'share extracted' + ('' if setting == 'chosen' else ', controlled')
  rows = [extracted.assign(metric=metric)]
  for attack, variance in _ATTACKS:
    of_attack = table[
      (table['attack'] == attack) & (table['variance'] == variance)
    ]
    if of_attack.empty:
      continue
    of_attack = of_attack[
      of_attack['timestep_rule'] == of_attack['timestep_rule'].iloc[-1]
    ]
    of_attack = of_attack[of_attack['metric'].isin(('auc', 'tpr@fpr=0.01'))]
    rows.append(of_attack.assign(metric=f'{attack} ' + of_attack['metric']))
    break
  table = pd.concat(rows, ignore_index=True)
  table = table.assign(low=table['low_models'], high=table['high_models'])
  return table[['metric', 'value', 'low', 'high']]


def write(
  name: str, points: list[dict[str, Any]], folder: epath.Path
) -> epath.Path:
  """Writes sweep.csv and sweep.html of finished runs; returns the page.

  Args:
    name: of the experiment.
    points: dicts with `knob`, `value` and `run`, a folder in `folder`.
    folder: of the sweep.
  """
  tables = []
  for point in points:
    table = results(layout.Run(folder / point['run']))
    for position, key in enumerate(('knob', 'value', 'run')):
      column = 'setting' if key == 'value' else key
      table.insert(position, column, point[key])
    tables.append(table)
  table = pd.concat(tables, ignore_index=True)
  files.write_csv(folder / 'sweep.csv', table)
  text = parts.render(
    'sweep.html.jinja',
    name=name,
    figure=parts.svg_url(figures.sweep(table)),
    metrics=list(dict.fromkeys(table['metric'])),
    rows=_rows(table),
  )
  files.write(folder / 'sweep.html', text.encode())
  return folder / 'sweep.html'


def _rows(table: pd.DataFrame) -> list[dict[str, str]]:
  """One a point, metrics as 'value (low to high)'."""
  rows = []
  for (knob, setting, run), group in table.groupby(
    ['knob', 'setting', 'run'], sort=False
  ):
    row = {'knob': knob, 'setting': setting, 'run': run}
    for _, line in group.iterrows():
      row[line['metric']] = parts.of_row(line)
    rows.append(row)
  return rows
