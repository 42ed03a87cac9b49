"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import logging as stdlib_logging
import pathlib
import sys
import time

from absl import logging
from etils import epath
import tqdm

LOG_EVERY_SECONDS = 10.0


def ours(record: stdlib_logging.LogRecord) -> bool:
  """Keeps what jaxdiff says, and warnings: Orbax has a dozen lines a save."""
  own = str(pathlib.Path(__file__).parent)
  return record.levelno > stdlib_logging.INFO or record.pathname.startswith(own)


@contextlib.contextmanager
def log_to(path: epath.Path) -> Iterator[None]:
  """Adds what is logged meanwhile to a file; remote folders take no appends."""
  if '://' in str(path):
    yield
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  handler = stdlib_logging.FileHandler(path)
  handler.setFormatter(logging.PythonFormatter())
  handler.addFilter(ours)
  logging.get_absl_logger().addHandler(handler)
  try:
    yield
  finally:
    logging.get_absl_logger().removeHandler(handler)
    handler.close()


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
