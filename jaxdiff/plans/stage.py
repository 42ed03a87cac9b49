"""A stage: one step of a run, as launchers, dry run and report see it."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from jaxdiff import inputs
from jaxdiff.runs import layout
from jaxdiff.runtime import programs as programs_lib
from jaxdiff.training import plan as training_plan

# What the launchers call groups of stages, in the order of a run; the verb
# `report` comes after them.
VERBS = ('train', 'sample', 'attack')


@dataclasses.dataclass(frozen=True)
class Units:
  """What the work of a run is counted in.

  Attributes:
    network_flops: of an image through the network once.
    train_flops: of an image and training step, forward and backward.
    state_bytes: of a model in training: weights, their average, optimiser.
    image_bytes: of one image.
    encode_flops: of a text through the encoders, where there are some.
    decode_flops: of an image through the decoder, where there is one.
  """

  network_flops: float
  train_flops: float
  state_bytes: int
  image_bytes: int
  encode_flops: float = 0.0
  decode_flops: float = 0.0


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a stage takes: operations, and bytes on disk."""

  flops: float = 0.0
  disk: float = 0.0


@dataclasses.dataclass(frozen=True)
class Stage:
  """One step of a run.

  Attributes:
    run: does in a run folder what is not done yet.
    cost: what it takes.
    plan: what it works by.
    programs: what it compiles for some devices.
    smaller: config keys that change no result, but how much memory its programs
      need: more devices a model, or smaller batches; what costs least first.
    files: that reports are made of.
    fields: names of its numbers in report.json, which policies are about.
    batch_sizes: by config key; devices that share a model must divide them.
    trained: what is trained, and in which folder of the run.
    check: refuses what a user put in the folder, before any long work.
    name: in logs and tables, and of its section in the report: its module's.
    words: what it is, for people: its module's.
    verb: one of VERBS, its module's.
    optional: whether a config may leave it out.
  """

  run: Callable[[layout.Run], None]
  cost: Callable[[Units], Cost]
  plan: Any
  programs: programs_lib.ProgramsFn = programs_lib.none
  smaller: tuple[str, ...] = ()
  files: tuple[layout.File, ...] = ()
  fields: tuple[str, ...] = ()
  batch_sizes: dict[str, int] = dataclasses.field(default_factory=dict)
  trained: tuple[
    tuple[training_plan.TrainPlan, Callable[[layout.Run], layout.Run]], ...
  ] = ()
  check: Callable[[layout.Run], None] = lambda run: None
  name: str = ''
  words: str = ''
  verb: str = ''
  optional: bool = False


def check_batches(stages: Sequence[Stage], shards: int, whose: str) -> None:
  """Whether batches divide over the devices that share a model.

  Args:
    stages: whose batches.
    shards: devices that share a model.
    whose: model, or where, for people.

  Raises:
    InputError: naming the first key whose batches do not.
  """
  for stage in stages:
    for key, size in stage.batch_sizes.items():
      if size % shards:
        raise inputs.InputError(
          f'{key}: {size} does not divide over the {shards} devices that '
          f'share a model {whose}'
        )


@dataclasses.dataclass(frozen=True)
class NotDone:
  """A stage that a run does not have, and why."""

  name: str
  words: str
  why: str
