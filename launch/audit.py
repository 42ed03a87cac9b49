"""Train, sample, attack, report: one command, one folder.

    launch/local.sh python -m launch.audit \
      --config=configs/digits.py --workdir=runs/digits

The same command again resumes what was interrupted and repeats nothing. Of a
config that sets AUDIT_ALL, as configs/defences.py does, every point of its
sweep is audited, and all are compared (launch/sweep.py; --shard goes with it).
"""

from collections.abc import Iterable
import sys
from typing import Any

from absl import flags

from jaxdiff import inputs
from jaxdiff.pipeline import stages
from launch import main, sweep


def work(config, workdir: str) -> None:
  """One audit, or all of a sweep."""
  if not sweep.is_all():
    if sweep.SHARD.present:
      raise inputs.InputError(
        '--shard: this config is one run; see launch.sweep'
      )
    main.work_of(stages.VERBS)(config, workdir)
    return
  if main.FAIL_IF.value or main.PARQUET.value:
    raise inputs.InputError(
      '--fail_if and --parquet: are about one report, and this config has one '
      'a point; give them to launch.report with the folder of a point'
    )
  sweep.work(config, workdir)


def configs_of(config) -> Iterable[Any]:
  """Of the runs that --dry_run speaks of; slices are for the unchanged one."""
  if sweep.is_all() and not main.COMPILE_FOR.value:
    return sweep.configs_of(config)
  return [config]


if __name__ == '__main__':
  flags.FLAGS.register_key_flag_for_module(
    sys.argv[0], flags.FLAGS[sweep.SHARD.name]
  )
  main.start_work(work, configs_of)
