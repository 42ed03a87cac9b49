"""A polite end: when told to leave, save what is done, to be run again.

Cloud machines that are taken away say so with SIGTERM some 30 seconds before,
SLURM with SIGUSR1 or SIGUSR2, a terminal that is closed with SIGHUP, a person
with Ctrl-C (SIGINT), a limit of CPU time with SIGXCPU. `watch` turns each into
a mark; long work looks for the mark where it is whole, and leaves by
`Preempted`, which launchers turn into exit code 75. A second signal ends the
process at once: that loses no more than a kill does.

Before there is anything to save (`leave_at_once`), the first signal ends it.
"""

import os
import signal
import sys
import time
from typing import NoReturn

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again

SIGNALS = tuple(
  getattr(signal, name)
  for name in (
    'SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU',
  )
  if hasattr(signal, name)
)  # fmt: skip

# Seconds within which a second signal is the first one again.
_AGAIN = 1.0

_marks: list[float] = []
_at_once = False


class Preempted(Exception):
  """Everything done is saved; the same command goes on from here."""


def _end(number, frame) -> None:
  """Without Python's own end, which waits for threads."""
  del frame
  name = signal.Signals(number).name
  # Not print: the signal may have come in the middle of one.
  os.write(
    sys.__stderr__.fileno() if sys.__stderr__ else 2,
    f'jaxdiff: stopped by {name}: run the same command again\n'.encode(),
  )
  os._exit(EXIT_CODE)


def leave_at_once() -> None:
  """Ends the process at the first signal; from the main thread."""
  global _at_once
  _at_once = True
  _handle(_end)


def watch_from_here() -> None:
  """`watch`, in a process that left at once until now; nothing in others."""
  global _at_once
  if _at_once:
    watch()
  _at_once = False


def watch() -> None:
  """Marks the first signal, and ends at the second; from the main thread."""
  first = None

  def mark(number, frame) -> None:
    nonlocal first
    now = time.monotonic()
    if first is None:
      first = now
      _marks.append(number)
    elif number == getattr(signal, 'SIGXCPU', None):
      pass  # it comes every second, until the hard limit
    elif now - first > _AGAIN:  # not the same one, sent to a whole group
      _end(number, frame)

  _handle(mark)


def _handle(handler) -> None:
  """Takes over the signals, but for those that are ignored, as by nohup."""
  for number in SIGNALS:
    if signal.getsignal(number) is not signal.SIG_IGN:
      signal.signal(number, handler)


def asked() -> bool:
  """Whether the process was told to leave."""
  return bool(_marks)


def leave_if_asked() -> None:
  """Raises Preempted if so; for moments when nothing is half done."""
  if asked():
    leave()


def leave() -> NoReturn:
  """Raises Preempted, also where another process was told."""
  name = signal.Signals(int(_marks[0])).name if _marks else 'a signal elsewhere'
  raise Preempted(
    f'stopped by {name}; all that was done is saved: run the same command again'
  )
