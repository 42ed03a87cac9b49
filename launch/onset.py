"""When does memorisation begin, by the number of training images?

    for n in 128 256 512; do
      launch/local.sh python -m launch.attack_checkpoints \
        --config=configs/digits.py --config.data.num_examples=$n \
        --config.train.checkpoint_every=100 --config.train.max_to_keep=0 \
        --workdir=runs/onset-$n
    done
    launch/local.sh python -m launch.onset --out=runs/onset \
      --run=128=runs/onset-128 --run=256=runs/onset-256 \
      --run=512=runs/onset-512

Writes onset.csv and onset.html: the step at which a metric of steps.csv is
first above a level, of each run, and the power of the number of images that it
grows with.
"""

from absl import flags

from jaxdiff.report import onset
from jaxdiff.runs import layout
from launch import plain

RUN = flags.DEFINE_multi_string(
  'run', None, 'NAME=FOLDER of launch.attack_checkpoints; twice or more.',
  required=True,
)  # fmt: skip
OUT = flags.DEFINE_string('out', None, 'Folder of the page.', required=True)
METRIC = flags.DEFINE_string(
  'metric', 'share extracted', 'Of steps.csv: what memorisation is.'
)
LEVEL = flags.DEFINE_float(
  'level', 0.1, 'Of the metric: where memorisation begins.', 0.0, 1.0
)


def work() -> None:
  """Writes the page and says where it is."""
  runs = plain.named_runs(RUN.value)
  page = onset.write(runs, METRIC.value, LEVEL.value, layout.folder(OUT.value))
  print(f'onset: {page}')


if __name__ == '__main__':
  plain.start(work)
