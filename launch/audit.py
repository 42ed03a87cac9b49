"""Train, sample, attack, report: one command, one folder.

    launch/local.sh python -m launch.audit \
      --config=configs/digits.py --workdir=runs/digits

The same command again resumes what was interrupted and repeats nothing.
"""

from jaxdiff.pipeline import stages
from launch import main

if __name__ == '__main__':
  main.start(stages.VERBS)
