"""What launchers without a config share: one line for bad input."""

from collections.abc import Callable, Sequence
import sys

from absl import app, logging

from jaxdiff import inputs
from jaxdiff.runtime import progress


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
