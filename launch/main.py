"""What the launchers share: flags, the device count, one line for bad input."""

from collections.abc import Sequence
import logging as stdlib_logging
import os
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from jaxdiff import audit, mesh, runs

CONFIG = config_flags.DEFINE_config_file(
  'config', None, 'Experiment: configs/NAME.py or configs/NAME.py:arg.'
)
WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run.')
CPU_DEVICES = flags.DEFINE_integer(
  'cpu_devices', 0, 'Devices to split the CPU into; 0 is one a core.'
)


def start(stages: Sequence[str]) -> None:
  """Parses flags and runs stages; never returns."""

  def main(argv: Sequence[str]) -> None:
    if len(argv) > 1:
      raise app.UsageError(f'unknown arguments: {" ".join(argv[1:])}')
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
      CPU_DEVICES.value or mesh.default_cpu_devices(config.num_models)
    )
    try:
      run = audit.run_stages(config, WORKDIR.value, stages)
    except (runs.InputError, FloatingPointError) as error:
      print(f'jaxdiff: {error}', file=sys.stderr)
      sys.exit(2)
    if stages[-1] == 'report':
      print(f'report: {run.report}')

  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main)
