"""Progress of long work: a bar on a terminal, log lines elsewhere."""

from collections.abc import Callable, Iterator
import contextlib
import sys
import time

from absl import logging
import tqdm

LOG_EVERY_SECONDS = 10.0


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
