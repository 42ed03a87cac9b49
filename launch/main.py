"""What the launchers share: flags, the device count, one line for bad input."""

from collections.abc import Callable, Iterable, Sequence
import io
import os
import socket
import sys
from typing import Any, NoReturn
import warnings

from absl import app, flags, logging
import jax
from ml_collections import config_flags

from jaxdiff import inputs, schema
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import dry_run, preflight, preflight_text
from jaxdiff.pipeline import stages as stages_lib
from jaxdiff.runs import layout, opening
from jaxdiff.runtime import (
  mesh,
  multihost,
  preemption,
  progress,
  roll_call,
  topologies,
)
from launch import flag_errors

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
FAIL_IF = flags.DEFINE_multi_string(
  'fail_if',
  [],
  "What the report must not say, like 'extraction.precision >= 0.5'; exit code "
  '3 if it does, or if that is undecided. May be given several times.',
)
PARQUET = flags.DEFINE_bool(
  'parquet', False, 'Write the tables of the report as Parquet beside the CSV.'
)
DRY_RUN = flags.DEFINE_bool(
  'dry_run', False, 'Say what the run would take, and do nothing.'
)
COMPILE_FOR = flags.DEFINE_multi_string(
  'compile_for',
  [],
  'With --dry_run: compile every program for such a slice, like v5e:4x4 or '
  'v5p:2x2x2, and write preflight.json; exit code 2 if one does not fit. May '
  'be given several times.',
)
COMPILE_STAGES = flags.DEFINE_list(
  'compile_stages', [], 'Stages that --compile_for compiles; all if empty.'
)
UTILISATION = flags.DEFINE_float(
  'utilisation',
  0.3,
  "Share of the chips' peak that --dry_run assumes.",
  0.01,
  1.0,
)


# Exit code where the report, which is written, says what --fail_if forbids.
POLICY_NOT_MET = 3


def start(verbs: Sequence[str]) -> None:
  """Parses flags and runs stages of some verbs; never returns."""
  start_work(work_of(verbs))


def work_of(verbs: Sequence[str]) -> Callable[[Any, str], None]:
  """(config, workdir) -> None, that runs stages of some verbs."""

  def work(config, workdir: str) -> None:
    for name, value in (('fail_if', FAIL_IF.value), ('parquet', PARQUET.value)):
      if value and verbs[-1] != 'report':
        raise inputs.InputError(
          f'--{name}: is about a report; give it to launch.audit or '
          'launch.report'
        )
    run = stages_lib.run_stages(
      config, workdir, verbs, FAIL_IF.value, PARQUET.value
    )
    if verbs[-1] != 'report':
      return
    if multihost.is_first():
      print(f'report: {run.report}')
    unmet = stages_lib.unmet(run)
    if unmet:
      print(f'jaxdiff: policy not met: {"; ".join(unmet)}', file=sys.stderr)
      sys.exit(POLICY_NOT_MET)

  return work


def start_work(
  work: Callable[[Any, str], None],
  configs_of: Callable[[Any], Iterable[Any]] = lambda config: [config],
) -> None:
  """Parses flags and calls work(config, workdir); never returns.

  With --dry_run it says what the runs of configs_of(config) would take.

  Exit codes: 2, bad input, said in one line; 3, a policy is not met; 75,
  stopped by a signal.
  """

  def main(argv: Sequence[str]) -> None:
    del argv
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(progress.ours)
    logging.get_absl_handler().setFormatter(progress.Lines())
    # What libraries say to programmers is nothing to who runs a program.
    warnings.simplefilter('ignore')
    config, workdir = CONFIG.value, WORKDIR.value or ''
    try:
      _check_flags()
      plans_lib.check(config)
      mesh.use_cpu_devices(
        CPU_DEVICES.value
        or mesh.default_cpu_devices(*plans_lib.devices(config))
      )
      topologies.settle()
      if DRY_RUN.value:
        if COMPILE_FOR.value:
          topologies.use_cpu()
        _check_devices()
        slices = [preflight.slice_of(name) for name in COMPILE_FOR.value]
        runs = list(configs_of(config))
        if slices and len(runs) > 1:
          raise inputs.InputError(
            '--compile_for: is about one run; give it to launch.audit, with '
            "the point's keys"
          )
        for config_of_run in runs:
          plans = _plans_without_images(config_of_run)
          _check_stages(plans)
          for line in dry_run.lines(
            plans, dry_run.make(plans), UTILISATION.value
          ):
            print(line)
          if slices:
            _compile_for(config_of_run, plans, slices, workdir)
        return
      if MULTIHOST.value or COORDINATOR.value:
        multihost.start(
          COORDINATOR.value,
          NUM_PROCESSES.value,
          PROCESS_ID.value,
          WAIT_SECONDS.value,
        )
        # JAX takes SIGTERM for itself where it knows of other processes.
        preemption.leave_at_once()
      _check_devices()
      work(config, workdir)
    except preemption.Preempted as stopped:
      print(f'jaxdiff: {stopped}', file=sys.stderr)
      sys.exit(preemption.EXIT_CODE)
    except (inputs.InputError, FloatingPointError) as error:
      _fail(str(error))
    except MemoryError:
      _fail('the memory does not suffice; --dry_run says what a run takes')
    except OSError as error:
      # A full disk, most often. What is whole stays; the rest is made again.
      _fail(
        f'--workdir {inputs.name_of(workdir)}: {inputs.one_line(error)}; '
        'make room or mend it, and run the same command again'
      )

  # What a run leaves holds training images: nobody else may change it.
  os.umask(os.umask(0o022) | 0o022)
  for stream in (sys.stdout, sys.stderr):
    # A locale without UTF-8 loses some characters, and no run.
    if isinstance(stream, io.TextIOWrapper):
      stream.reconfigure(errors='backslashreplace')
  for name in flags.FLAGS.flags_by_module_dict().get('launch.main', ()):
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], name)
  flags.mark_flags_as_required(['config', 'workdir'])
  app.run(main, flags_parser=_parse)


# More devices than this are a slip: each takes memory and compiling.
_MOST_CPU_DEVICES = 1024


def _check_flags() -> None:
  """Raises InputError for flags that go ill with each other."""
  if COMPILE_FOR.value and not DRY_RUN.value:
    raise inputs.InputError('--compile_for goes with --dry_run')
  if not 0 <= CPU_DEVICES.value <= _MOST_CPU_DEVICES:
    raise inputs.InputError(
      f'--cpu_devices={CPU_DEVICES.value} must be within 0 .. '
      f'{_MOST_CPU_DEVICES}'
    )
  workdir = WORKDIR.value or ''
  try:
    workdir.encode()
  except UnicodeEncodeError as error:
    raise inputs.InputError(
      f'--workdir={inputs.name_of(workdir)} is not UTF-8: give it another name'
    ) from error
  wild = sorted(set('*?[]') & set(workdir))
  if not workdir or wild or not workdir.isprintable():
    raise inputs.InputError(
      f'--workdir={inputs.name_of(workdir)}: a folder without *, ?, brackets '
      'and control characters'
    )
  count, number = NUM_PROCESSES.value, PROCESS_ID.value
  address = COORDINATOR.value
  if address is None and not MULTIHOST.value:
    if count is not None or number is not None:
      raise inputs.InputError(
        '--num_processes and --process_id: give --coordinator=HOST:PORT too, '
        'or --multihost where the cluster says all three'
      )
    return
  if address is not None:
    host, _, port = address.rpartition(':')
    if (
      not host or '/' in host or not port.isdigit() or not 0 < int(port) < 2**16
    ):
      raise inputs.InputError(
        f'--coordinator={inputs.one_line(address)} is no HOST:PORT'
      )
    try:
      socket.getaddrinfo(host, int(port))
    except OSError as error:
      raise inputs.InputError(
        f'--coordinator: host {inputs.one_line(host)}: {inputs.one_line(error)}'
      ) from error
    if number == 0:
      _check_free(int(port))
  if count is not None and not 0 <= (number or 0) < count:
    raise inputs.InputError(
      f'--process_id={number} must be within 0 .. {count - 1}'
    )


def _check_free(port: int) -> None:
  """Whether process 0 can listen there: JAX ends without a word if not."""
  with socket.socket() as probe:
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind(('', port))
    except OSError as error:
      raise inputs.InputError(
        f'--coordinator: port {port} of this host: {inputs.one_line(error)}: '
        'take another on all hosts'
      ) from error


def _check_devices() -> None:
  """Raises InputError where JAX finds no device."""
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    raise inputs.InputError(
      f'JAX finds no device: {inputs.one_line(error)} (JAX_PLATFORMS, and '
      'JAXDIFF_EXTRAS=cuda or tpu before launch/local.sh)'
    ) from error


def _plans_without_images(config) -> plans_lib.Plans:
  """Plans on images that need not be there, where their shape is known."""
  plans_lib.check(config)
  dataset = None
  if schema.kind_of(config) in (schema.ENSEMBLE, 'gan'):
    dataset = dry_run.stand_in(config.data.name, config.data.num_examples)
  return plans_lib.make(config, dataset)


def _check_stages(plans: plans_lib.Plans) -> None:
  """Raises InputError for stages to compile that the run does not have."""
  names = [stage.name for stage in plans.stages]
  for name in COMPILE_STAGES.value:
    if name not in names:
      raise inputs.InputError(
        f'--compile_stages: no {name!r}; there is {", ".join(names)}'
      )


def _compile_for(
  config,
  plans: plans_lib.Plans,
  slices: Sequence[preflight.Slice],
  workdir: str,
) -> None:
  """Compiles what a run compiles, for slices that are elsewhere.

  Raises:
    InputError: for a program that does not fit.
  """
  run = layout.Run(layout.folder(workdir))
  found, refused = [], ''
  for where in slices:
    checked = []
    for each in preflight.check(plans, where, COMPILE_STAGES.value):
      checked.append(each)
      print(preflight_text.line(each, where), flush=True)
    hours, chips = preflight.hours(checked, where), len(where.devices)
    print(
      f'{where.name}: {hours:.3g} h ({hours * chips:.3g} chip-hours on '
      f'{chips}) by the cycles of what is estimated'
    )
    advice = preflight_text.advice(plans, where)
    if advice:
      print(advice)
    found.append((where, checked))
    opening.make_private(run.path)
    preflight.write(run, config, found)
    for each in checked:
      if refused or preflight.fits(each, where):
        continue
      change = preflight.mend(config, _plans_without_images, each, where)
      stage = plans.stage(each.stage)
      assert stage is not None
      refused = preflight_text.refusal(stage, each, change, where)
  print(f'preflight: {run.preflight}')
  if refused:
    raise inputs.InputError(refused)


def _parse(argv: Sequence[str]) -> list[str]:
  try:
    flag_errors.check_file(argv)
    rest = flags.FLAGS(argv)
    _ = CONFIG.value.name  # a missing file shows only on use
  except inputs.InputError as error:
    _fail(str(error))
  except (Exception, SystemExit) as error:  # and whatever the user's file does
    _fail(flag_errors.explain(argv, error))
  if len(rest) > 1:
    _fail(f'unknown arguments: {" ".join(rest[1:])}')
  return rest


def _fail(message: str) -> NoReturn:
  # One line, whatever a library said.
  print(f'jaxdiff: {inputs.one_line(message, 1000)}', file=sys.stderr)
  roll_call.failed(2)
  sys.exit(2)
