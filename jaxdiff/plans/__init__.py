"""From a config to a subject and a list of stages. Nothing below reads configs.

A plan is a frozen dataclass of plain values, arrays and functions. What crosses
packages is injected here: the loss into the training step, restored weights
into sampling and signals.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import ml_collections
import numpy as np
import pandas as pd

from jaxdiff import inputs, schema, subjects
from jaxdiff.data import datasets
from jaxdiff.plans import checks, kinds
from jaxdiff.plans import stage as stage_lib
from jaxdiff.plans import stages as stages_lib
from jaxdiff.plans.kinds import base
from jaxdiff.runs import layout


@dataclasses.dataclass(frozen=True)
class Plans:
  """What a run does, and to what.

  Attributes:
    name: of the experiment.
    dataset: every image of the run, as it was read.
    subject: what is attacked.
    stages: what is done, in order.
    not_done: stages that the run does not have, and why.
    inputs: SHA-256 of whatever else results depend on, by config key.
    looked_at: likewise, of what they are compared with or judged by.
    export: (params of one model, folder) -> None, writes a diffusers folder;
      None where there is none to write.
  """

  name: str
  dataset: datasets.Dataset
  subject: subjects.Subject
  stages: tuple[stage_lib.Stage, ...]
  not_done: tuple[stage_lib.NotDone, ...]
  inputs: dict[str, str]
  looked_at: dict[str, str]
  export: Callable[[Any, str], None] | None

  def fields(self) -> list[str]:
    """Numbers that report.json will have, by dotted name."""
    return [f'{stage.name}.{x}' for stage in self.stages for x in stage.fields]

  def stage(self, name: str) -> stage_lib.Stage | None:
    """The stage of a name; None if the run has none."""
    return next((stage for stage in self.stages if stage.name == name), None)

  def plan(self, name: str) -> Any:
    """What a stage works by; None if the run has none."""
    stage = self.stage(name)
    return None if stage is None else stage.plan

  def examples(self) -> pd.DataFrame:
    """The table examples.csv."""
    return pd.DataFrame(
      {
        'index': np.arange(len(self.dataset)),
        'source': self.dataset.source,
        'label': self.dataset.labels,
        'group': self.dataset.group,
        'image': self.dataset.image,
      }
    )


def make(
  config: ml_collections.ConfigDict,
  dataset: datasets.Dataset | None = None,
  run: layout.Run | None = None,
  step: int | None = None,
) -> Plans:
  """Subject and stages of a config, which is checked before any long work.

  Args:
    config: of the run.
    dataset: in place of what `config.data` names. Nobody looks for
      near-duplicates in it: those that its `image` joins are all.
    run: whose folder may know the near-duplicates among the images already.
    step: a checkpoint in the midst of training, in place of its end.

  Raises:
    InputError: naming the key and what it may be.
  """
  check(config)
  try:
    kind = kinds.of(config)
    read = kind.read(config, run) if dataset is None else base.Read(dataset)
    kind.check_images(config, read.dataset)
    for module in _served(config):
      if hasattr(module, 'check_images'):
        module.check_images(config, read.dataset)
    made = kind.make(config, read, step)
    stages, not_done = make_stages(config, made.subject)
    return Plans(
      name=config.name,
      dataset=read.dataset,
      subject=made.subject,
      stages=stages,
      not_done=not_done,
      inputs=made.inputs,
      looked_at=made.looked_at,
      export=made.export,
    )
  except ValueError as error:
    raise inputs.InputError(str(error)) from error


def check(config: ml_collections.ConfigDict) -> None:
  """All that can be known of a config without its images.

  Raises:
    InputError: naming the key and what it may be.
  """
  try:
    checks.check_keys(config)
    checks.check_ranges(config)
    kinds.of(config).check(config)
    for module in _served(config):
      if hasattr(module, 'check'):
        module.check(config)
  except ValueError as error:
    raise inputs.InputError(str(error)) from error


def devices(config: ml_collections.ConfigDict) -> tuple[int, list[int]]:
  """Models that are worked on together, and sizes of batches."""
  models, sizes = kinds.of(config).devices(config)
  return models, list(sizes)


def _served(config: ml_collections.ConfigDict) -> list[Any]:
  """Modules of the stages that a config's kind of subject may serve."""
  gives = set(kinds.of(config).GIVES)
  return [
    module
    for module in stages_lib.STAGES.values()
    if gives.issuperset(module.NEEDS)
    and getattr(module, 'GROUP', 'subject') in ('subject', *config)
  ]


def make_stages(
  config: ml_collections.ConfigDict, subject: subjects.Subject
) -> tuple[tuple[stage_lib.Stage, ...], tuple[stage_lib.NotDone, ...]]:
  """Every stage that the subject can serve, in order; and why not the others.

  Args:
    config: says which are left out, and how the others work.
    subject: what they are about.
  """
  served = _served(config)
  stages, not_done = [], []
  for name, module in stages_lib.STAGES.items():
    lacking = subject.lacks(module.NEEDS)
    if lacking:
      why = f'it needs {", ".join(lacking)}, which {subject.kind} does not give'
    elif module not in served:
      why = f'a config of {schema.kind_of(config)} has no keys for it'
    else:
      why = module.left_out(config) if hasattr(module, 'left_out') else ''
    if why:
      if module.VERB == 'attack' and not getattr(module, 'ALONE', False):
        not_done.append(stage_lib.NotDone(name, module.WORDS, why))
    else:
      stages.append(
        dataclasses.replace(
          module.make(config, subject),
          name=name,
          words=module.WORDS,
          verb=module.VERB,
          optional=hasattr(module, 'left_out'),
        )
      )
  return tuple(stages), tuple(not_done)
