"""Families of models side by side: GANs beside diffusion, by training step.

    launch/local.sh python -m launch.compare --out=runs/families \
      --run=diffusion=runs/digits-steps --run=GAN=runs/digits_gan-steps

The runs are finished audits of the same images; where launch.attack_checkpoints
attacked every checkpoint of a run, its whole course is drawn. Writes
compare.csv, overlap.csv and compare.html.
"""

from collections.abc import Sequence
import re
import sys

from absl import app, flags, logging

from jaxdiff import inputs
from jaxdiff.report import compare
from jaxdiff.runs import layout
from jaxdiff.runtime import progress

RUN = flags.DEFINE_multi_string(
  'run', None, 'NAME=FOLDER of a finished audit; twice or more.', required=True
)
OUT = flags.DEFINE_string('out', None, 'Folder of the page.', required=True)


def runs() -> dict[str, layout.Run]:
  """What --run says."""
  out: dict[str, layout.Run] = {}
  for value in RUN.value:
    name, _, folder = value.partition('=')
    if not re.fullmatch(r'[A-Za-z0-9][\w .+-]{0,59}', name) or not folder:
      raise inputs.InputError(f'--run={inputs.one_line(value)}: NAME=FOLDER')
    if name in out:
      raise inputs.InputError(f'--run: two are called {name}')
    out[name] = layout.Run(layout.folder(folder))
  return out


def main(argv: Sequence[str]) -> None:
  """Runs; bad input is one line and exit code 2."""
  logging.set_verbosity(logging.INFO)
  logging.get_absl_handler().addFilter(progress.ours)
  logging.get_absl_handler().setFormatter(progress.Lines())
  try:
    if len(argv) > 1:
      raise inputs.InputError(f'unknown arguments: {" ".join(argv[1:])}')
    page = compare.write(runs(), layout.folder(OUT.value))
    print(f'families: {page}')
  except (inputs.InputError, OSError) as error:
    print(f'jaxdiff: {inputs.one_line(error, 1000)}', file=sys.stderr)
    sys.exit(2)


if __name__ == '__main__':
  app.run(main)
