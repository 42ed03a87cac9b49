"""JSON files of a model's folder: read with limits, values by their kinds."""

from collections.abc import Callable, Iterable, Mapping
import json
import os
import pathlib
from typing import Any

from jaxdiff import inputs

# What JSON files of a folder ever have.
MOST_JSON = 2**20
# Levels, layers and channels beyond which a config is no U-Net's.
MOST_LEVELS, MOST_LAYERS, MOST_CHANNELS, MOST_SIDE = 16, 64, 16384, 4096


def read_json(
  path: pathlib.Path, needed_for: str = '', most: int = MOST_JSON
) -> dict[str, Any]:
  """An object, of `most` bytes at most; `needed_for` says why it is missed."""
  if not os.path.lexists(path):
    raise inputs.InputError(
      f'no {inputs.name_of(path)}{": " if needed_for else ""}{needed_for}'
    )
  content = inputs.read_bytes(path, most)
  with inputs.reading(path, 'no JSON'):
    found = json.loads(content)
  if not isinstance(found, dict):
    raise inputs.InputError(f'{inputs.name_of(path)}: no JSON object')
  return found


# Why a file of a pipeline's part is missed.
PART = 'a pipeline folder has it for each part'

# A kind of value: whether something is of it.
Kind = Callable[[Any], bool]

# Values of a file by key: their kind, and what it is called in errors.
Schema = Mapping[str, tuple[Kind, str]]


def whole(low: int, high: int) -> Kind:
  """Whole numbers within bounds."""
  return lambda x: type(x) is int and low <= x <= high


def real(low: float, high: float) -> Kind:
  """Finite numbers within bounds."""
  # Neither NaN nor an infinity is within.
  return lambda x: type(x) in (int, float) and low <= x <= high


def several(kind: Kind) -> Kind:
  """Lists of a kind, one for each level at most."""
  return lambda x: (
    isinstance(x, list)
    and 0 < len(x) <= MOST_LEVELS
    and all(kind(each) for each in x)
  )


def optional(kind: Kind) -> Kind:
  """The kind, or null."""
  return lambda x: x is None or kind(x)


def word(x: Any) -> bool:
  """A string."""
  return isinstance(x, str)


def flag(x: Any) -> bool:
  """True or false."""
  return isinstance(x, bool)


words = several(word)
count = whole(1, MOST_CHANNELS)


def check_kinds(
  path: pathlib.Path, config: dict[str, Any], schema: Schema
) -> None:
  """Raises InputError for a value of another kind than its key has."""
  for key, value in config.items():
    kind, wanted = schema.get(key, (lambda x: True, ''))
    if not kind(value):
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {key} is {inputs.one_line(repr(value), 60)}; '
        f'it must be {wanted}'
      )


def one_of(
  path: pathlib.Path, key: str, value: Any, known: Iterable[Any]
) -> None:
  """Raises InputError for a value that is none of those known."""
  known = tuple(known)
  if value not in known:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: {key} {inputs.one_line(repr(value), 60)} is '
      f'not supported; there is {", ".join(map(str, known))}'
    )


def read_config(
  path: pathlib.Path,
  schema: Schema,
  fixed: Mapping[str, Any],
  passed: tuple[str, ...],
) -> dict[str, Any]:
  """What a file says of the keys of a schema; the rest must say nothing."""
  config = read_json(path, PART)
  config = {k: v for k, v in config.items() if not k.startswith('_')}
  taken = {}
  for key, value in config.items():
    # A key that is null says nothing; SDXL's file has such ones.
    if value is None:
      continue
    if key in schema:
      taken[key] = value
      continue
    # Lists of a fixed value are of levels.
    several = value if isinstance(value, list) else [value]
    if key in fixed:
      if any(each is not None and each != fixed[key] for each in several):
        raise inputs.InputError(
          f'{inputs.name_of(path)}: {key} = '
          f'{inputs.one_line(repr(value), 60)} is not supported, only '
          f'{fixed[key]!r}'
        )
    elif key not in passed:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {inputs.one_line(key, 60)} = '
        f'{inputs.one_line(repr(value), 60)} is not supported'
      )
  check_kinds(path, taken, schema)
  return {
    key: tuple(value) if isinstance(value, list) else value
    for key, value in taken.items()
  }
