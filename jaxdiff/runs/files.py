"""Files that are whole or absent: written to a new name, flushed, then renamed.

A file that already holds what would be written is left alone. What is read is
checked: arrays by the CRC of their zip members, and never unpickled.
"""

import contextlib
import io
import json
import os
import re
import secrets
from typing import Any

from absl import logging
from etils import epath
import numpy as np
import pandas as pd
from PIL import Image

from jaxdiff import inputs

# Bytes of a config or provenance.
MOST_JSON = 2**26

# Of a file that is being written: hidden, with a random part.
TEMPORARY = re.compile(r'\..+\.[0-9a-f]{16}\.tmp')


def _temporary(path: epath.Path) -> epath.Path:
  """A new name each time: nobody can have put a link there beforehand."""
  return path.parent / f'.{path.name}.{secrets.token_hex(8)}.tmp'


def write(path: epath.Path, data: bytes) -> None:
  """Writes a whole file or nothing: a new file, flushed, then renamed.

  A file that already holds these bytes is left alone.
  """
  if path.is_file() and path.read_bytes() == data:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    if '://' in str(path):
      temporary.write_bytes(data)
    else:
      # Neither an existing file nor a link is opened.
      descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666
      )
      with open(descriptor, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  if '://' not in str(path):
    _flush_folder(path.parent)


def _flush_folder(path: epath.Path) -> None:
  """The rename itself, where the file system keeps such things."""
  with contextlib.suppress(OSError):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def remove_leftovers(path: epath.Path) -> None:
  """Removes what killed writes of `write` left in a local folder and below.

  Only for who holds the folder's lock: another process may be writing.
  """
  if '://' in str(path):
    return
  for parent, _, names in os.walk(path):
    for name in names:
      if TEMPORARY.fullmatch(name):
        file = os.path.join(parent, name)
        if not os.path.islink(file):
          os.unlink(file)


def write_json(path: epath.Path, value: Any) -> None:
  """Writes plain values as indented JSON."""
  write(path, (json.dumps(value, indent=2) + '\n').encode())


def read_json(path: epath.Path) -> Any:
  """Reads plain values written by `write_json`."""
  return json.loads(inputs.read_bytes(path, MOST_JSON))


def write_csv(path: epath.Path, table: pd.DataFrame) -> None:
  """Writes a table without its index; nine digits hold a float32.

  Text that a spreadsheet would take for a formula gets an apostrophe before it.
  """
  table = table.copy()
  for name in table.columns:
    if table[name].dtype == object or pd.api.types.is_string_dtype(table[name]):
      table[name] = table[name].map(_inert)
  text = table.to_csv(index=False, float_format='%.9g')
  write(path, text.encode('utf-8', 'backslashreplace'))


def write_parquet(path: epath.Path) -> None:
  """Writes the Parquet twin of a CSV: the same columns and cells.

  What may be called anything stays text: a prompt of 007 is no number, and NA
  may be a name.
  """
  words = read_csv(path, dtype=str, keep_default_na=False)
  table = read_csv(path, keep_default_na=False, na_values=[''])
  # Whoever brings scores names models and examples.
  scores = path.parent.name == 'scores'
  given = (*_NAMES, 'model', 'example') if scores else _NAMES
  for name in table.columns:
    if name in given or pd.api.types.is_string_dtype(table[name]):
      table[name] = words[name]
  write_parquet_of(path.with_suffix('.parquet'), table)


def write_parquet_of(path: epath.Path, table: pd.DataFrame) -> None:
  """Writes a table that is too large for a CSV."""
  buffer = io.BytesIO()
  table.to_parquet(buffer, index=False)
  write(path, buffer.getvalue())


# Columns of names that users give.
_NAMES = ('attack', 'id', 'prompt', 'source', 'name', 'file')


def _inert(value: object) -> object:
  """A cell that no spreadsheet runs, nor takes for two rows."""
  if isinstance(value, str) and '\r' in value:
    # The csv module leaves a lone one unquoted.
    value = value.replace('\r\n', '\n').replace('\r', '\n')
  if not isinstance(value, str) or value[:1] not in tuple('=+-@\t\r'):
    return value
  if value == '-' or re.fullmatch(r'[-+]?[\d.]+(/\d+)*', value):
    return value
  return f"'{value}"


def png_bytes(image: np.ndarray) -> bytes:
  """uint8 [H, W, C] -> PNG."""
  buffer = io.BytesIO()
  squeezed = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(squeezed).save(buffer, format='PNG')
  return buffer.getvalue()


def write_npz(path: epath.Path, **arrays: np.ndarray) -> None:
  """Writes named arrays; equal arrays give equal bytes."""
  buffer = io.BytesIO()
  named: dict[str, Any] = dict(arrays)
  np.savez(buffer, **named)
  write(path, buffer.getvalue())


def write_npy(path: epath.Path, array: np.ndarray) -> None:
  """Writes one array."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  write(path, buffer.getvalue())


def read_csv(path: epath.Path, **options: Any) -> pd.DataFrame:
  """Reads a table written by `write_csv`.

  Args:
    path: of the table.
    **options: of pandas.read_csv.

  Raises:
    InputError: if it is not there, or damaged.
  """
  if not path.is_file():
    raise inputs.InputError(
      f'{path} is missing: run the stage that writes it first'
    )
  with inputs.reading(path, 'is damaged, run the stage that writes it again'):
    return pd.read_csv(io.StringIO(path.read_bytes().decode()), **options)


def read_npy(path: epath.Path) -> np.ndarray | None:
  """Reads one array, without unpickling; None if it is absent or torn."""
  if not path.is_file():
    return None
  try:
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
  except _TORN:
    logging.warning('%s is torn and will be made again', path)
    return None


def read_npz(path: epath.Path, *names: str) -> dict[str, np.ndarray] | None:
  """Arrays of a file, checked by CRC; None if it is absent or torn.

  Args:
    path: of the file.
    *names: arrays that a whole one holds; it may hold more.
  """
  if not path.exists():
    return None
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as block:
      arrays = {name: block[name] for name in block.files}
    if arrays.keys() >= set(names):
      return arrays
  except _TORN:
    pass
  logging.warning('%s is torn and will be made again', path)
  return None


# NumPy, zipfile and the parser of npy headers raise many kinds on what is torn.
_TORN = (Exception,)
