"""Attacks every checkpoint that a run kept, as if training had ended there."""

import dataclasses
import functools

from absl import logging
from etils import epath

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import stages
from jaxdiff.report import steps
from jaxdiff.runs import files, layout, opening
from jaxdiff.runtime import multihost
from jaxdiff.training import loop


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
  with stages.holding(workdir):
    return _run_steps(config, stages.run_stages(config, workdir))


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
    stages.sample(then, part)
    stages.attack(then, part)
    if multihost.is_first():
      files.write_json(part.tables, opening.table_digests(part))
  if multihost.is_first():
    steps.write(plans.name, parts | {plans.train.num_steps: run}, run)
  return run.steps_page
