"""Sets of encoded images in one file, or in shards: zip, tar, Parquet.

Nothing is unpacked to disk, and nothing that a file says of sizes is believed
beyond what an image may have. Members are read where they lie: any number of
threads may.
"""

import array
import bisect
import collections
from collections.abc import Callable, Sequence
import functools
import itertools
import json
import os
import pathlib
import tarfile
import threading
from typing import Any, NamedTuple
import zipfile

from etils import epy

from jaxdiff import inputs
from jaxdiff.data.image_sets.base import ImageSet, of_contents
from jaxdiff.data.readers import image_files

with epy.lazy_imports():  # slow to import, not always needed
  import pyarrow as pa
  from pyarrow import parquet

SUFFIXES = ('.zip', '.tar', '.parquet')

# Bytes of an image file, and of a table of labels.
_MOST_BYTES, _MOST_TABLE = 2**28, 2**28
# Bytes of row groups that are held.
_HELD_BYTES = 2**28
# StyleGAN's table of labels.
_LABELS = 'dataset.json'
# Columns of Parquet files that may hold images, in order of preference.
_IMAGE_COLUMNS = ('image', 'img', 'jpg', 'png', 'bytes')
_LABEL_COLUMNS = ('label', 'labels', 'fine_label', 'class')


class _Part(NamedTuple):
  """What one file holds.

  Attributes:
    names: of its images.
    labels: of each.
    skipped: (member, why) of what is not read.
    content: number of an image -> its bytes.
  """

  names: list[str]
  labels: list[str]
  skipped: list[tuple[str, str]]
  content: Callable[[int], bytes]


def shards(folder: pathlib.Path) -> list[pathlib.Path]:
  """Files of a folder that is nothing but shards of one kind; [] if not."""
  files = [child for child in folder.iterdir() if child.is_file()]
  for suffix in ('.tar', '.parquet'):
    ours = sorted(file for file in files if file.suffix.lower() == suffix)
    others = [
      file for file in files if file.suffix.lower() in image_files.SUFFIXES
    ]
    if ours and not others:
      return ours
  return []


def open_files(paths: Sequence[pathlib.Path], key: str) -> ImageSet:
  """A set of one file, or of several shards in the order of their names.

  Args:
    paths: files of one of SUFFIXES.
    key: of the config, for errors.

  Raises:
    InputError: naming the file that is broken, or holds no image.
  """
  readers: dict[str, Callable[[pathlib.Path], _Part]] = {
    '.zip': _zip, '.tar': _tar,
    '.parquet': functools.partial(_parquet, held=_Held()),
  }  # fmt: skip
  parts = []
  for path in paths:
    inputs.regular(path, key)
    with inputs.reading(path, f'{key}: cannot be read'):
      parts.append(readers[path.suffix.lower()](path))
  ends = list(itertools.accumulate(len(part.names) for part in parts))
  if not ends[-1]:
    raise inputs.InputError(
      f'{key}: {inputs.name_of(paths[0])} holds no image file '
      f'({", ".join(image_files.SUFFIXES)})'
    )

  def content(row: int) -> bytes:
    place = bisect.bisect_right(ends, row)
    part = parts[place]
    return part.content(row - ends[place] + len(part.names))

  def named(path: pathlib.Path, name: str) -> str:
    return f'{path.name}/{name}' if len(paths) > 1 else name

  return of_contents(
    key,
    [
      named(path, name)
      for path, part in zip(paths, parts, strict=True)
      for name in part.names
    ],
    [label for part in parts for label in part.labels],
    [
      (named(path, name), why)
      for path, part in zip(paths, parts, strict=True)
      for name, why in part.skipped
    ],
    content,
    sharded=len(paths) > 1,
  )


def _is_image(name: str) -> bool:
  return name.lower().endswith(image_files.SUFFIXES)


def _why_not(name: str) -> str:
  kind = pathlib.PurePosixPath(name).suffix.lower()
  return f'files of a kind that is not read: {kind or "without a suffix"}'


def _zip(path: pathlib.Path) -> _Part:
  """Image files of a zip; labels by dataset.json, or by folder."""
  archive = zipfile.ZipFile(path)
  members = sorted(
    (x for x in archive.infolist() if not x.is_dir()), key=lambda x: x.filename
  )
  images = [x for x in members if _is_image(x.filename)]
  others = [x for x in members if not _is_image(x.filename)]
  if len({x.filename for x in members}) < len(members):
    raise ValueError('a member is there twice')
  labels: dict[str, str] = {}
  table = next((x for x in others if x.filename == _LABELS), None)
  if table is not None:
    labels = _stylegan_labels(_member(archive, table, _MOST_TABLE))
    others.remove(table)
  lock = threading.Lock()

  def content(number: int) -> bytes:
    with lock:  # the file has one position
      return _member(archive, images[number], _MOST_BYTES)

  return _Part(
    [x.filename for x in images],
    [
      labels.get(x.filename, str(pathlib.PurePosixPath(x.filename).parent))
      for x in images
    ],
    [(x.filename, _why_not(x.filename)) for x in others],
    content,
  )


def _member(archive: zipfile.ZipFile, member, most: int) -> bytes:
  if member.file_size > most:
    raise ValueError(f'{member.filename}: more than {most} bytes')
  try:
    return archive.read(member)  # checked by its CRC
  except Exception as error:  # zipfile and its decompressors raise many kinds
    why = inputs.one_line(error) or f'it is cut short ({type(error).__name__})'
    raise ValueError(f'cannot be unpacked: {why}') from error


def _stylegan_labels(content: bytes) -> dict[str, str]:
  """{"labels": [[file, number], ...]}, or no labels at all."""
  found: Any = json.loads(content)
  rows = found.get('labels') if isinstance(found, dict) else None
  if rows is None:
    return {}
  return {str(name): str(label) for name, label in rows}


def _tar(path: pathlib.Path) -> _Part:
  """Image files of a tar; a label beside an image is its .cls."""
  names: list[str] = []
  skipped: list[tuple[str, str]] = []
  # Of a million images these are what there is in memory: plain numbers.
  starts, sizes = array.array('q'), array.array('q')
  classes: dict[str, tuple[int, int]] = {}
  with tarfile.open(path, 'r:') as archive:
    for member in archive:
      if member.isdir():
        continue
      stem, _, suffix = member.name.rpartition('.')
      if not member.isfile():
        skipped.append((member.name, 'no regular file'))
      elif _is_image(member.name):
        names.append(member.name)
        starts.append(member.offset_data)
        sizes.append(member.size)
      elif suffix == 'cls':
        classes[stem] = (member.offset_data, member.size)
      else:
        skipped.append((member.name, _why_not(member.name)))
      # tarfile keeps every member that it has seen.
      archive.members.clear()  # type: ignore[attr-defined]
  descriptor = os.open(path, os.O_RDONLY)

  def at(span: tuple[int, int], most: int) -> bytes:
    start, size = span
    if size > most:
      raise ValueError(f'more than {most} bytes')
    content = os.pread(descriptor, size, start)
    if len(content) < size:
      raise ValueError('the tar is cut short')
    return content

  def label(name: str) -> str:
    span = classes.get(name.rpartition('.')[0])
    if span is None:
      return str(pathlib.PurePosixPath(name).parent) if not classes else ''
    return at(span, 256).decode('utf-8', 'replace').strip()

  return _Part(
    names,
    [label(name) for name in names],
    skipped,
    lambda number: at((starts[number], sizes[number]), _MOST_BYTES),
  )


class _Held:
  """Row groups that were read last, of all shards: threads need a few."""

  def __init__(self):
    self._lock = threading.Lock()
    self._values: collections.OrderedDict = collections.OrderedDict()
    self._sizes: dict[tuple[pathlib.Path, int], int] = {}

  def get(
    self, key: tuple[pathlib.Path, int], size: int, read: Callable[[], Any]
  ) -> Any:
    """Values of a row group of so many bytes, read where they are not held."""
    with self._lock:
      if key not in self._values:
        inputs.check_size(key[0], size)
        self._sizes[key] = size
        while self._values and (
          size + sum(self._sizes[x] for x in self._values) > _HELD_BYTES
        ):
          self._values.popitem(last=False)
        self._values[key] = read()
      self._values.move_to_end(key)
      return self._values[key]


def _parquet(path: pathlib.Path, held: _Held) -> _Part:
  """A column of encoded images: bytes, or a struct with `bytes`."""
  file = parquet.ParquetFile(path)
  schema = file.schema_arrow
  column = next(
    (name for name in _IMAGE_COLUMNS if name in schema.names), None
  )  # fmt: skip
  kind = None if column is None else schema.field(column).type
  encoded = kind is not None and (
    _binary(kind)
    or (pa.types.is_struct(kind) and 'bytes' in [x.name for x in kind])
  )
  if not encoded:
    raise ValueError(
      f'no column {", ".join(_IMAGE_COLUMNS)} of encoded images; it has '
      f'{inputs.one_line(", ".join(schema.names), 200)}'
    )
  label = next((name for name in _LABEL_COLUMNS if name in schema.names), None)
  labels = [''] * file.metadata.num_rows
  if label is not None:
    labels = [str(x) for x in file.read(columns=[label])[label].to_pylist()]
  groups, first = [], [0]
  for number in range(file.num_row_groups):
    groups.append(number)
    first.append(first[-1] + file.metadata.row_group(number).num_rows)

  def content(number: int) -> bytes:
    group = next(g for g in groups if number < first[g + 1])
    values = held.get(
      (path, group),
      file.metadata.row_group(group).total_byte_size,
      lambda: file.read_row_group(group, columns=[column])[column],
    )
    value = values[number - first[group]].as_py()
    value = value.get('bytes') if isinstance(value, dict) else value
    if not isinstance(value, bytes):
      raise ValueError('holds no bytes of an image')
    if len(value) > _MOST_BYTES:
      raise ValueError(f'more than {_MOST_BYTES} bytes')
    return value

  return _Part(
    [f'row {number}' for number in range(file.metadata.num_rows)],
    labels,
    [],
    content,
  )


def _binary(kind: pa.DataType) -> bool:
  return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
