"""What the launchers share: flags, the device count, one line for bad input."""

from collections.abc import Callable, Sequence
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdiff import (
  audit,
  build,
  estimates,
  mesh,
  multihost,
  preemption,
  progress,
  runs,
)
from launch import complaints

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment: configs/NAME.py or configs/NAME.py:arg.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
CPU_DEVICES = flags.DEFINE_integer(
  'cpu_devices', 0, 'Devices to split the CPU into; 0 is one a core.'
)
COORDINATOR = flags.DEFINE_string(
  'coordinator', None, 'host:port of process 0, where several run this command.'
)
NUM_PROCESSES = flags.DEFINE_integer(
  'num_processes', None, 'How many processes run this command.'
)
PROCESS_ID = flags.DEFINE_integer(
  'process_id', None, 'Which of them this is, from 0.'
)
MULTIHOST = flags.DEFINE_bool(
  'multihost', False, 'Ask the cluster (TPU, SLURM) for the three above.'
)
WAIT_SECONDS = flags.DEFINE_integer(
  'wait_seconds', 300, 'How long to wait for the other processes to come.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Say what the run would take, and do nothing.'
)
UTILISATION = flags.DEFINE_float(
  'utilisation',
  0.3,
  "Share of the chips' peak that --dry_run assumes.",
  0.01,
  1.0,
)


def start(stages: Sequence[str]) -> None:
  """Parses flags and runs stages; never returns."""

  def work(config, workdir: str) -> None:
    run = audit.run_stages(config, workdir, stages)
    if stages[-1] == 'report' and multihost.is_first():
      print(f'report: {run.report}')

  start_work(work)


def start_work(
  work: Callable[[Any, str], None],
  configs_of: Callable[[Any], Sequence[Any]] = lambda config: [config],
) -> None:
  """Parses flags and calls work(config, workdir); never returns.

  With --dry_run it says what the runs of configs_of(config) would take.

  Exit codes: 2, bad input, said in one line; 75, stopped by SIGTERM.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(progress.ours)
    config = CONFIG.value
    mesh.use_cpu_devices(
      CPU_DEVICES.value
      or mesh.default_cpu_devices(
        min(config.num_models, config.train.models_per_block),
        [config[stage].batch_size for stage in ('train', 'sample', 'signals')],
      )
    )
    try:
      if DRY_RUN.value:
        for one in configs_of(config):
          _estimate(one)
        return
      if MULTIHOST.value or COORDINATOR.value:
        multihost.start(
          COORDINATOR.value,
          NUM_PROCESSES.value,
          PROCESS_ID.value,
          WAIT_SECONDS.value,
        )
      # After JAX, which takes SIGTERM too where it knows of other processes.
      preemption.watch()
      work(config, WORKDIR.value)
    except preemption.Preempted as stopped:
      print(f'jaxdiff: {stopped}', file=sys.stderr)
      sys.exit(preemption.EXIT_CODE)
    except (runs.InputError, FloatingPointError) as error:
      _fail(str(error))
    except OSError as error:
      # A full disk, most often. What is whole stays; the rest is made again.
      _fail(
        f'--workdir {WORKDIR.value}: {error}; make room or mend it, and run '
        'the same command again'
      )

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=_parse)


def _estimate(config) -> None:
  dataset = estimates.stand_in(config.data.name, config.data.num_examples)
  plans = build.make(config, dataset)
  for line in estimates.lines(plans, estimates.make(plans), UTILISATION.value):
    print(line)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    rest = flags.FLAGS(argv)
    _ = CONFIG.value.num_models  # a missing file shows only on use
  except Exception as error:  # ml_collections raises many kinds
    _fail(complaints.explain(argv, error))
  if len(rest) > 1:
    _fail(f'unknown arguments: {" ".join(rest[1:])}')
  return rest


def _fail(message: str) -> NoReturn:
  print(f'jaxdiff: {message}', file=sys.stderr)
  sys.exit(2)
