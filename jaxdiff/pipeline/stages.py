"""The stages in order, each skipped when its outputs stand."""

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
from jaxdiff.attacks.canaries import exposure
from jaxdiff.attacks.extraction import annotations, followups, neighbours
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.inpainting import draw
from jaxdiff.attacks.inpainting import evaluate as inpainting_evaluate
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.side import evaluate as side_evaluate
from jaxdiff.attacks.side import train as side_train
from jaxdiff.pipeline import provenance
from jaxdiff.report import page
from jaxdiff.runs import files, layout, locks, opening
from jaxdiff.runtime import mesh, multihost, preemption, progress, settings
from jaxdiff.sampling import generate, quality
from jaxdiff.training import loop


def train(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Train every model of the run."""
  loop.fit(plans.train, run)


def sample(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Generate images from every model."""
  generate.generate(plans.sample, run)


def attack(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Measure signals and neighbours; score membership, extraction, quality."""
  measure.measure(plans.signals, run)
  if multihost.is_first():
    stored, queries = measure.load(
      run,
      plans.signals.num_models,
      len(plans.dataset),
      plans.signals.block_size,
    )
    membership_evaluate.analyse(plans.membership, stored, queries, run)
  neighbours.find_neighbours(plans.extraction, run)
  if multihost.is_first():
    extraction_evaluate.analyse(plans.extraction, run)
    followups.analyse(plans.extraction, run)
    quality.measure(plans.quality, run)
  if plans.inpainting is not None:
    draw.measure(plans.inpainting, run)
    if multihost.is_first():
      inpainting_evaluate.analyse(plans.inpainting, run)
  if plans.guided is not None:
    guide(plans.guided, run)
  if plans.canaries is not None:
    plant(plans.canaries, run)


def guide(guided: plans_lib.Guided, run: layout.Run) -> None:
  """Train surrogates, sample with them, count what that gives away."""
  side_train.train_surrogates(guided.plan, run)
  restore = functools.partial(
    side_train.restore, guided.plan, run, guided.sample.restore
  )
  generate.generate(
    dataclasses.replace(guided.sample, restore=restore), run.guided
  )
  neighbours.find_neighbours(guided.extraction, run.guided)
  if multihost.is_first():
    side_evaluate.analyse(guided.plan, run, run.guided)


def plant(audit: plans_lib.CanaryAudit, run: layout.Run) -> None:
  """Train models on canaries; measure how exposed they are."""
  loop.fit(audit.train, run.canaries)
  multihost.barrier('canaries')
  measure.measure(audit.plan.signals, run.canaries)
  if multihost.is_first():
    exposure.analyse(audit.plan, run)


def report(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Write report.html from the tables."""
  if multihost.is_first():
    page.write(
      plans.name,
      plans.dataset.images,
      plans.extraction.keep,
      plans.sample.block_size,
      run,
    )


STAGES: dict[str, Callable[[plans_lib.Plans, layout.Run], None]] = {
  'train': train,
  'sample': sample,
  'attack': attack,
  'report': report,
}


def run_stages(
  config, workdir: str, stages: Sequence[str] = tuple(STAGES)
) -> layout.Run:
  """Runs stages of one config in one folder.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    stages: names of STAGES, in order.

  Returns:
    The run.

  Raises:
    InputError: before any long work, if the config or folder is wrong.
  """
  settings.fix()
  plans = plans_lib.make(config, run=layout.Run(layout.folder(workdir)))
  # More models need training, more samples sampling: only there may they grow.
  may_grow = {
    name for name, stage in provenance.GROW.items() if stage in stages
  }
  with holding(workdir):
    if not multihost.is_first():
      multihost.barrier('opening the run')
    run = opening.open_run(workdir, config.to_dict(), may_grow, provenance.FREE)
    run = dataclasses.replace(run, identity=provenance.identity(config, plans))
    with progress.log_to(run.logs, jax.process_index()):
      check_evidence(plans, run)
      if multihost.is_first():
        provenance.write_inputs(plans, run)
        multihost.barrier('opening the run')
      preemption.watch_from_here()
      preemption.leave_if_asked()
      for name in stages:
        start = time.monotonic()
        if name == 'report' and 'attack' not in stages:
          opening.check_tables(run)
        STAGES[name](plans, run)
        if name == 'attack' and multihost.is_first():
          files.write_json(run.tables, opening.table_digests(run))
        multihost.barrier(name)
        logging.info('%s: done in %.0f s', name, time.monotonic() - start)
        if name != stages[-1] and multihost.any_of(preemption.asked()):
          preemption.leave()
  return run


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
    workdir, config.to_dict(), free=provenance.FREE, keep=True
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
      if child.name.startswith('models-') or child.name in _EVIDENCE
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
  if run.annotations.exists():
    annotations.read_annotations(
      run, len(plans.extraction.keep), plans.sample.num_samples
    )
  trained = [(plans.train, run)]
  if plans.canaries is not None:
    trained.append((plans.canaries.train, run.canaries))
  for plan, where in trained:
    _check_blocks(plans, plan, where)


def _check_blocks(
  plans: plans_lib.Plans, plan: loop.TrainPlan, run: layout.Run
) -> None:
  """Refuses a split or devices that do not go with models of one training."""
  for block in plan.blocks(run):
    recorded = files.read_npy(block.keep)
    if recorded is not None and not np.array_equal(
      recorded, plan.keep_fn(block.models)
    ):
      raise inputs.InputError(
        f'{block.keep} says that these models trained on other examples than '
        'the config does: give --workdir a new folder'
      )
    try:
      grid = mesh.make(len(block.models), shards=plan.devices_per_model)
    except ValueError as error:
      raise inputs.InputError(str(error)) from error
    shards = grid.shape[mesh.DATA]
    for key, size in (
      ('train.batch_size', plan.batch_size),
      ('sample.batch_size', plans.sample.batch_size),
      ('signals.batch_size', plans.signals.batch_size),
    ):
      if size % shards:
        raise inputs.InputError(
          f'{key}: {size} does not divide over the {shards} devices that share '
          f'a model of models {block.first} to {block.last}'
        )


# What stands in a folder once it has been worked in.
_EVIDENCE = ('samples', 'signals', 'neighbours', 'membership', 'extraction')
