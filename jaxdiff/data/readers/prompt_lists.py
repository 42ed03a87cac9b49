"""Prompts that a user wants images of: a text file or a table.

A `.txt` has one prompt a line. A `.csv`, `.jsonl` or `.parquet` has a column
prompt (text and caption are taken too) and optionally id. A prompt that is
there again is drawn once.
"""

from collections.abc import Iterable, Sequence
import io
import pathlib
from typing import NamedTuple

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.data import captions
from jaxdiff.data.readers import image_files, tables

with epy.lazy_imports():
  from pyarrow import parquet

_MOST_BYTES = 2**33
# Characters of a prompt: none of them, and no tokenizer, takes more.
_MOST_LENGTH = 2**14
_KINDS = '.txt with a prompt a line, or .csv, .jsonl or .parquet with a column '
_KINDS += 'prompt (or text, or caption)'


class Prompts(NamedTuple):
  """What a file asks for.

  Attributes:
    texts: the prompts, each once, in the order of their first lines.
    table: columns id, prompt and number, the prompt's place among `texts`; a
      row for each line of the file.
  """

  texts: tuple[str, ...]
  table: pd.DataFrame


def read(path: str, key: str) -> Prompts:
  """The prompts of a file.

  Args:
    path: of the file.
    key: of the config, named in errors.

  Raises:
    InputError: naming the line that is empty, too long or no text, or the
      column that is missing.
  """
  place = inputs.local(path, key)
  kind = place.suffix.lower()
  if kind not in _READERS:
    raise inputs.InputError(f'{key}: {inputs.name_of(path)} is no {_KINDS}')
  inputs.regular(place, key)
  with inputs.reading(place, f'{key}: no whole list of prompts'):
    rows = _READERS[kind](place, key)
  rows = rows.reset_index(drop=True)
  columns = [name for name in image_files.CAPTIONS if name in rows]
  if not columns:
    raise inputs.InputError(f'{key}: {inputs.name_of(path)} is no {_KINDS}')
  texts = rows[columns[0]]
  ids = rows['id'] if 'id' in rows else pd.Series(range(len(rows)))
  ids = ids.astype(str)
  for number, text in enumerate(texts, 1):
    if not isinstance(text, str) or not text.strip():
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} row {number}: has no prompt'
      )
    if len(text) > _MOST_LENGTH:
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} row {number}: more than {_MOST_LENGTH} '
        'characters are no prompt'
      )
  if ids.duplicated().any():
    again = ids[ids.duplicated()].iloc[0]
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)}: the id {inputs.one_line(again, 60)} is '
      'there twice'
    )
  if texts.empty:
    raise inputs.InputError(f'{key}: {inputs.name_of(path)} has no prompt')
  # A prompt is one line, as in a text file.
  texts = texts.str.replace(r'[\r\n]+', ' ', regex=True).str.strip()
  numbers, distinct = pd.factorize(texts)
  table = pd.DataFrame({'id': ids, 'prompt': texts, 'number': numbers})
  return Prompts(tuple(distinct), table)


def of_texts(texts: Sequence[str]) -> Prompts:
  """Texts as if they were lines of a file; their numbers are their ids."""
  numbers, distinct = pd.factorize(np.array(texts, dtype=object))
  table = pd.DataFrame(
    {
      'id': list(map(str, range(len(texts)))),
      'prompt': texts,
      'number': numbers,
    }
  )
  return Prompts(tuple(distinct), table)


def joined(prompts: Prompts, further: Prompts, key: str) -> Prompts:
  """Prompts, and after them further ones, whose ids may be made others.

  Args:
    prompts: first.
    further: of whose texts none is among them.
    key: that gave them, the beginning of ids that are there already.

  Raises:
    InputError: for a text that is on both sides, spelled one way or another.
  """
  check_apart(prompts.texts, further.texts, key, 'prompts')
  known = set(prompts.table['id'])
  rows = further.table.assign(
    id=[f'{key}-{x}' if x in known else x for x in further.table['id']],
    number=further.table['number'] + len(prompts.texts),
  )
  return Prompts(
    (*prompts.texts, *further.texts),
    pd.concat([prompts.table, rows], ignore_index=True),
  )


def check_apart(
  texts: Iterable[str], others: Sequence[str], key: str, what: str
) -> None:
  """Raises InputError for one of `others`, given by a key, among the texts."""
  known = {captions.plain(text) for text in texts}
  for text in others:
    if captions.plain(text) in known:
      raise inputs.InputError(
        f'{key}: {inputs.one_line(text, 80)} is among {what}, too'
      )


def _lines(path: pathlib.Path, key: str) -> pd.DataFrame:
  text = inputs.read_bytes(path, _MOST_BYTES, key).decode('utf-8-sig')
  # Lines alone: a prompt may hold what else separates paragraphs.
  lines = text.replace('\r\n', '\n').split('\n')
  return pd.DataFrame(
    {'prompt': [line for line in lines if line.strip()]}, dtype=object
  )


def _csv(path: pathlib.Path, key: str) -> pd.DataFrame:
  return tables.read(inputs.read_bytes(path, _MOST_BYTES, key))


def _jsonl(path: pathlib.Path, key: str) -> pd.DataFrame:
  content = inputs.read_bytes(path, _MOST_BYTES, key)
  return pd.read_json(io.BytesIO(content), lines=True, dtype=False)


def _parquet(path: pathlib.Path, key: str) -> pd.DataFrame:
  names = parquet.read_schema(path).names
  wanted = [name for name in ('id', *image_files.CAPTIONS) if name in names]
  del key
  return parquet.read_table(path, columns=wanted).to_pandas()


_READERS = {
  '.txt': _lines, '.csv': _csv, '.jsonl': _jsonl, '.parquet': _parquet,
}  # fmt: skip
