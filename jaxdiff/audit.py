"""The stages in order, each skipped when its outputs stand."""

from collections.abc import Callable, Sequence
import dataclasses
import datetime
import functools
import importlib.metadata
import json
import pathlib
import platform
import subprocess
import time
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import pandas as pd

from jaxdiff import (
  build,
  mesh,
  multihost,
  preemption,
  progress,
  quality,
  runs,
  sampling,
)
from jaxdiff.attacks import (
  canaries,
  extraction,
  findings,
  guidance,
  inpainting,
  scoring,
  signals,
)
from jaxdiff.interop import diffusers
from jaxdiff.report import page, steps, sweep
from jaxdiff.training import loop


def train(plans: build.Plans, run: runs.Run) -> None:
  """Train every model of the run."""
  loop.fit(plans.train, run)


def sample(plans: build.Plans, run: runs.Run) -> None:
  """Generate images from every model."""
  sampling.generate(plans.sample, run)


def attack(plans: build.Plans, run: runs.Run) -> None:
  """Measure signals and neighbours; score membership, extraction, quality."""
  signals.measure(plans.signals, run)
  if multihost.is_first():
    stored, queries = signals.load(
      run,
      plans.signals.num_models,
      len(plans.dataset),
      plans.signals.block_size,
    )
    scoring.analyse(plans.membership, stored, queries, run)
  extraction.find_neighbours(plans.extraction, run)
  if multihost.is_first():
    extraction.analyse(plans.extraction, run)
    findings.analyse(plans.extraction, run)
    quality.measure(plans.quality, run)
  if plans.inpainting is not None:
    inpainting.measure(plans.inpainting, run)
    if multihost.is_first():
      inpainting.analyse(plans.inpainting, run)
  if plans.guided is not None:
    guide(plans.guided, run)
  if plans.canaries is not None:
    plant(plans.canaries, run)


def guide(guided: build.Guided, run: runs.Run) -> None:
  """Train surrogates, sample with them, count what that gives away."""
  guidance.train_surrogates(guided.plan, run)
  restore = functools.partial(
    guidance.restore, guided.plan, run, guided.sample.restore
  )
  sampling.generate(
    dataclasses.replace(guided.sample, restore=restore), run.guided
  )
  extraction.find_neighbours(guided.extraction, run.guided)
  if multihost.is_first():
    guidance.analyse(guided.plan, run, run.guided)


def plant(audit: build.CanaryAudit, run: runs.Run) -> None:
  """Train models on canaries; measure how exposed they are."""
  loop.fit(audit.train, run.canaries)
  multihost.barrier('canaries')
  signals.measure(audit.plan.signals, run.canaries)
  if multihost.is_first():
    canaries.analyse(audit.plan, run)


def report(plans: build.Plans, run: runs.Run) -> None:
  """Write report.html from the tables."""
  if multihost.is_first():
    page.write(
      plans.name,
      plans.dataset.images,
      plans.extraction.keep,
      plans.sample.block_size,
      run,
    )


STAGES: dict[str, Callable[[build.Plans, runs.Run], None]] = {
  'train': train,
  'sample': sample,
  'attack': attack,
  'report': report,
}


# Keys that change no result, or none but by rounding.
FREE = (
  'data.device_megabytes',
  'train.devices_per_model',
  'train.profile_steps',
)


def run_stages(
  config, workdir: str, stages: Sequence[str] = tuple(STAGES)
) -> runs.Run:
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
  plans = build.make(config, run=runs.Run(runs.folder(workdir)))
  # More models need training, more samples sampling: only there may they grow.
  may_grow = {
    name
    for name, stage in (('num_models', 'train'), ('num_samples', 'sample'))
    if stage in stages
  }
  if not multihost.is_first():
    multihost.barrier('opening the run')
  run = runs.open_run(workdir, config.to_dict(), may_grow, FREE)
  log = run.logs / f'process-{jax.process_index():03d}.log'
  with progress.log_to(log):
    check_evidence(plans, run)
    if multihost.is_first():
      runs.write_csv(run.examples, plans.examples())
      runs.write_npz(
        run.duplicates,
        image=plans.dataset.image,
        made_of=np.array(plans.dataset.duplicates_of),
      )
      if plans.dataset.skipped:
        skipped = pd.DataFrame(
          plans.dataset.skipped, columns=['source', 'reason']
        )
        runs.write_csv(run.skipped, skipped)
      record_provenance(plans, run)
      multihost.barrier('opening the run')
    for name in stages:
      start = time.monotonic()
      STAGES[name](plans, run)
      multihost.barrier(name)
      logging.info('%s: done in %.0f s', name, time.monotonic() - start)
      if name != stages[-1] and multihost.any_of(preemption.asked()):
        preemption.leave()
  return run


def sweep_configs(config, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The ConfigDict of every run of a sweep, by its folder's name.

  Raises:
    InputError: if two points want different runs of one name.
  """
  configs = {}
  for point in points:
    changed = config.copy_and_resolve_references()
    for key, value in point['overrides'].items():
      # A tuple may change its length, a number its type.
      with changed.ignore_type():
        changed.update_from_flattened_dict({key: value})
    same = configs.setdefault(point['run'], changed)
    if same.to_dict() != changed.to_dict():
      raise runs.InputError(f'two points of the sweep share run {point["run"]}')
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
  for changed in configs.values():
    build.make(changed)
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
  run = run_stages(config, workdir)
  plans = build.make(config)
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
    raise runs.InputError(
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
  plans = build.make(config)
  if not 0 <= model < plans.train.num_models:
    raise runs.InputError(
      f'--model={model}: the run has models 0 to {plans.train.num_models - 1}'
    )
  if not runs.Run(epath.Path(workdir)).config.exists():
    raise runs.InputError(f'--workdir={workdir} holds no run: train one first')
  run = runs.open_run(workdir, config.to_dict(), free=FREE)
  check_evidence(plans, run)
  block = next(b for b in plans.train.blocks(run) if model in b.models)
  params = loop.restore_ema(plans.train, block, mesh.make(len(block.models)))
  place = block.models.index(model)
  one = jax.tree.map(lambda leaf: np.asarray(leaf[place]), params)
  diffusers.write(folder, plans.pretrained(one))


def check_evidence(plans: build.Plans, run: runs.Run) -> None:
  """Refuses data, a split or devices that do not go with the folder.

  Raises:
    InputError: naming what differs.
  """
  if run.provenance.exists():
    recorded = json.loads(run.provenance.read_text())['data_sha256']
    if recorded != plans.dataset.fingerprint():
      raise runs.InputError(
        f'{run.path} was made from other images than data.name gives now '
        '(SHA-256 differs): restore the data, or give --workdir a new folder'
      )
  trained = [(plans.train, run)]
  if plans.canaries is not None:
    trained.append((plans.canaries.train, run.canaries))
  for plan, where in trained:
    _check_blocks(plans, plan, where)


def _check_blocks(
  plans: build.Plans, plan: loop.TrainPlan, run: runs.Run
) -> None:
  """Refuses a split or devices that do not go with models of one training."""
  for block in plan.blocks(run):
    if block.keep.exists() and not np.array_equal(
      runs.read_npy(block.keep), plan.keep_fn(block.models)
    ):
      raise runs.InputError(
        f'{block.keep} says that these models trained on other examples than '
        'the config does: give --workdir a new folder'
      )
    try:
      grid = mesh.make(len(block.models), shards=plan.devices_per_model)
    except ValueError as error:
      raise runs.InputError(str(error)) from error
    shards = grid.shape[mesh.DATA]
    for key, size in (
      ('train.batch_size', plan.batch_size),
      ('sample.batch_size', plans.sample.batch_size),
      ('signals.batch_size', plans.signals.batch_size),
    ):
      if size % shards:
        raise runs.InputError(
          f'{key}: {size} does not divide over the {shards} devices that share '
          f'a model of models {block.first} to {block.last}'
        )


def commit() -> str | None:
  """Git commit of the source, '-dirty' if changed; None outside git."""
  root = pathlib.Path(__file__).parents[1]
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


def record_provenance(plans: build.Plans, run: runs.Run) -> None:
  """Adds versions and hardware to provenance.json when they are new to it."""
  packages = ('jaxdiff', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
  now = {
    'python': platform.python_version(),
    'commit': commit(),
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'devices': [str(device) for device in jax.devices()],
    'num_models': plans.train.num_models,
    'num_samples': plans.sample.num_samples,
  }
  record = {'data_sha256': plans.dataset.fingerprint(), 'environments': []}
  if run.provenance.exists():
    record = json.loads(run.provenance.read_text())
  known = [
    {name: value for name, value in old.items() if name != 'since'}
    for old in record['environments']
  ]
  if now not in known:
    since = datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds')
    record['environments'].append({'since': since, **now})
    runs.write_json(run.provenance, record)
