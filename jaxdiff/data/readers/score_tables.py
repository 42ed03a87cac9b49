"""A table of scores, CSV or Parquet: a row a model and example."""

import io
import pathlib

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.data.readers import score_set, tables

with epy.lazy_imports():  # slow to import, not always needed
  from pyarrow import parquet

COLUMNS = ('model', 'example', 'member', 'score')


def table(
  files: score_set.Files, path: pathlib.Path, sign: float
) -> score_set.ScoreSet:
  """A row a model and example, and perhaps attack."""
  content = files.read(path)
  with inputs.reading(path, 'no whole table'):
    if path.suffix.lower() == '.parquet':
      file = parquet.ParquetFile(io.BytesIO(content))
      wanted = [*COLUMNS, 'attack']
      sizes = [
        file.metadata.row_group(k).total_byte_size
        for k in range(file.num_row_groups)
      ]
      inputs.check_size(path, 8 * sum(sizes))
      table = file.read(
        columns=[name for name in wanted if name in file.schema_arrow.names]
      ).to_pandas()
    else:
      table = tables.read(
        content,
        {'model': str, 'example': str, 'attack': str},
        na_values={'score': [''], 'member': ['']},
      )
  missing = [name for name in COLUMNS if name not in table]
  if missing:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: has no column {missing[0]}; it wants '
      f'{", ".join(COLUMNS)} and perhaps attack'
    )
  if table.empty:
    raise inputs.InputError(f'{inputs.name_of(path)}: holds no score')
  words = table['member'].map(lambda value: str(value).strip().lower())
  known = {'1': True, '0': False, 'true': True, 'false': False, '1.0': True,
           '0.0': False}  # fmt: skip
  if not words.isin(list(known)).all():
    line = int(np.flatnonzero(~words.isin(list(known)))[0]) + 2
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {line}: member is '
      f'{inputs.one_line(repr(words.iloc[line - 2]), 40)}; 1 or 0'
    )
  score = pd.to_numeric(table['score'], errors='coerce').to_numpy(np.float64)
  if not np.isfinite(score).all():
    line = int(np.flatnonzero(~np.isfinite(score))[0]) + 2
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {line}: the score is no finite number'
    )
  member = words.map(known).to_numpy(bool)
  for name in ('model', 'example', 'attack'):
    if name not in table:
      continue
    empty = table[name].isna() | (table[name].astype(str).str.strip() == '')
    if empty.any():
      raise inputs.InputError(
        f'{inputs.name_of(path)} line {int(np.flatnonzero(empty)[0]) + 2}: '
        f'{name} is empty'
      )
  model, models = _codes(table['model'])
  example, examples = _codes(table['example'])
  shape = (len(models), len(examples))
  names = [inputs.name_of(x) for x in examples]
  keep = np.zeros(shape, bool)
  keep[model, example] = member
  contradicted = np.flatnonzero(keep[model, example] != member)
  if len(contradicted):
    row = contradicted[0]
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {row + 2}: example '
      f'{inputs.one_line(names[example[row]], 60)} is a member of this model '
      'in one row and none in another'
    )
  by_attack = (
    table['attack'].astype(str).to_numpy()
    if 'attack' in table
    else np.full(len(table), 'score', object)
  )
  columns: list[score_set.Column] = []
  for attack in dict.fromkeys(by_attack):
    rows = np.flatnonzero(by_attack == attack)
    cells = model[rows].astype(np.int64) * shape[1] + example[rows]
    if len(np.unique(cells)) < len(cells):
      _, first = np.unique(cells, return_index=True)
      again = rows[np.setdiff1d(np.arange(len(rows)), first)[0]]
      raise inputs.InputError(
        f'{inputs.name_of(path)} line {again + 2}: this model and example have '
        'a score already'
      )
    values = np.full(shape, np.nan)
    values[model[rows], example[rows]] = sign * score[rows]
    # With a score of every model, a signal that can be calibrated.
    final = (
      'attack' in table or bool(np.isnan(values).any()) or len(models) == 1
    )
    name = inputs.one_line(attack, 60)
    if name in {column.name for column in columns} or name[:1] in '=+-@':
      raise inputs.InputError(
        f'{inputs.name_of(path)}: call attack {inputs.one_line(attack, 60)!r} '
        'otherwise: names differ in their first 57 characters, and begin with '
        'none of = + - @'
      )
    columns.append(score_set.Column(name, values[..., None], final))
  return score_set.ScoreSet(
    keep=keep,
    columns=tuple(columns),
    examples=tuple(names),
    models=tuple(inputs.name_of(x) for x in models),
    layout='table of scores',
    digest=files.digest(),
  )


def _codes(column: pd.Series) -> tuple[np.ndarray, list[str]]:
  """Numbers of the values, in the order in which they come, and these."""
  numbers, values = pd.factorize(column.astype(str))
  return numbers, list(values)
