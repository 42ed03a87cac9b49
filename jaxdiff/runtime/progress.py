"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import copy
import logging as stdlib_logging
import os
import pathlib
import sys
import time

from absl import logging
from etils import epath
import tqdm

from jaxdiff import inputs

LOG_EVERY_SECONDS = 10.0


def ours(record: stdlib_logging.LogRecord) -> bool:
  """Keeps what jaxdiff says, and warnings: Orbax has a dozen lines a save."""
  return record.levelno > stdlib_logging.INFO or _is_own(record)


def _is_own(record: stdlib_logging.LogRecord) -> bool:
  return record.pathname.startswith(str(pathlib.Path(__file__).parents[1]))


class Lines(logging.PythonFormatter):
  """Gives others a line each: no traceback, and no second line.

  Orbax logs one for every file that it could not write; what follows from that
  is an exception, and said once.
  """

  def format(self, record: stdlib_logging.LogRecord) -> str:
    """The line; the record itself stays as it is for other handlers."""
    if not _is_own(record):
      record = copy.copy(record)
      record.msg, record.args = inputs.one_line(record.getMessage(), 500), ()
      record.exc_info = record.exc_text = record.stack_info = None
    return super().format(record)


class _LogFile(stdlib_logging.StreamHandler):
  """A log that is lost where the disk is full, and says nothing of that."""

  def handleError(self, record: stdlib_logging.LogRecord) -> None:
    pass


@contextlib.contextmanager
def log_to(folder: epath.Path, process: int) -> Iterator[None]:
  """Adds what is logged meanwhile to a file; remote folders take no appends.

  Where no log can be written, as on a medium that is only read, it says so.

  Args:
    folder: of the logs.
    process: number of this process.
  """
  if '://' in str(folder):
    yield
    return
  path = folder / f'process-{process:03d}.log'
  try:
    folder.mkdir(parents=True, exist_ok=True)
    # Not through a link that somebody put there.
    stream = os.fdopen(
      os.open(
        path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o600
      ),
      'a',
    )
  except OSError as error:
    logging.warning('no log is kept: %s', error)
    yield
    return
  handler = _LogFile(stream)
  handler.setFormatter(Lines())
  handler.addFilter(ours)
  logging.get_absl_logger().addHandler(handler)
  try:
    yield
  finally:
    logging.get_absl_logger().removeHandler(handler)
    handler.close()
    stream.close()


@contextlib.contextmanager
def track(
  stage: str, total: int, unit: str, done: int = 0
) -> Iterator[Callable[..., None]]:
  """Yields `advance(n, **figures)`; shows done / total, rate and ETA.

  Args:
    stage: name of the work, shown first.
    total: amount of work in `unit`, including `done`.
    unit: what is counted.
    done: what an earlier run already did; it does not count in the rate.
  """
  if sys.stderr.isatty():
    with tqdm.tqdm(desc=stage, total=total, initial=done, unit=unit) as bar:

      def advance_bar(n: int, **figures: float) -> None:
        bar.update(n)
        if figures:
          bar.set_postfix({k: f'{v:.4g}' for k, v in figures.items()})

      yield advance_bar
    return

  start = last = time.monotonic()
  count = done

  def advance_log(n: int, **figures: float) -> None:
    nonlocal count, last
    count += n
    now = time.monotonic()
    if now - last < LOG_EVERY_SECONDS and count < total:
      return
    last = now
    rate = (count - done) / max(now - start, 1e-9)
    eta = (total - count) / rate if rate else float('inf')
    extra = ''.join(f', {k} {v:.4g}' for k, v in figures.items())
    logging.info(
      '%s: %d / %d %s, %.3g %s/s, %.0f s left%s',
      stage, count, total, unit, rate, unit, eta, extra,
    )  # fmt: skip

  yield advance_log
