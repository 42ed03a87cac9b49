"""Which images share a prompt: sub-folders, or a table of file names.

Tables are as Hugging Face's imagefolder has them: metadata.csv or
metadata.jsonl with file_name and text; prompt and caption are taken too.
"""

from collections.abc import Sequence
import io
import os
import pathlib

import pandas as pd

from jaxdiff import inputs

# The value of key prompts.of that takes sub-folders.
FOLDERS = 'folders'

_COLUMNS = ('prompt', 'text', 'caption')
_MOST_BYTES = 2**30


def of(value: str, names: Sequence[str], key: str) -> tuple[str, ...]:
  """The prompt of each image; '' where it has none.

  Args:
    value: `FOLDERS`, or a table's path.
    names: of the images, paths within their set.
    key: of the config that gave the value, for errors.

  Raises:
    InputError: if no two images share a prompt, or the table is no such thing.
  """
  if value == FOLDERS:
    found = tuple(os.path.dirname(name) for name in names)
    what = 'the generated images are in no sub-folders'
  else:
    path = inputs.local(value, key)
    table = read(path, key)
    unknown = sorted(table.keys() - set(names))
    if unknown:
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} names {inputs.one_line(unknown[0], 80)}'
        ', which is no generated image; names are paths within the set'
      )
    found = tuple(table.get(name, '') for name in names)
    what = f'{inputs.name_of(path)} gives no prompt twice'
  told = [prompt for prompt in found if prompt]
  if len(set(told)) == len(told):
    raise inputs.InputError(f'{key}: {what}: no two share a prompt')
  return found


def read(path: pathlib.Path, key: str) -> dict[str, str]:
  """Prompts by file name.

  Raises:
    InputError: naming the line, or the column that is missing.
  """
  content = inputs.read_bytes(path, _MOST_BYTES, key)
  with inputs.reading(path, f'{key}: no whole table'):
    if path.suffix.lower() == '.jsonl':
      table = pd.read_json(io.BytesIO(content), lines=True, dtype=False)
    else:
      table = pd.read_csv(
        io.BytesIO(content),
        dtype=str,
        keep_default_na=False,
        encoding='utf-8-sig',
      )
  columns = [name for name in _COLUMNS if name in table]
  if 'file_name' not in table or not columns:
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} wants the columns file_name and prompt '
      '(or text, or caption)'
    )
  names = table['file_name'].astype(str)
  again = names.duplicated()
  if again.any():
    line = int(again.to_numpy().argmax()) + 1
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} row {line}: '
      f'{inputs.one_line(names.iloc[line - 1], 80)} is there twice'
    )
  prompts = table[columns[0]].fillna('').astype(str).str.strip()
  return dict(zip(names, prompts, strict=True))
