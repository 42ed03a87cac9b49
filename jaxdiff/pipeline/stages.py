"""The stages in order, each skipped when its outputs stand."""

import collections
from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import datetime
import functools
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import re
import subprocess
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.canaries import exposure
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import followups
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.membership import evaluate as membership_evaluate
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.interop import diffusers
from jaxdiff.report import page, steps, sweep
from jaxdiff.runs import layout
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
  extraction_evaluate.find_neighbours(plans.extraction, run)
  if multihost.is_first():
    extraction_evaluate.analyse(plans.extraction, run)
    followups.analyse(plans.extraction, run)
    quality.measure(plans.quality, run)
  if plans.inpainting is not None:
    inpainting_attack.measure(plans.inpainting, run)
    if multihost.is_first():
      inpainting_attack.analyse(plans.inpainting, run)
  if plans.guided is not None:
    guide(plans.guided, run)
  if plans.canaries is not None:
    plant(plans.canaries, run)


def guide(guided: plans_lib.Guided, run: layout.Run) -> None:
  """Train surrogates, sample with them, count what that gives away."""
  side_attack.train_surrogates(guided.plan, run)
  restore = functools.partial(
    side_attack.restore, guided.plan, run, guided.sample.restore
  )
  generate.generate(
    dataclasses.replace(guided.sample, restore=restore), run.guided
  )
  extraction_evaluate.find_neighbours(guided.extraction, run.guided)
  if multihost.is_first():
    side_attack.analyse(guided.plan, run, run.guided)


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


# Keys that change no result, or none but by rounding; and paths, of which it is
# the content that decides (`plans.Plans.inputs`, the images' fingerprint).
FREE = (
  'data.device_megabytes',
  'data.path',
  'extraction.other_run',
  'model.init_from',
  'quality.inception',
  'train.devices_per_model',
  'train.profile_steps',
)
_GROW = {'num_models': 'train', 'num_samples': 'sample'}


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
  may_grow = {name for name, stage in _GROW.items() if stage in stages}
  with holding(workdir):
    if not multihost.is_first():
      multihost.barrier('opening the run')
    run = layout.open_run(workdir, config.to_dict(), may_grow, FREE)
    run = dataclasses.replace(run, identity=identity(config, plans))
    with progress.log_to(run.logs, jax.process_index()):
      check_evidence(plans, run)
      if multihost.is_first():
        write_inputs(plans, run)
        multihost.barrier('opening the run')
      preemption.watch_from_here()
      preemption.leave_if_asked()
      for name in stages:
        start = time.monotonic()
        if name == 'report' and 'attack' not in stages:
          layout.check_tables(run)
        STAGES[name](plans, run)
        if name == 'attack' and multihost.is_first():
          layout.write_json(run.tables, layout.table_digests(run))
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
    layout.make_private(path)
  except (OSError, ValueError, ImportError) as error:
    raise inputs.InputError(
      f'--workdir {inputs.name_of(workdir)}: {inputs.one_line(error)}'
    ) from error
  with layout.lock(path):
    layout.remove_leftovers(path)
    yield


def identity(config, plans: plans_lib.Plans) -> str:
  """Digest of all that the results of a run depend on, hardware aside.

  Numbers of models and samples are no part of it: a run may grow.
  """
  resolved = config.to_dict()
  for name in (*FREE, *_GROW):
    *groups, leaf = name.split('.')
    functools.reduce(dict.__getitem__, groups, resolved).pop(leaf)
  made_of = {
    'config': resolved,
    'data_sha256': plans.dataset.fingerprint(),
    'inputs': plans.inputs,
    'settings': settings.recorded(),
  }
  text = json.dumps(made_of, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()


def write_inputs(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Tables of the examples, of what was left out, and the provenance."""
  dataset = plans.dataset
  layout.write_csv(run.examples, plans.examples())
  layout.write_csv(
    run.classes,
    pd.DataFrame(
      {
        'label': np.arange(len(dataset.class_names)),
        'name': [inputs.name_of(name) for name in dataset.class_names],
      }
    ),
  )
  layout.write_npz(
    run.duplicates,
    image=dataset.image,
    made_of=np.array(dataset.duplicates_of),
  )
  left_out = list(dataset.skipped)
  if left_out:
    layout.write_csv(
      run.skipped, pd.DataFrame(left_out, columns=['source', 'reason'])
    )
    reasons = collections.Counter(reason for _, reason in left_out)
    for reason, count in reasons.most_common(5):
      logging.warning('left out: %d of %s', count, reason)
    logging.warning('all that was left out is listed in %s', run.skipped)
  joined = len(dataset) - len(np.unique(dataset.image))
  if joined:
    logging.warning(
      '%d of %d images are near-duplicates of others: they stay on one side of '
      'every split, and count once',
      joined,
      len(dataset),
    )
  record_provenance(plans, run)


# What a point of a sweep has.
_POINT = {'knob', 'value', 'run', 'overrides'}


def sweep_configs(config, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The ConfigDict of every run of a sweep, by its folder's name.

  Raises:
    InputError: if two points want different runs of one name.
  """
  configs = {}
  for point in points:
    if not isinstance(point, dict) or not point.keys() >= _POINT:
      raise inputs.InputError(
        f'sweep(): {inputs.one_line(repr(point), 60)} is no dict of '
        f'{", ".join(sorted(_POINT))}'
      )
    if not isinstance(point['run'], str) or not re.fullmatch(
      r'[\w=+-][\w.=+-]{0,200}', point['run']
    ):
      raise inputs.InputError(
        f'sweep(): run {inputs.one_line(repr(point["run"]), 60)} is no name of '
        'a folder within --workdir'
      )
    changed = config.copy_and_resolve_references()
    where = f'sweep(): {point["knob"]} = {point["value"]}'
    with inputs.reading(where, 'overrides are no values by key'):
      for key, value in dict(point['overrides']).items():
        # A tuple may change its length, a number its type.
        with changed.ignore_type():
          changed.update_from_flattened_dict({key: value})
    same = configs.setdefault(point['run'], changed)
    if same.to_dict() != changed.to_dict():
      raise inputs.InputError(
        f'two points of the sweep share run {point["run"]}'
      )
  return configs


def run_sweep(
  config,
  folder: epath.Path,
  points: Sequence[dict[str, Any]],
  shard: tuple[int, int] = (0, 1),
) -> epath.Path | None:
  """Runs the points of a sweep one after the other, then compares them.

  Args:
    config: ConfigDict that the points change.
    folder: of the sweep; each run is a folder in it.
    points: dicts with `knob`, `value` (words), `run` (a folder's name) and
      `overrides` (values by dotted key). Points may share a run.
    shard: (i, n) does every n-th run, from the i-th, and compares nothing.

  Returns:
    Path of sweep.html, or None of a shard.

  Raises:
    InputError: before any long work, if a point is wrong.
  """
  configs = sweep_configs(config, points)
  for name, changed in configs.items():
    plans_lib.make(changed, run=layout.Run(layout.folder(str(folder / name))))
  index, count = shard
  mine = list(configs.items())[index::count]
  for number, (name, changed) in enumerate(mine, 1):
    logging.info('sweep: run %d of %d, %s', number, len(mine), name)
    run_stages(changed, str(folder / name))
    jax.clear_caches()
  if count > 1:
    return None
  if multihost.is_first():
    sweep.write(config.name, list(points), folder)
  return folder / 'sweep.html'


def run_steps(config, workdir: str) -> epath.Path:
  """What models gave away as training went on: attacks every checkpoint kept.

  Args:
    config: ConfigDict of the run; `train.max_to_keep` says how many.
    workdir: its folder; stages that are missing there are run.

  Returns:
    Path of steps.html.

  Raises:
    InputError: if the config or folder is wrong, or one step alone was kept.
  """
  with holding(workdir):
    return _run_steps(config, run_stages(config, workdir))


def _run_steps(config, run: layout.Run) -> epath.Path:
  plans = plans_lib.make(config, run=run)
  kept = [
    set(loop.whole_steps(plans.train, b)) for b in plans.train.blocks(run)
  ]
  # Where SIGTERM stopped training is no step of the experiment.
  saved = [
    step
    for step in sorted(set.intersection(*kept) - {plans.train.num_steps})
    if step % plans.train.checkpoint_every == 0
  ]
  if not saved:
    raise inputs.InputError(
      'train.max_to_keep: no checkpoint but the last is there; train in a new '
      '--workdir with --config.train.max_to_keep=0 and a smaller '
      'train.checkpoint_every'
    )
  parts = {step: run.at_step(step) for step in saved}
  for number, (step, part) in enumerate(parts.items(), 1):
    logging.info('steps: %d of %d, step %d', number, len(parts), step)
    restore = functools.partial(loop.restore_ema, plans.train, step=step)
    then = dataclasses.replace(
      plans,
      sample=dataclasses.replace(plans.sample, restore=restore),
      signals=dataclasses.replace(plans.signals, restore=restore),
      inpainting=None,
      guided=None,
      canaries=None,
    )
    sample(then, part)
    attack(then, part)
    if multihost.is_first():
      layout.write_json(part.tables, layout.table_digests(part))
  if multihost.is_first():
    steps.write(plans.name, parts | {plans.train.num_steps: run}, run)
  return run.steps_page


def export(config, workdir: str, model: int, folder: str) -> None:
  """Writes the averaged weights of one trained model as a diffusers folder.

  Args:
    config: ConfigDict of the run.
    workdir: its folder.
    model: number of the model.
    folder: a new one.

  Raises:
    InputError: if the config, a folder or the number is wrong, or the model is
      not trained.
  """
  diffusers.check_new(folder)
  plans_lib.check(config)
  if not 0 <= model < config.num_models:
    raise inputs.InputError(
      f'--model={model}: the run has models 0 to {config.num_models - 1}'
    )
  plans, run = opened(config, workdir)
  block = next(b for b in plans.train.blocks(run) if model in b.models)
  params = loop.restore_ema(plans.train, block, mesh.make(len(block.models)))
  place = block.models.index(model)
  one = jax.tree.map(lambda leaf: np.asarray(leaf[place]), params)
  diffusers.write(folder, plans.pretrained(one))


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
  run = layout.open_run(workdir, config.to_dict(), free=FREE, keep=True)
  run = dataclasses.replace(run, identity=identity(config, plans))
  check_evidence(plans, run)
  return plans, run


def check_evidence(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Refuses data, a split or devices that do not go with the folder.

  Raises:
    InputError: naming what differs.
  """
  record = read_provenance(run)
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
    followups.read_annotations(
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
    recorded = layout.read_npy(block.keep)
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


def read_provenance(run: layout.Run) -> dict[str, Any] | None:
  """provenance.json; None if it is not there.

  Raises:
    InputError: if it is damaged.
  """
  if not run.provenance.exists():
    return None
  with inputs.reading(
    run.provenance,
    'is damaged, or of an older version (restore it, or give --workdir a new '
    'folder)',
  ):
    record = layout.read_json(run.provenance)
    kinds = {
      'data_sha256': str, 'inputs': dict, 'settings': dict,
      'environments': list,
    }  # fmt: skip
    if record.pop('sha256') != _digest(record):
      raise ValueError('its SHA-256 differs')
    for name, kind in kinds.items():
      if not isinstance(record[name], kind):
        raise TypeError(f'{name} is no {kind.__name__}')
    for environment in record['environments']:
      dict(environment)
  return record


def _digest(record: dict[str, Any]) -> str:
  """SHA-256 of a provenance without its own."""
  return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def commit() -> str | None:
  """Git commit of the source, '-dirty' if changed; None outside git."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():
    return None
  try:
    described = subprocess.run(
      ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40',
       '--exclude=*'],
      capture_output=True, text=True, check=True,
    )  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return None
  return described.stdout.strip()


def record_provenance(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Adds versions and hardware to provenance.json when they are new to it."""
  packages = ('jaxdiff', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
  now = {
    'python': platform.python_version(),
    'commit': commit(),
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'devices': [str(device) for device in jax.devices()],
    'num_models': plans.train.num_models,
    'num_samples': plans.sample.num_samples,
    'looked_at': plans.looked_at,
  }
  record = read_provenance(run) or {
    'data_sha256': plans.dataset.fingerprint(),
    'inputs': plans.inputs,
    'settings': settings.recorded(),
    'environments': [],
  }
  known = [
    {name: value for name, value in old.items() if name != 'since'}
    for old in record['environments']
  ]
  if now not in known:
    since = datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds')
    record['environments'].append({'since': since, **now})
    layout.write_json(run.provenance, record | {'sha256': _digest(record)})
