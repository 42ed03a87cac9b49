"""What a user brings: files that are read with limits, errors in one line.

Nothing is believed: a path must be a regular file, no larger than its kind ever
is or than the memory that is free, and whatever a library raises on its content
becomes an `InputError` that names the file.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import os
import pathlib
import stat

from etils import epath

# Of the memory that is free, what decoded input may take.
_SHARE = 0.5


class InputError(ValueError):
  """Something the user gave is wrong; the message is one line with the mend."""


def one_line(text: object, most: int = 300) -> str:
  """The first line of a message, without control characters, not too long.

  What a file says of itself, its name among it, must not forge a line.
  """
  lines = str(text).strip().splitlines() or ['']
  line = (
    ''.join(
      c if c.isprintable() else c.encode('unicode_escape').decode('ascii')
      for c in lines[0]
    )
    .encode('utf-8', 'backslashreplace')
    .decode('utf-8')
  )
  return line if len(line) <= most else f'{line[: most - 3]}...'


def name_of(path: object) -> str:
  """A path for people: without what a terminal would take for a command."""
  text = os.fspath(path) if isinstance(path, os.PathLike) else str(path)
  return ''.join(
    c if c.isprintable() else c.encode('unicode_escape').decode('ascii')
    for c in text.encode('utf-8', 'backslashreplace').decode('utf-8')
  )


@contextlib.contextmanager
def reading(what: object, kind: str = 'cannot be read') -> Iterator[None]:
  """Turns whatever is raised within into an InputError that names a source.

  Args:
    what: the file or key that is read.
    kind: what is wrong with it, before the library's own words.
  """
  try:
    yield
  except InputError:
    raise
  except MemoryError as error:
    raise InputError(f'{name_of(what)}: larger than the memory') from error
  except Exception as error:  # libraries raise many kinds on damaged files
    said = one_line(error) or type(error).__name__
    if 'allow_pickle' in said:
      said = 'it holds Python objects (a pickle), which are never loaded'
    raise InputError(f'{name_of(what)}: {kind}: {said}') from error


def free_memory() -> int:
  """Bytes that this process may still take; 2^35 where nobody says."""
  with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
    with open('/proc/meminfo') as file:
      line = next(line for line in file if line.startswith('MemAvailable'))
    return int(line.split()[1]) * 1024
  return 2**35


def check_size(what: object, size: int, share: float = _SHARE) -> None:
  """Raises InputError where so many bytes do not fit the free memory.

  Args:
    what: takes them, for people.
    size: bytes.
    share: of the free memory that they may take.
  """
  free = free_memory()
  if size > share * free:
    part = 'half' if share == _SHARE else f'{share:.0%}'
    raise InputError(
      f'{name_of(what)}: takes {size / 1e9:.3g} GB in memory, more than {part} '
      f'of the {free / 1e9:.3g} GB that are free'
    )


def local(path: str | os.PathLike, key: str) -> pathlib.Path:
  """A path on this machine, `~` expanded.

  Raises:
    InputError: for an address of another.
  """
  path = os.fspath(path)
  if not path:
    raise InputError(f'{key}: no file or folder is named')
  if '://' in path or path.startswith('file:'):
    raise InputError(
      f'{key}: {one_line(path)!r} is an address; name a local file or folder '
      '(fetch it first)'
    )
  if '\0' in path:
    raise InputError(f'{key}: {path!r} is no path')
  return pathlib.Path(os.path.expanduser(path))


def regular(path: pathlib.Path | epath.Path, key: str = '') -> int:
  """Size of a regular file; a folder, a pipe or a device is none.

  Raises:
    InputError: naming it.
  """
  prefix = f'{key}: ' if key else ''
  if '://' in str(path):
    with reading(path):
      return int(epath.Path(path).stat().length)
  try:
    found = os.stat(path)
  except FileNotFoundError as error:
    raise InputError(f'{prefix}no file {name_of(path)}') from error
  except (OSError, ValueError) as error:
    raise InputError(f'{prefix}{name_of(path)}: {one_line(error)}') from error
  if not stat.S_ISREG(found.st_mode):
    raise InputError(f'{prefix}{name_of(path)} is no regular file')
  return found.st_size


def read_bytes(
  path: pathlib.Path | epath.Path, most: int | None = None, key: str = ''
) -> bytes:
  """A whole regular file.

  Args:
    path: the file.
    most: bytes; None is what memory allows.
    key: of the config, named in errors.

  Raises:
    InputError: naming the file, and what is wrong with it.
  """
  size = regular(path, key)
  if most is not None and size > most:
    raise InputError(
      f'{name_of(path)}: {size} bytes are more than such a file ever has '
      f'({most})'
    )
  check_size(path, size)
  with reading(path):
    return path.read_bytes()


def digest(path: pathlib.Path | epath.Path) -> str:
  """SHA-256 of a regular file, read in pieces."""
  regular(path)
  found = hashlib.sha256()
  with reading(path), path.open('rb') as file:
    while piece := file.read(2**24):
      found.update(piece)
  return found.hexdigest()
