"""Captions with embeddings that a user brings: an npz, or Parquet."""

from typing import NamedTuple

from etils import epy
import numpy as np

from jaxdiff import inputs
from jaxdiff.data.readers import image_files, npz

with epy.lazy_imports():
  from pyarrow import compute, parquet

_KINDS = (
  '.npz with prompt [n] and embedding float [n, D], or .parquet with '
  'columns prompt (or text, or caption) and embedding; and optionally id'
)


class Captions(NamedTuple):
  """Of n rows.

  Attributes:
    captions: [n].
    ids: [n].
    embeddings: float32 [n, D]; None where there are none.
  """

  captions: tuple[str, ...]
  ids: tuple[str, ...]
  embeddings: np.ndarray | None


def read(path: str, key: str, *, embedded: bool) -> Captions:
  """What a file holds.

  Args:
    path: of it.
    key: flag that named it, for errors.
    embedded: whether embeddings are wanted.

  Raises:
    InputError: naming the column or the row.
  """
  place = inputs.local(path, key)
  kind = place.suffix.lower()
  if kind not in ('.npz', '.parquet'):
    raise inputs.InputError(f'{key}: {inputs.name_of(path)} is no {_KINDS}')
  inputs.regular(place, key)
  what = f'{key}: {inputs.name_of(path)}'
  if kind == '.npz':
    columns = npz.arrays(place, what)
  else:
    columns = _parquet(place, what, embedded)
  named = [name for name in image_files.CAPTIONS if name in columns]
  if not named or (embedded and 'embedding' not in columns):
    raise inputs.InputError(f'{what} is no {_KINDS}')
  captions = columns[named[0]]
  texts = [
    text.strip() if isinstance(text, str) else '' for text in captions.ravel()
  ]
  empty = [row for row, text in enumerate(texts, 1) if not text]
  if empty or not texts or captions.dtype.kind not in 'UTO':
    raise inputs.InputError(
      f'{what}: row {empty[0] if empty else 1} has no {named[0]}'
    )
  ids = columns.get('id', np.arange(len(texts)))
  if len(ids) != len(texts):
    raise inputs.InputError(f'{what}: {len(ids)} ids of {len(texts)} captions')
  names = tuple(map(str, ids.ravel()))
  if len(set(names)) < len(names):
    raise inputs.InputError(f'{what}: an id is there twice')
  found = None
  if embedded:
    found = _checked(columns['embedding'], len(texts), what)
  return Captions(tuple(texts), names, found)


def _parquet(place, what: str, embedded: bool) -> dict[str, np.ndarray]:
  with inputs.reading(place, f'{what}: no whole Parquet file'):
    names = parquet.read_schema(place).names
    wanted = {'id', *image_files.CAPTIONS, *(['embedding'] if embedded else [])}
    chosen = [name for name in names if name in wanted]
    table = parquet.read_table(place, columns=chosen)
    out = {}
    for name in chosen:
      column = table[name].combine_chunks()
      if name == 'embedding':
        lengths = set(compute.list_value_length(column).to_pylist())
        if len(lengths) != 1 or None in lengths or not lengths.pop():
          raise ValueError('embedding: rows are absent, or of unequal lengths')
        flat = column.flatten().to_numpy(zero_copy_only=False)
        out[name] = flat.reshape(len(column), -1)
      else:
        out[name] = np.array(column.to_pylist(), dtype=object)
    return out


def _checked(array: np.ndarray, count: int, what: str) -> np.ndarray:
  """Embeddings, or InputError."""
  if array.ndim != 2 or array.dtype.kind != 'f' or len(array) != count:
    raise inputs.InputError(
      f'{what}: embedding is {array.dtype} {array.shape}, not float '
      f'({count}, D)'
    )
  array = array.astype(np.float32)
  lengths = np.square(array, dtype=np.float64).sum(axis=1)
  bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
  if len(bad):
    raise inputs.InputError(
      f'{what}: the embedding of row {bad[0] + 1} is zero, or not finite'
    )
  return array
