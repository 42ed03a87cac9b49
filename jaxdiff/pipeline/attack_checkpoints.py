"""Attacks every checkpoint that a run kept, as if training had ended there."""

from absl import logging
from etils import epath

from jaxdiff import inputs, schema, subjects
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import stages
from jaxdiff.report import steps
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost
from jaxdiff.training import block_states


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
  if schema.kind_of(config) not in schema.TRAINED:
    raise inputs.InputError(
      f'--config: {schema.kind_of(config)} have no checkpoints to attack'
    )
  with stages.holding(workdir):
    return _run_steps(config, stages.run_stages(config, workdir))


def _run_steps(config, run: layout.Run) -> epath.Path:
  plans = plans_lib.make(config, run=run)
  train = subjects.given(plans.subject.train)
  kept = [
    set(block_states.whole_steps(train, block))
    for block in train.ensemble.blocks(run)
  ]
  # Where SIGTERM stopped training is no step of the experiment.
  saved = [
    step
    for step in sorted(set.intersection(*kept) - {train.num_steps})
    if step % train.checkpoint_every == 0
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
    then = plans_lib.make(config, plans.dataset, step=step)
    for verb in ('sample', 'attack'):
      stages.run_verb(then, part, verb, last=True, optional=False)
  if multihost.is_first():
    steps.write(plans.name, parts | {train.num_steps: run}, run)
  multihost.barrier('the steps')
  return run.steps_page
