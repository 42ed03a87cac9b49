"""What people said of samples, beside what was counted."""

from collections.abc import Mapping

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import paths
from jaxdiff.data.readers import tables
from jaxdiff.runs import layout

_VERDICTS = {
  '1': 1, 'yes': 1, 'true': 1, '0': 0, 'no': 0, 'false': 0,
}  # fmt: skip


def read_annotations(
  run: layout.Run, num_models: int, num_samples: int
) -> pd.DataFrame:
  """annotations.csv, checked: model, sample, memorised (0 or 1).

  Args:
    run: that the person looked at.
    num_models: of it.
    num_samples: of each model.

  Raises:
    InputError: naming the line that is not what it should be.
  """
  counts = {'model': num_models, 'sample': num_samples}
  return read_verdicts(paths.Paths(run).annotations, counts)


def read_verdicts(path: epath.Path, counts: Mapping[str, int]) -> pd.DataFrame:
  """A table of verdicts, checked: some numbers, and memorised (0 or 1).

  Args:
    path: of the table.
    counts: how many there are of what each column numbers.

  Raises:
    InputError: naming the line that is not what it should be.
  """
  content = inputs.read_bytes(path, most=2**26)
  with inputs.reading(path, 'no table in UTF-8'):
    said = tables.read(content)
  said.columns = [str(name).strip() for name in said.columns]
  need = [*counts, 'memorised']
  if not set(need) <= set(said.columns) or said.columns.has_duplicates:
    raise inputs.InputError(
      f'{path} has columns {inputs.one_line(", ".join(said.columns))}; it '
      f'needs {", ".join(counts)} and memorised (yes or no), each once'
    )
  said = said[need].apply(lambda column: column.str.strip())

  def refuse(bad: pd.Series, column: str, wanted: str) -> None:
    if bad.any():
      place = int(np.flatnonzero(bad)[0])
      raise inputs.InputError(
        f'{path} line {place + 2}: {column} is '
        f'{inputs.one_line(said[column].iloc[place])!r}; say {wanted}'
      )

  for column, most in counts.items():
    whole = said[column].str.fullmatch(r'\d{1,9}')
    refuse(~whole.astype(bool), column, 'its number')
    refuse(
      said[column].astype(np.int64) >= most, column, f'one of 0 to {most - 1}'
    )
  verdict = said['memorised'].str.lower().map(_VERDICTS)
  refuse(verdict.isna(), 'memorised', 'yes or no')
  numbers = {name: said[name].astype(np.int64) for name in counts}
  said = said.assign(memorised=verdict.astype(int), **numbers)
  if said.duplicated([*counts]).any():
    what = [*counts][-1]
    raise inputs.InputError(f'{path} has two verdicts on one {what}: leave one')
  return said


def annotated(
  said: pd.DataFrame, matches: pd.DataFrame, settings: list[str]
) -> pd.DataFrame:
  """A person's verdicts beside the automatic ones, most convincing first.

  Columns: setting, model, sample, index, ratio (empty where the filter found
  nothing), extracted (the filter's verdict), memorised (the person's).

  Args:
    said: of `read_annotations`.
    matches: of the run.
    settings: of extraction.
  """
  found = matches[matches['half'] == 'training']
  out = []
  for setting in settings:
    hits = found[found['setting'] == setting]
    rows = said.merge(
      hits[['model', 'sample', 'index', 'ratio']],
      on=['model', 'sample'],
      how='left',
    )
    rows = rows.assign(
      setting=setting,
      extracted=rows['index'].notna().astype(int),
      index=rows['index'].fillna(-1).astype(int),
    ).sort_values('ratio', kind='stable')
    out.append(rows)
  names = ['setting', 'model', 'sample', 'index', 'ratio', 'extracted',
           'memorised']  # fmt: skip
  return pd.concat(out)[names]
