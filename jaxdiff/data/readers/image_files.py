"""Folders of image files, and the table of labels that may lie there."""

from collections.abc import Sequence
import difflib
import json
import os
import pathlib

from absl import logging
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.readers import decode_pool, tables
from jaxdiff.runtime import progress

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff',
            '.ppm', '.pgm')  # fmt: skip

METADATA = 'metadata.csv'

COLUMNS = ('file_name', 'label', 'group')
# Captions, which `readers/prompts.py` reads where a config asks for them.
CAPTIONS = ('prompt', 'text', 'caption')
_CAPTION_TABLE = 'metadata.jsonl'

# Bytes of an image file, and of a table.
_MOST_BYTES, _MOST_TABLE = 2**28, 2**28


def image_folder(
  path: str, size: int, channels: int, skip_broken: bool
) -> datasets.Dataset:
  """A folder of image files; sub-folders are classes, by name.

  With `metadata.csv` in it (columns file_name and optionally label, group; as
  Hugging Face's ImageFolder), its rows are the images, and images of one group
  stay on one side of every split. Files that are not used are listed.

  Args:
    path: the folder.
    size: of either side, after cropping and resizing.
    channels: 1 or 3.
    skip_broken: leave out files that cannot be decoded, and list them.

  Raises:
    InputError: naming the first file that is broken, or outside the folder.
  """
  root, table, unread = listing(path, 'data.path')
  decoded = _decode_all(root, list(table['file_name']), size, channels)
  broken = [
    (inputs.name_of(name), str(image))
    for name, image in zip(table['file_name'], decoded, strict=True)
    if isinstance(image, ValueError)
  ]
  if broken and not skip_broken:
    raise inputs.InputError(
      f'{inputs.name_of(root)}/{broken[0][0]}: {broken[0][1]} ({len(broken)} '
      'such files; --config.data.skip_broken leaves them out and lists them)'
    )
  for name, why in broken:
    logging.warning('skipped %s: %s', name, why)
  good = np.array([not isinstance(image, ValueError) for image in decoded])
  if not good.any():
    raise inputs.InputError(
      f'data.path: every image in {inputs.name_of(path)} is broken'
    )
  table = table[good].reset_index(drop=True)
  labels, classes = datasets.codes(_column(table, 'label'))
  group = datasets.codes(table['group'])[0] if 'group' in table else None
  return datasets.make(
    np.stack([image for image in decoded if not isinstance(image, ValueError)]),
    labels,
    [inputs.name_of(name) for name in table['file_name']],
    group=group,
    num_classes=len(classes),
    skipped=tuple(broken)
    + tuple((inputs.name_of(name), why) for name, why in unread.items()),
    names=classes,
  )


def listing(
  path: str, key: str
) -> tuple[pathlib.Path, pd.DataFrame, dict[str, str]]:
  """The images of a folder, none of which is opened.

  Args:
    path: the folder.
    key: of the config, named in errors.

  Returns:
    The folder; a table of file_name, label and perhaps group, a row an image;
    and why other files are not read, by name.

  Raises:
    InputError: naming the folder, or a table in it that is broken.
  """
  root = inputs.local(path, key)
  if not path or not root.is_dir():
    raise inputs.InputError(f'{key}: no folder {path!r} of images')
  with inputs.reading(root):
    files, unread = _files(root)
  table = _metadata(root) if METADATA in unread else None
  if table is not None and not _only_captions(table):
    # By where they are, however they are spelled.
    named = {os.path.realpath(root / name) for name in table['file_name']}
    unread |= {
      str(file.relative_to(root)): f'image not in {METADATA}'
      for file in files
      if os.path.realpath(file) not in named
    }
  else:
    names = [str(file.relative_to(root)) for file in files]
    table = pd.DataFrame({'file_name': names}, dtype=object)
    folders = [str(pathlib.PurePath(name).parent) for name in names]
    table['label'] = pd.Series(folders, dtype=object)
  unread.pop(METADATA, None)
  if table.empty:
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)} holds no image file '
      f'({", ".join(SUFFIXES)})'
    )
  return root, table, unread


def _column(table: pd.DataFrame, name: str) -> Sequence[str]:
  return table[name] if name in table else [''] * len(table)


def _files(root: pathlib.Path) -> tuple[list[pathlib.Path], dict[str, str]]:
  """Image files in a folder and below, sorted; and why others are not read."""
  images, unread = [], {}
  for file in sorted(root.rglob('*')):
    name = str(file.relative_to(root))
    if file.is_dir() and not file.is_symlink():
      if file.name == METADATA:
        raise inputs.InputError(f'{inputs.name_of(file)} is a folder, no table')
      continue
    lower = file.name.lower()
    if name == _CAPTION_TABLE and _holds_captions(file):
      unread[name] = 'captions, which prompts.of reads'
    elif lower.startswith('metadata.') or file.name == METADATA:
      if name != METADATA:
        raise inputs.InputError(
          f'{inputs.name_of(file)}: labels and groups are read from '
          f'{METADATA} in the folder itself alone; rename, move or convert it'
        )
      inputs.regular(file)
      unread[name] = ''
    elif any(part.startswith('.') for part in pathlib.PurePath(name).parts):
      unread[name] = 'hidden files'
    elif file.suffix.lower() in SUFFIXES:
      images.append(file)
    else:
      kind = file.suffix.lower() or 'files without a suffix'
      unread[name] = f'files of a kind that is not read: {kind}'
  return images, unread


def _holds_captions(file: pathlib.Path) -> bool:
  """Whether a table says nothing but captions: no label may be lost."""
  content = inputs.read_bytes(file, _MOST_TABLE)
  try:
    rows = [json.loads(line) for line in content.splitlines() if line.strip()]
  except (ValueError, RecursionError):
    return False
  return bool(rows) and all(
    isinstance(row, dict)
    and row.keys() & set(CAPTIONS)
    and row.keys() <= {'file_name', *CAPTIONS}
    for row in rows
  )


def _only_captions(table: pd.DataFrame) -> bool:
  """Whether a table has captions and says nothing of labels and groups."""
  head = set(table.columns)
  return bool(head & set(CAPTIONS)) and head <= {'file_name', *CAPTIONS}


def _metadata(root: pathlib.Path) -> pd.DataFrame:
  path = root / METADATA
  content = inputs.read_bytes(path, _MOST_TABLE)
  with inputs.reading(path, 'no table in UTF-8'):
    table = tables.read(content)
  head = list(table.columns)
  for name in head:
    if name not in (*COLUMNS, *CAPTIONS):
      near = difflib.get_close_matches(
        name.strip().lower(), COLUMNS, n=1, cutoff=0.7
      )
      hint = f'; did you mean {near[0]!r}?' if near else '; remove it'
      raise inputs.InputError(
        f'{path}: column {inputs.one_line(repr(name))} is unknown: '
        f'{", ".join(COLUMNS)} are read{hint}'
      )
  if 'file_name' not in head:
    raise inputs.InputError(f'{path}: every row needs a file_name')
  seen: dict[tuple[int, int], int] = {}
  for line, row in enumerate(table.itertuples(index=False), 2):
    for column, value in zip(head, row, strict=True):
      if column not in CAPTIONS and not value.strip():
        raise inputs.InputError(
          f'{path} line {line}: every row needs a {column}'
        )
    name = row[head.index('file_name')]
    try:
      real = inside(root, name)
    except ValueError as error:
      if isinstance(error, inputs.InputError):
        raise
      continue  # said, or skipped, when it is decoded
    found = os.stat(real)
    first = seen.setdefault((found.st_dev, found.st_ino), line)
    if first != line:
      raise inputs.InputError(
        f'{path} line {line}: {inputs.name_of(name)} is the file of line '
        f'{first} again: an image is one row'
      )
  return table


def inside(root: pathlib.Path, name: str) -> str:
  """Where a name leads to, which must be a file in the folder.

  Raises:
    InputError: for names and links that lead out of the folder.
    ValueError: for what is no file.
  """
  path = root / name
  try:
    real = os.path.realpath(path, strict=True)
    base = os.path.realpath(root)
  except (OSError, ValueError) as error:
    raise ValueError(inputs.one_line(error)) from error
  if os.path.commonpath([real, base]) != base:
    raise inputs.InputError(
      f'{inputs.name_of(path)} leads out of the folder, to '
      f'{inputs.name_of(real)}'
    )
  if not os.path.isfile(real):
    raise ValueError('is no file')
  return real


def file_bytes(root: pathlib.Path, name: str) -> bytes:
  """An image file as it is.

  Raises:
    InputError: for a name that leads out of the folder.
    ValueError: for what is no file, or larger than images are.
  """
  real = pathlib.Path(inside(root, name))
  if inputs.regular(real) > _MOST_BYTES:
    raise ValueError(f'more than {_MOST_BYTES} bytes')
  return real.read_bytes()


def _decode_all(
  root: pathlib.Path, names: list[str], size: int, channels: int
) -> list[np.ndarray | ValueError]:
  """Decodes on all cores, in order; an error stands for a broken file."""
  inputs.check_size(f'data.path: {root}', len(names) * size * size * channels)
  out = []
  with progress.track('decode', len(names), 'images') as advance:
    for image in decode_pool.decode_all(
      lambda row: file_bytes(root, names[row]),
      range(len(names)),
      size,
      channels,
    ):
      out.append(image)
      advance(1)
  return out
