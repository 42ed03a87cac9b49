"""What launchers without a config share: one line for bad input."""

from collections.abc import Callable, Sequence
import re
import sys

from absl import app, logging

from jaxdiff import inputs
from jaxdiff.runs import layout
from jaxdiff.runtime import progress


def named_runs(values: Sequence[str]) -> dict[str, layout.Run]:
  """Runs by name, of NAME=FOLDER each.

  Raises:
    InputError: naming the value, and what is wrong with it.
  """
  out: dict[str, layout.Run] = {}
  for value in values:
    name, _, folder = value.partition('=')
    if not re.fullmatch(r'[A-Za-z0-9][\w .+-]{0,59}', name) or not folder:
      raise inputs.InputError(f'--run={inputs.one_line(value)}: NAME=FOLDER')
    if name in out:
      raise inputs.InputError(f'--run: two are called {name}')
    out[name] = layout.Run(layout.folder(folder))
  return out


def start(work: Callable[[], int | None]) -> None:
  """Parses flags and calls work(), whose number is the exit code."""

  def main(argv: Sequence[str]) -> None:
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(progress.ours)
    logging.get_absl_handler().setFormatter(progress.Lines())
    try:
      if len(argv) > 1:
        raise inputs.InputError(f'unknown arguments: {" ".join(argv[1:])}')
      code = work() or 0
    except (inputs.InputError, OSError) as error:
      print(f'jaxdiff: {inputs.one_line(error, 1000)}', file=sys.stderr)
      sys.exit(2)
    sys.exit(code)

  app.run(main)
