"""One process at a time writes to a run folder."""

from collections.abc import Iterator
import contextlib
import errno
import fcntl
import os
import socket

from absl import logging
from etils import epath

from jaxdiff import inputs

# Folders that this process holds, and how often.
_held: dict[str, int] = {}


@contextlib.contextmanager
def lock(path: epath.Path) -> Iterator[None]:
  """Holds a local run folder, which one process at a time may write to.

  The lock is the system's, on a file `run.lock`, and gone with its process,
  however that ended; the file says who held it last. Remote folders have none.

  Raises:
    InputError: naming the process and host that hold it.
  """
  name = str(path)
  if '://' in name or name in _held:
    _held[name] = _held.get(name, 0) + 1
    try:
      yield
    finally:
      _held[name] -= 1
      if not _held[name]:
        del _held[name]
    return
  with _open_lock(path / 'run.lock') as file:
    if file is None:
      yield
      return
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        logging.warning('%s cannot be locked here: %s', path, error)
        yield
        return
      holder = inputs.one_line(file.read(1000)) or 'another process'
      raise inputs.InputError(
        f'{inputs.name_of(path)} is in use by {holder}: wait for it, or give '
        '--workdir another folder'
      ) from error
    file.seek(0)
    file.truncate()
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    _held[name] = 1
    try:
      yield
    finally:
      del _held[name]


@contextlib.contextmanager
def _open_lock(path: epath.Path):
  """The lock's file, made if need be; never through a link.

  None on a medium that is only read, where nobody can write.
  """
  try:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
  except OSError as error:
    if error.errno == errno.EROFS:
      yield None
      return
    raise inputs.InputError(
      f'--workdir {inputs.name_of(path.parent)}: {inputs.one_line(error)}'
    ) from error
  with open(descriptor, 'r+') as file:
    yield file
