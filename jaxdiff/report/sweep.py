"""sweep.csv and sweep.html: what runs memorised, by what set them apart."""

from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.membership import nearest_sample
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.defences import guarantee
from jaxdiff.report import figures_of_runs, parts
from jaxdiff.runs import files, layout
from jaxdiff.sampling import quality as quality_lib

# References of quality.csv, as people read them.
REFERENCES = {
  'training': 'training images',
  'control': 'images never trained on',
}
_DISTANCES = {'fd_pca': 'FD-PCA', 'fid': 'FID'}
_FROM_SAMPLES = ('lira', 'threshold')
_COST = 'images trained on'
_ACCURACY = 'accuracy of a classifier that learned from samples'
# The run that all others are held against.
_BASE = 'base'
# In order of preference.
_ATTACKS = (
  ('strong_lira', 'pooled'), ('strong_threshold', '-'),
  ('relativistic_lira', 'pooled'), ('relativistic', '-'),
  ('discriminator_lira', 'pooled'), ('discriminator', '-'),
)  # fmt: skip
_EXTRACTED, _CONTROLLED = 'share extracted', ', controlled'
_MEMBERSHIP = ('auc', 'tpr@fpr=0.01')
# What `results` may say.
METRICS = (
  _EXTRACTED, _EXTRACTED + _CONTROLLED,
  *(f'{attack} {metric}' for attack, _ in _ATTACKS for metric in _MEMBERSHIP),
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
  metric = _EXTRACTED + ('' if setting == 'chosen' else _CONTROLLED)
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
    of_attack = of_attack[of_attack['metric'].isin(_MEMBERSHIP)]
    rows.append(of_attack.assign(metric=f'{attack} ' + of_attack['metric']))
    break
  table = pd.concat(rows, ignore_index=True)
  table = table.assign(low=table['low_models'], high=table['high_models'])
  return table[['metric', 'value', 'low', 'high']]


def quality(run: layout.Run) -> pd.DataFrame:
  """Distances of samples to real images: median model, lowest and highest.

  FID where it was measured, else FD-PCA, if that was.
  """
  table = files.read_csv(quality_lib.Paths(run).quality)
  measured = [key for key in _DISTANCES if (table['metric'] == key).any()]
  rows = []
  for metric in measured[-1:]:
    table = table[table['metric'] == metric]
    for key, name in REFERENCES.items():
      values = table[table['reference'] == key]['value']
      title = f'{_DISTANCES[metric]} to {name}'
      rows.append((title, *values.quantile([0.5, 0.0, 1.0])))
  columns = ['metric', 'value', 'low', 'high']
  return pd.DataFrame(rows, columns=columns).dropna()


def accuracy(run: layout.Run) -> pd.DataFrame:
  """Of a classifier that learned from samples: median model, and the range."""
  table = files.read_csv(quality_lib.Paths(run).quality)
  table = table[
    (table['metric'] == quality_lib.ACCURACY)
    & (table['reference'] == 'control')
  ]
  rows = []
  if len(table):
    rows.append((_ACCURACY, *table['value'].quantile([0.5, 0.0, 1.0])))
  return pd.DataFrame(rows, columns=['metric', 'value', 'low', 'high'])


def beside(run: layout.Run) -> pd.DataFrame:
  """What else a run is compared by: metric, value, low, high.

  Membership from samples alone, where it was measured; quality; what is proven;
  and cost, as images that each model was trained on, copies and all.
  """
  rows = []
  path = nearest_sample.Paths(run).summary
  if path.exists():
    table = files.read_csv(path)
    table = table[
      table['attack'].isin(_FROM_SAMPLES)
      & (table['metric'] == 'auc')
      & (table['timestep_rule'] != 'oracle')
    ]
    # By LiRA where there are the models for it.
    for attack in _FROM_SAMPLES:
      of_attack = table[table['attack'] == attack]
      if len(of_attack):
        row = of_attack.iloc[-1]
        ends = row['value'], row['low_models'], row['high_models']
        rows.append((f'nearest sample {attack} auc', *ends))
        break
  config = files.read_json(run.config)
  path = guarantee.Paths(run).guarantee
  if path.exists():
    stated = files.read_csv(path)['epsilon'].iloc[0]
    rows.append(('epsilon', stated, np.nan, np.nan))
  if 'train' in config:
    train = config['train']
    steps = train.get('stop_at') or train['num_steps']
    seen = float(steps * train['batch_size'])
    rows.append((_COST, seen, np.nan, np.nan))
  table = pd.DataFrame(rows, columns=['metric', 'value', 'low', 'high'])
  parts_of = [quality(run), accuracy(run), table]
  return pd.concat([x for x in parts_of if len(x)], ignore_index=True)


def against_base(
  table: pd.DataFrame,
) -> Iterator[tuple[str, str, dict[str, list[str]]]]:
  """Every setting beside run `base`, as far as intervals say.

  Args:
    table: of sweep.csv.

  Yields:
    Knob, setting, and the metrics that are surely `less`, surely `more`, or
    the `same` as far as is known.
  """
  base = table[table['run'] == _BASE].drop_duplicates('metric')
  base = base.set_index('metric')
  others = table[table['run'] != _BASE]
  for (knob, setting), rows in others.groupby(['knob', 'setting'], sort=False):
    said: dict[str, list[str]] = {'less': [], 'more': [], 'same': []}
    for row in rows.to_dict('records'):
      name = row['metric']
      before = base.loc[name] if name in base.index else None
      # The range of one model is no range.
      if before is None or not all(
        x['low'] < x['high'] or x['low'] in (0, 1) for x in (row, before)
      ):
        continue
      if row['high'] < before['low']:
        said['less'].append(name)
      elif row['low'] > before['high']:
        said['more'].append(name)
      else:
        said['same'].append(name)
    if any(said.values()):
      yield str(knob), str(setting), said


def summary(table: pd.DataFrame) -> Iterator[str]:
  """Which settings gave away less than `base`, more, or neither for sure.

  Args:
    table: of sweep.csv.
  """
  worse_if_less, worse_if_more = {_ACCURACY}, {
    f'{distance} to {REFERENCES["control"]}' for distance in _DISTANCES.values()
  }  # fmt: skip
  leaks = {
    m for m in table['metric']
    if m in METRICS or m in {f'nearest sample {x} auc' for x in _FROM_SAMPLES}
  }  # fmt: skip
  found: dict[str, list[str]] = {'less': [], 'more': [], 'mixed': [], '': []}
  several = table['knob'].nunique() > 1
  for knob, setting, said in against_base(table):
    if not leaks & {m for names in said.values() for m in names}:
      continue
    less, more = ([m for m in said[k] if m in leaks] for k in ('less', 'more'))
    poor = worse_if_less & {*said['less']} or worse_if_more & {*said['more']}
    good = worse_if_less & {*said['more']} or worse_if_more & {*said['less']}
    key = 'mixed' if less and more else 'less' if less else 'more' * bool(more)
    quality = ''
    if bool(poor) != bool(good):
      quality = f', its samples surely {"worse" if poor else "better"}'
    which = ', '.join(less + more)
    if key == 'mixed':
      which = f'less: {", ".join(less)}; more: {", ".join(more)}'
    name = f'{knob} {setting}' if several else setting
    found[key].append(name + f' ({which}{quality})' * bool(key))
  for key, words in (
    ('less', 'Surely gives away less than the unchanged run'),
    ('more', 'Surely gives away more'),
    ('mixed', 'Less by one attack, more by another'),
    ('', 'What is given away cannot be told apart from the unchanged run'),
  ):
    if found[key]:
      yield f'{words}: {"; ".join(found[key])}.'


def in_words(table: pd.DataFrame) -> Iterator[str]:
  """What each setting did against run `base`, metric by metric.

  Args:
    table: of sweep.csv.
  """
  for knob, setting, said in against_base(table):
    parts_of = [
      f'{words}: {", ".join(said[key])}'
      for key, words in (
        ('less', 'surely less'), ('more', 'surely more'),
        ('same', 'cannot be told apart'),
      )
      if said[key]
    ]  # fmt: skip
    yield f'{knob}, {setting}: {"; ".join(parts_of)}.'


def write(
  name: str,
  points: list[dict[str, Any]],
  folder: epath.Path,
  left_out: Sequence[str] = (),
) -> epath.Path:
  """Writes sweep.csv and sweep.html of finished runs; returns the page.

  Args:
    name: of the experiment.
    points: dicts with `knob`, `value` and `run`, a folder in `folder`.
    folder: of the sweep.
    left_out: sentences about points that were not run.
  """
  tables, drawn = [], set()
  for point in points:
    run = layout.Run(folder / point['run'])
    table = pd.concat([results(run), beside(run)], ignore_index=True)
    drawn |= {*results(run)['metric']}
    for position, key in enumerate(('knob', 'value', 'run')):
      column = 'setting' if key == 'value' else key
      table.insert(position, column, point[key])
    tables.append(table)
  table = pd.concat(tables, ignore_index=True)
  files.write_csv(folder / 'sweep.csv', table)
  text = parts.render(
    'sweep.html.jinja',
    name=name,
    figures=[parts.svg_url(x) for x in _drawn(table, drawn)],
    summary=list(summary(table)),
    said=[*in_words(table), *left_out],
    metrics=list(dict.fromkeys(table['metric'])),
    rows=_rows(table),
  )
  files.write(folder / 'sweep.html', text.encode())
  return folder / 'sweep.html'


# Letters of all settings of a knob that stand beside each other under an axis.
_LETTERS = 24


def _drawn(table: pd.DataFrame, given_away: set[str]) -> Iterator[str]:
  """SVG of the knobs whose settings are short, then of each in words."""
  metrics = [m for m in dict.fromkeys(table['metric']) if m in given_away]
  letters = table.groupby('knob', sort=False)['setting'].agg(
    lambda x: sum(len(str(setting)) for setting in set(x))
  )
  wordy = letters.index[letters > _LETTERS]
  short = table[~table['knob'].isin(wordy)]
  if len(short):
    yield figures_of_runs.sweep(short[short['metric'].isin(metrics)])
  for knob in wordy:
    of_knob = table[table['knob'] == knob].astype({'setting': str})
    measured = [
      f'{distance} to {REFERENCES["control"]}'
      for distance in _DISTANCES.values()
    ]
    quality = [m for m in measured if m in set(of_knob['metric'])]
    yield figures_of_runs.settings(of_knob, metrics, (quality or [''])[-1])


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
