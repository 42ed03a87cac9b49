"""compare.csv and compare.html: families of models side by side.

Never one number a family: how much is given away is drawn against training
steps and against the quality of the samples, which is what one pays with. Runs
are on the same images and drew equally many samples of each model.
"""

from collections.abc import Iterator
import itertools
import re

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import followups
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.report import figures_of_runs, parts, steps
from jaxdiff.runs import files, layout

COLUMNS = ('family', 'step', 'metric', 'value', 'low', 'high', 'of')
# Keys and groups that attacks depend on.
_SAME = ('num_models', 'split', 'flip', 'extraction')
# Quality of samples, that which families are compared at.
_QUALITY = 'to images never trained on'


def results(name: str, run: layout.Run) -> pd.DataFrame:
  """What one family gave away and how good it was, by step: COLUMNS.

  Args:
    name: of the family.
    run: its finished run; of every checkpoint, if `launch.attack_checkpoints`
      attacked them.
  """
  if run.steps_table.exists():
    table = files.read_csv(run.steps_table)
  else:
    train = files.read_json(run.config)['train']
    last = train.get('stop_at') or train['num_steps']
    table = steps.results(run).assign(step=last)
  # Each family has its own best-known signal, which the column `of` names.
  shown, of = [], []
  for metric in table['metric']:
    attack = re.fullmatch(r'(\S+) (auc|tpr@fpr=0\.01)', metric)
    name_of = metric.removesuffix(', controlled')
    controlled = metric != name_of
    shown.append(f'membership {attack[2]}' if attack else name_of)
    of.append(attack[1] if attack else 'controlled' if controlled else '')
  table = table.assign(family=name, metric=shown, of=of)
  return table[list(COLUMNS)]


def check(runs: dict[str, layout.Run]) -> None:
  """Raises InputError for runs that cannot be compared."""
  if len(runs) < 2:
    raise inputs.InputError('--run: name two runs at least, as NAME=FOLDER')
  seen: dict[str, dict] = {}
  for name, run in runs.items():
    if not extraction_paths.Paths(run).matches.exists():
      raise inputs.InputError(
        f'--run={name}: {inputs.name_of(str(run.path))} holds no finished audit'
      )
    if not run.model_blocks(0, 1):
      raise inputs.InputError(
        f'--run={name}: {inputs.name_of(str(run.path))} trained no models'
      )
    config = files.read_json(run.config)
    if 'num_samples' not in config:
      raise inputs.InputError(
        f'--run={name}: its samples are by prompt; families are compared by '
        'samples of each model'
      )
    with inputs.reading(run.provenance, f'--run={name}: is damaged'):
      seen[name] = {
        'images': files.read_json(run.provenance)['data_sha256'],
        'samples': config['num_samples'],
        'same': {key: config[key] for key in _SAME},
      }
  first = next(iter(seen))
  for name, what in seen.items():
    if what['images'] != seen[first]['images']:
      raise inputs.InputError(
        f'--run: {first} and {name} are of other images (SHA-256 differs)'
      )
    if what['samples'] != seen[first]['samples']:
      raise inputs.InputError(
        f'--run: {first} drew {seen[first]["samples"]} samples of each model, '
        f'{name} {what["samples"]}: who draws more finds more; make '
        'num_samples equal'
      )

  for name, what in seen.items():
    differ = [
      key for key in _SAME if what['same'][key] != seen[first]['same'][key]
    ]
    if differ:
      raise inputs.InputError(
        f'--run: {first} and {name} differ in {", ".join(differ)}: attacks are '
        'the same where these are'
      )


def at_equal_quality(table: pd.DataFrame) -> tuple[str, float, pd.DataFrame]:
  """What families gave away when their samples were first as good.

  The quality is the best that every family reached: that of the one whose best
  is worst.

  Args:
    table: COLUMNS.

  Returns:
    The measure of quality, its value, and the rows of each family at the first
    step that reached it. Without quality, '' and the last step of each.
  """
  names = [m for m in table['metric'].unique() if m.endswith(_QUALITY)]
  of_all = [
    m for m in names
    if set(table['family'][table['metric'] == m]) == set(table['family'])
  ]  # fmt: skip
  if not of_all:
    last = table.groupby('family')['step'].transform('max')
    return '', np.nan, table[table['step'] == last]
  quality = table[table['metric'] == of_all[-1]]
  level = float(quality.groupby('family')['value'].min().max())
  reached = quality[quality['value'] <= level].groupby('family')['step'].min()
  chosen = table['family'].map(reached) == table['step']
  return of_all[-1], level, table[chosen]


def in_words(table: pd.DataFrame) -> Iterator[str]:
  """Sentences that follow from the numbers, of every two families.

  Args:
    table: COLUMNS.
  """
  quality, level, chosen = at_equal_quality(table)
  where = 'At the last step of each'
  if quality:
    where = f'When samples were first as near as {level:.3g} ({quality})'
  for metric, rows in chosen.groupby('metric', sort=False):
    if metric.endswith(_QUALITY) or 'FD-PCA' in metric or 'FID' in metric:
      continue
    for first, second in itertools.combinations(rows['family'], 2):
      a, b = (rows[rows['family'] == name].iloc[0] for name in (first, second))
      if np.isnan([a['value'], b['value']]).all():
        continue
      said = (
        f'{where}, {metric}: {first} {parts.of_row(a)} at step {a["step"]}, '
        f'{second} {parts.of_row(b)} at step {b["step"]}: '
      )
      if np.isnan([a['low'], a['high'], b['low'], b['high']]).any():
        yield said + 'without intervals, they cannot be told apart.'
      elif a['low'] > b['high']:
        yield said + f'{first} gives away more.'
      elif b['low'] > a['high']:
        yield said + f'{second} gives away more.'
      else:
        yield said + 'the intervals overlap; they cannot be told apart.'


def overlaps(runs: dict[str, layout.Run]) -> pd.DataFrame:
  """What every two families give away both, beside what chance would have."""
  rows = []
  for first, second in itertools.combinations(runs, 2):
    for setting, found in followups.between_runs(runs[first], runs[second]):
      rows.append(
        {'first': first, 'second': second, 'setting': setting, **found}
      )
  return pd.DataFrame(rows)


def write(runs: dict[str, layout.Run], folder: epath.Path) -> epath.Path:
  """Writes compare.csv, overlap.csv and compare.html; returns the page.

  Args:
    runs: finished runs by the name of their family.
    folder: where to.

  Raises:
    InputError: if they cannot be compared.
  """
  check(runs)
  table = pd.concat(
    [results(name, run) for name, run in runs.items()], ignore_index=True
  )
  shared = overlaps(runs)
  files.write_csv(folder / 'compare.csv', table)
  files.write_csv(folder / 'overlap.csv', shared)
  metrics = list(dict.fromkeys(table['metric']))
  # A rate that too few images can show has no value.
  measured = set(table['metric'][table['value'].notna()])
  given_away = [
    m for m in metrics if m in measured and 'FD-PCA' not in m and 'FID' not in m
  ]
  quality, level, chosen = at_equal_quality(table)
  rows = []
  for (family, step), group in table.groupby(['family', 'step'], sort=False):
    row = {'family': family, 'step': step}
    for _, line in group.iterrows():
      row[line['metric']] = parts.of_row(line)
    rows.append(row)
  of_attack = table['metric'].str.startswith('membership')
  attacks = table[of_attack].groupby('family', sort=False)['of'].first()
  text = parts.render(
    'compare.html.jinja',
    families=list(runs),
    figure=parts.svg_url(figures_of_runs.compare(table, given_away, quality)),
    said=list(in_words(table)),
    attacks=attacks.to_dict(),
    controlled=bool((table['of'] == 'controlled').any()),
    metrics=metrics,
    rows=rows,
    overlap=shared.to_dict('records'),
    at={row['family']: int(row['step']) for _, row in chosen.iterrows()},
    quality=quality,
    level=f'{level:.3g}',
  )
  files.write(folder / 'compare.html', text.encode())
  return folder / 'compare.html'
