"""Attack every checkpoint that a run kept, and draw what was given away when.

    launch/local.sh python -m launch.attack_checkpoints \
      --config=configs/digits.py --config.train.max_to_keep=0 \
      --workdir=runs/digits-steps

Runs the stages that are missing first. steps.csv and steps.html compare the
steps; the same command again resumes what was interrupted.
"""

from jaxdiff.pipeline import attack_checkpoints
from launch import main


def work(config, workdir: str) -> None:
  """Runs and draws."""
  print(f'steps: {attack_checkpoints.run_steps(config, workdir)}')


if __name__ == '__main__':
  main.start_work(work)
