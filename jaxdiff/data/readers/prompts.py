"""Which images share a prompt: sub-folders, or a table of file names.

Tables are as Hugging Face's imagefolder has them: metadata.csv or
metadata.jsonl with file_name and text; prompt and caption are taken too.
"""

from collections.abc import Collection, Sequence
import io
import os
import pathlib

import pandas as pd

from jaxdiff import inputs
from jaxdiff.data.readers import image_files, tables

# The value of key prompts.of that takes sub-folders.
FOLDERS = 'folders'

_MOST_BYTES = 2**30


def of(
  value: str,
  names: Sequence[str],
  key: str,
  skipped: Collection[str] = (),
  sharded: bool = False,
) -> tuple[str, ...]:
  """The prompt of each image; '' where it has none.

  Args:
    value: `FOLDERS`, or a table's path.
    names: of the images, paths within their set.
    key: of the config that gave the value, for errors.
    skipped: names of images that are left out, which a table may know.
    sharded: names begin with that of a file of several, which is no prompt.

  Raises:
    InputError: if no two images share a prompt, or the table is no such thing;
      or if all images are in one sub-folder.
  """
  names = [inputs.name_of(name) for name in names]
  if value == FOLDERS:
    inside = [name.partition('/')[2] if sharded else name for name in names]
    found = tuple(os.path.dirname(name) for name in inside)
    what = 'the generated images are in no sub-folders'
  else:
    path = inputs.local(value, key)
    table = read(path, key)
    known = {*names, *map(inputs.name_of, skipped)}
    unknown = sorted(table.keys() - known)
    if unknown:
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} names {inputs.one_line(unknown[0], 80)}'
        ', which is no generated image; names are paths within the set'
      )
    found = tuple(table.get(name, '') for name in names)
    what = f'{inputs.name_of(path)} gives no prompt twice'
  given = [prompt for prompt in found if prompt]
  if len(set(given)) == len(given):
    raise inputs.InputError(f'{key}: {what}: no two share a prompt')
  if value == FOLDERS and len(set(found)) == 1:
    raise inputs.InputError(
      f'{key}: all images are in the sub-folder '
      f'{inputs.one_line(found[0], 80)}: if that is one prompt, say so in a '
      'table with file_name and prompt'
    )
  return found


def read(path: pathlib.Path, key: str) -> dict[str, str]:
  """Prompts by file name; '' where there is none.

  Raises:
    InputError: naming the row, or the column that is missing.
  """
  found = told(path, key)
  if found is None:
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} wants the columns file_name and prompt '
      '(or text, or caption)'
    )
  return found


def told(path: pathlib.Path, key: str) -> dict[str, str] | None:
  """What `read` gives; None of a table without such columns."""
  content = inputs.read_bytes(path, _MOST_BYTES, key)
  with inputs.reading(path, f'{key}: no whole table'):
    if path.suffix.lower() == '.jsonl':
      table = pd.read_json(io.BytesIO(content), lines=True, dtype=False)
    else:
      table = tables.read(content)
  columns = [name for name in image_files.CAPTIONS if name in table]
  if 'file_name' not in table or not columns:
    return None
  words = {'file_name': table['file_name'], columns[0]: table[columns[0]]}
  for column, cells in words.items():
    text = cells.map(lambda cell: isinstance(cell, str))
    if column != 'file_name':
      text |= cells.map(lambda cell: pd.isna(cell) is True)
    if not text.all():
      row = int((~text).to_numpy().argmax()) + 1
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} row {row}: {column} is no text'
      )
  names = table['file_name'].map(os.path.normpath).map(inputs.name_of)
  again = names.duplicated()
  if again.any():
    line = int(again.to_numpy().argmax()) + 1
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} row {line}: '
      f'{inputs.one_line(names.iloc[line - 1], 80)} is there twice'
    )
  prompts = table[columns[0]].fillna('').str.strip()
  return dict(zip(names, prompts, strict=True))
