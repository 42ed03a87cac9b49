"""What the launchers share: flags, the device count, one line for bad input."""

from collections.abc import Callable, Sequence
import logging as stdlib_logging
import os
import sys
from typing import Any, NoReturn

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdiff import audit, mesh, multihost, preemption, runs
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


def start(stages: Sequence[str]) -> None:
  """Parses flags and runs stages; never returns."""

  def work(config, workdir: str) -> None:
    run = audit.run_stages(config, workdir, stages)
    if stages[-1] == 'report' and multihost.is_first():
      print(f'report: {run.report}')

  start_work(work)


def start_work(work: Callable[[Any, str], None]) -> None:
  """Parses flags and calls work(config, workdir); never returns.

  Exit codes: 2, bad input, said in one line; 75, stopped by SIGTERM.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    # Libraries log through absl too, Orbax a dozen lines a checkpoint.
    own = os.path.dirname(audit.__file__)
    logging.get_absl_handler().addFilter(
      lambda record: (
        record.levelno > stdlib_logging.INFO or record.pathname.startswith(own)
      )
    )
    config = CONFIG.value
    mesh.use_cpu_devices(
      CPU_DEVICES.value
      or mesh.default_cpu_devices(
        min(config.num_models, config.train.models_per_block),
        [config[stage].batch_size for stage in ('train', 'sample', 'signals')],
      )
    )
    try:
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
