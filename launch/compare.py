"""Families of models side by side: GANs beside diffusion, by training step.

    launch/local.sh python -m launch.compare --out=runs/families \
      --run=diffusion=runs/digits-steps --run=GAN=runs/digits_gan-steps

The runs are finished audits of the same images; where launch.attack_checkpoints
attacked every checkpoint of a run, its whole course is drawn. Writes
compare.csv, overlap.csv and compare.html.
"""

import re

from absl import flags

from jaxdiff import inputs
from jaxdiff.report import compare
from jaxdiff.runs import layout
from launch import plain

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


def work() -> None:
  """Compares and says where the page is."""
  page = compare.write(runs(), layout.folder(OUT.value))
  print(f'families: {page}')


if __name__ == '__main__':
  plain.start(work)
