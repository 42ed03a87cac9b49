"""Runs the stages of a config in its folder; what is done is not done again."""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import functools
import time

from absl import logging
import jax
import numpy as np

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import provenance
from jaxdiff.plans import stage as stage_lib
from jaxdiff.report import page, policy
from jaxdiff.runs import files, layout, locks, opening
from jaxdiff.runtime import (
  mesh,
  multihost,
  preemption,
  progress,
  roll_call,
  settings,
)
from jaxdiff.training import plan as training_plan

# What the launchers run, in order: groups of stages, and the report of them.
VERBS = (*stage_lib.VERBS, 'report')


def report(
  plans: plans_lib.Plans, run: layout.Run, rules: Sequence[policy.Rule] = ()
) -> None:
  """Writes report.html and report.json from the tables."""

  def made(stage: stage_lib.Stage) -> bool:
    # A folder may be older than a stage.
    return not stage.files or any(
      (run.path / file.name).exists() for file in stage.files
    )

  if multihost.is_first():
    verdicts = page.write(
      page.Page(
        name=plans.name,
        subject=plans.subject,
        run=run,
        done=tuple(stage.name for stage in plans.stages if made(stage)),
        not_done=(
          *((stage.words, stage.why) for stage in plans.not_done),
          *(
            (stage.words, 'it was not run yet: launch.attack runs it')
            for stage in plans.stages
            if not made(stage)
          ),
        ),
      ),
      rules,
    )
    for verdict in verdicts:
      logging.info('policy: %s', policy.in_words(verdict))


def write_parquet(run: layout.Run, wanted: bool) -> None:
  """Writes every table of the report as Parquet, too.

  Args:
    run: with its report.
    wanted: or else only what is there already is written anew.
  """
  if not multihost.is_first():
    return
  for name in files.read_json(run.tables):
    path = run.path / name
    twin = path.with_suffix('.parquet')
    if path.suffix == '.csv' and (wanted or twin.exists()):
      files.write_parquet(path)


def run_stages(
  config,
  workdir: str,
  verbs: Sequence[str] = VERBS,
  fail_if: Sequence[str] = (),
  parquet: bool = False,
) -> layout.Run:
  """Runs stages of one config in one folder.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    verbs: some of VERBS, in order.
    fail_if: policies on the report (`report/policy.py`), which says what came
      of them.
    parquet: write the tables of the report as Parquet, too.

  Returns:
    The run.

  Raises:
    InputError: before any long work, if the config or folder is wrong.
  """
  settings.fix()
  plans = plans_lib.make(config, run=layout.Run(layout.folder(workdir)))
  rules = policy.parse(fail_if, plans.fields())
  for warning in policy.warnings_of(rules):
    logging.warning('--fail_if: %s', warning)
  # More models need training, more samples sampling: only there may they grow.
  grows = provenance.grow(config)
  may_grow = {name for name, verb in grows.items() if verb in verbs}
  with roll_call.whose_error(), holding(workdir):
    if not multihost.is_first():
      multihost.barrier('opening the run')
    run = opening.open_run(
      workdir, config.to_dict(), may_grow, provenance.free(config)
    )
    run = dataclasses.replace(run, identity=provenance.identity(config, plans))
    with progress.log_to(run.logs, jax.process_index()):
      check_evidence(plans, run)
      if multihost.is_first():
        provenance.write_inputs(plans, run)
        multihost.barrier('opening the run')
      preemption.watch_from_here()
      preemption.leave_if_asked()
      for verb in verbs:
        if verb == 'report':
          if 'attack' not in verbs:
            opening.check_tables(run, reported(plans))
          _timed('report', functools.partial(report, plans, run, rules))
        else:
          run_verb(plans, run, verb, last=verb == verbs[-1])
      if {'attack', 'report'} & set(verbs):
        write_parquet(run, parquet)
  return run


def run_verb(
  plans: plans_lib.Plans,
  run: layout.Run,
  verb: str,
  *,
  last: bool = False,
  optional: bool = True,
) -> None:
  """Runs the stages of one verb; after the attacks, seals their tables.

  Args:
    plans: of the run.
    run: its folder.
    verb: one of `stage.VERBS`.
    last: whether nothing is done after it.
    optional: whether stages that a config may leave out are run.
  """
  chosen = [
    stage
    for stage in plans.stages
    if stage.verb == verb and (optional or not stage.optional)
  ]
  for stage in chosen:
    _timed(stage.name, functools.partial(stage.run, run))
    if stage is not chosen[-1]:
      _leave_if_asked()
  if verb == 'attack':
    if multihost.is_first():
      digests = opening.table_digests(run, reported(plans))
      files.write_json(run.tables, digests)
    multihost.barrier('the tables')
  if not last:
    _leave_if_asked()


def unmet(run: layout.Run) -> list[str]:
  """Rules of the report that are not met, or undecided."""
  return [
    f'{row["rule"]} ({row["status"]})'
    for row in files.read_json(run.document)['policies']
    if row['status'] != policy.PASS
  ]


def reported(plans: plans_lib.Plans) -> list[layout.File]:
  """Files that the report is made of."""
  return [file for stage in plans.stages for file in stage.files]


def _timed(name: str, work: Callable[[], None]) -> None:
  """Does something together with the other processes, and says how long."""
  start = time.monotonic()
  work()
  multihost.barrier(name)
  logging.info('%s: done in %.0f s', name, time.monotonic() - start)


def _leave_if_asked() -> None:
  if multihost.any_of(preemption.asked()):
    preemption.leave()


@contextlib.contextmanager
def holding(workdir: str) -> Iterator[None]:
  """The folder, held by the first process for as long as it works there.

  Raises:
    InputError: if another holds it, or it cannot be made.
  """
  path = layout.folder(workdir)
  if not multihost.is_first():
    yield
    return
  try:
    opening.make_private(path)
  except (OSError, ValueError, ImportError) as error:
    raise inputs.InputError(
      f'--workdir {inputs.name_of(workdir)}: {inputs.one_line(error)}'
    ) from error
  with locks.lock(path):
    files.remove_leftovers(path)
    yield


def opened(config, workdir: str) -> tuple[plans_lib.Plans, layout.Run]:
  """Plans and folder of a run that is there, to read from.

  Raises:
    InputError: if there is none, or it is of another config or other images.
  """
  settings.fix()
  if not layout.Run(layout.folder(workdir)).config.exists():
    raise inputs.InputError(
      f'--workdir={workdir} holds no run: train one first'
    )
  plans = plans_lib.make(config, run=layout.Run(layout.folder(workdir)))
  run = opening.open_run(
    workdir, config.to_dict(), free=provenance.free(config), keep=True
  )
  run = dataclasses.replace(run, identity=provenance.identity(config, plans))
  check_evidence(plans, run)
  return plans, run


def check_evidence(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Refuses data, a split or devices that do not go with the folder.

  Raises:
    InputError: naming what differs.
  """
  record = provenance.read_provenance(run)
  if record is None:
    made = [
      child.name
      for child in run.path.iterdir()
      if child.is_dir()
      and child.name != run.logs.name
      and not child.name.startswith('.')
    ]
    if made:
      raise inputs.InputError(
        f'{run.provenance} is missing, but {min(made)} is there: nothing says '
        'what it was made from; restore it, or give --workdir a new folder'
      )
  else:
    if record['data_sha256'] != plans.dataset.fingerprint():
      raise inputs.InputError(
        f'{run.path} was made from other images than data.name gives now '
        '(SHA-256 differs): restore the data, or give --workdir a new folder'
      )
    for what, now in (
      ('inputs', plans.inputs),
      ('settings', settings.recorded()),
    ):
      before = record[what]
      for name in sorted(before.keys() | now.keys()):
        if before.get(name) != now.get(name):
          raise inputs.InputError(
            f'{run.path} was made with another {name} ({before.get(name)!r} '
            f'there, {now.get(name)!r} now): restore it, or give --workdir a '
            'new folder'
          )
  for stage in plans.stages:
    stage.check(run)
    for plan, folder_of in stage.trained:
      _check_blocks(plans, plan, folder_of(run))


def _check_blocks(
  plans: plans_lib.Plans, plan: training_plan.TrainPlan, run: layout.Run
) -> None:
  """Refuses a split or devices that do not go with models of one training."""
  for block in plan.ensemble.blocks(run):
    recorded = files.read_npy(block.keep)
    if recorded is not None and not np.array_equal(recorded, plan.keep(block)):
      raise inputs.InputError(
        f'{block.keep} says that these models trained on other examples than '
        'the config does: give --workdir a new folder'
      )
    try:
      grid = mesh.make(
        len(block.models), shards=plan.ensemble.devices_per_model
      )
    except ValueError as error:
      raise inputs.InputError(str(error)) from error
    stage_lib.check_batches(
      plans.stages,
      grid.shape[mesh.DATA],
      f'of models {block.first} to {block.last}',
    )
