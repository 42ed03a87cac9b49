"""A polite end: on SIGTERM, save what is done and leave, to be run again.

Cloud machines that are taken away say so with SIGTERM some 30 seconds before.
`watch` turns it into a mark; long work looks for the mark where it is whole,
and leaves by `Preempted`, which launchers turn into exit code 75. A second
SIGTERM ends the process at once: that loses no more than a kill does.
"""

import signal
from typing import NoReturn

EXIT_CODE = 75  # EX_TEMPFAIL of sysexits.h: run the same command again

_marks = []


class Preempted(Exception):
  """Everything done is saved; the same command goes on from here."""


def watch() -> None:
  """Takes over SIGTERM, from the main thread."""

  def mark(number, frame) -> None:
    del frame
    _marks.append(number)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

  signal.signal(signal.SIGTERM, mark)


def asked() -> bool:
  """Whether the process was told to leave."""
  return bool(_marks)


def leave_if_asked() -> None:
  """Raises Preempted if so; for moments when nothing is half done."""
  if asked():
    leave()


def leave() -> NoReturn:
  """Raises Preempted, also where another process was told."""
  raise Preempted(
    'stopped by SIGTERM; all that was done is saved: run the same command again'
  )
