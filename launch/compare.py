"""Families of models side by side: GANs beside diffusion, by training step.

    launch/local.sh python -m launch.compare --out=runs/families \
      --run=diffusion=runs/digits-steps --run=GAN=runs/digits_gan-steps

The runs are finished audits of the same images; where launch.attack_checkpoints
attacked every checkpoint of a run, its whole course is drawn. Writes
compare.csv, overlap.csv and compare.html.
"""

from absl import flags

from jaxdiff.report import compare
from jaxdiff.runs import layout
from launch import plain

RUN = flags.DEFINE_multi_string(
  'run', None, 'NAME=FOLDER of a finished audit; twice or more.', required=True
)
OUT = flags.DEFINE_string('out', None, 'Folder of the page.', required=True)


def work() -> None:
  """Compares and says where the page is."""
  page = compare.write(plain.named_runs(RUN.value), layout.folder(OUT.value))
  print(f'families: {page}')


if __name__ == '__main__':
  plain.start(work)
