"""Compiles every program of a run for a slice that is elsewhere.

What the compiler says of them is the run's memory, time and collectives before
a chip is paid for. A program that was compiled before, by the same compiler, is
read from a cache: its text is its name.
"""

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dataclasses
import hashlib
import importlib.metadata
import inspect
import json
import math
import os
import pathlib
import re
import time
from typing import Any

from absl import logging
import jax

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import compiled
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runs import files, layout
from jaxdiff.runtime import hardware, programs, topologies
from jaxdiff.runtime import mesh as mesh_lib

# Of settings that need less memory, how many times one is halved or doubled.
_HALVINGS = 8
# Sizes that the compiler names when a program does not fit.
_EXHAUSTED, _SIZE = 'RESOURCE_EXHAUSTED', re.compile(r'\b([\d.]+)([KMGT])\b')
# What changes what the compiler makes.
_FLAGS = ('LIBTPU_INIT_ARGS', 'XLA_FLAGS')
_UNITS = {'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


@dataclasses.dataclass(frozen=True)
class Slice:
  """Devices of one kind, and what each of them has.

  Attributes:
    name: like v5e:4x4.
    devices: of a run on it, a chip each.
    chip: what each has.
  """

  name: str
  devices: tuple[jax.Device, ...]
  chip: hardware.Chip


@dataclasses.dataclass(frozen=True)
class Checked:
  """One program, compiled or refused.

  Attributes:
    stage: that calls it.
    program: its name.
    calls: of a run.
    bytes: on a device, with what lies there beside it.
    compile_seconds: what compiling took, when it was done.
    facts: of the program; None if it does not fit by itself.
  """

  stage: str
  program: str
  calls: float
  bytes: float
  compile_seconds: float
  facts: compiled.Facts | None

  def seconds(self, chip: hardware.Chip) -> float | None:
    """Of one call, by cycles; None where the compiler estimates none."""
    if self.facts is None or self.facts.cycles is None or not chip.clock:
      return None
    return self.facts.cycles / chip.clock

  def share(self, chip: hardware.Chip) -> float | None:
    """Of the device's bfloat16 peak, in products and convolutions."""
    seconds = self.seconds(chip)
    if not seconds or self.facts is None:
      return None
    return self.facts.flops / seconds / chip.peak


def slice_of(name: str) -> Slice:
  """A slice by name.

  Raises:
    InputError: if nothing is known of it.
  """
  devices = topologies.devices(name)
  kind = devices[0].device_kind
  if kind not in hardware.CHIPS:
    raise inputs.InputError(
      f'--compile_for: {name}: nothing is known of the chip {kind}'
    )
  return Slice(name, tuple(devices), hardware.CHIPS[kind])


def check(
  plans: plans_lib.Plans, where: Slice, stages: Sequence[str] = ()
) -> Iterator[Checked]:
  """Compiles the programs of all stages, one after the other.

  Args:
    plans: of the run.
    where: what for.
    stages: some of their names; all if empty.
  """
  check_batches(plans, where)
  for stage in plans.stages:
    if not stages or stage.name in stages:
      for program in stage.programs(where.devices):
        yield _compile(stage.name, program, where)


def mend(
  config: Any,
  make: Callable[[Any], plans_lib.Plans],
  failed: Checked,
  where: Slice,
) -> dict[str, int] | None:
  """A setting with which a program fits, proven by compiling it.

  Settings that change no result are tried, those first that cost least; what
  cannot be enough is not compiled.

  Args:
    config: ConfigDict of the run, in which the program does not fit.
    make: config -> plans.
    failed: the program.
    where: it does not fit.
  """
  stage = make(config).stage(failed.stage)
  assert stage is not None
  for key in stage.smaller:
    for factor, change in _changes(config, key, len(where.devices)):
      if where.chip.memory < failed.bytes / factor < math.inf:
        continue
      other = config.copy_and_resolve_references()
      other.update_from_flattened_dict(change)
      try:
        plans = make(other)
        check_batches(plans, where)
        again = plans.stage(failed.stage)
        assert again is not None
        # Full blocks and the last one have programs of one name.
        alike = [
          each
          for each in again.programs(where.devices)
          if each.name == failed.program
        ]
      except inputs.InputError:
        continue  # more devices than divide the models or batches
      if all(
        each.argument_bytes + each.held <= where.chip.memory
        and fits(_compile(failed.stage, each, where), where)
        for each in alike
      ):
        return change
  return None


def _changes(
  config: Any, key: str, devices: int
) -> Iterator[tuple[int, dict[str, int]]]:
  """One key, made to need ever less memory: at best by so many times."""
  value = config
  for name in key.split('.'):
    value = value[name]
  grows = key.endswith('devices_per_model')
  number = max(int(value), 1)
  for step in range(1, _HALVINGS + 1):
    number = number * 2 if grows else number // 2
    if number < 1 or (grows and number > devices):
      return
    yield 2**step, {key: number}


def fits(checked: Checked, where: Slice) -> bool:
  """Whether the devices' memory suffices, or the run never calls it."""
  if not checked.calls:
    return True
  return checked.facts is not None and checked.bytes <= where.chip.memory


def check_batches(plans: plans_lib.Plans, where: Slice) -> None:
  """Raises InputError for batches that the run would refuse on the slice."""
  if plans.subject.ensemble is None:
    return
  for place in plans.subject.ensemble.placements(where.devices):
    shards = place.mesh.shape[mesh_lib.DATA]
    stage_lib.check_batches(plans.stages, shards, f'on {where.name}')


def _compile(stage: str, program: programs.Program, where: Slice) -> Checked:
  """From the cache, if it was done before."""
  lowered = program.lower()
  text = lowered.as_text()
  identity = '\n'.join(
    (
      where.name,
      jax.__version__,
      importlib.metadata.version('libtpu'),
      *(os.environ.get(name, '') for name in _FLAGS),
      # Who reads the compiler's text otherwise, reads it again.
      inspect.getsource(compiled),
      text,
    )
  )
  path = _cache() / (hashlib.sha256(identity.encode()).hexdigest() + '.json')
  record = _cached(path)
  if record is None:
    logging.info('preflight: compiling %s for %s', program.name, where.name)
    record = _compiled(lowered, program)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(layout.folder(str(path)), record)
  facts = None
  if record['facts'] is not None:
    facts = compiled.from_json(record['facts'])
  own = facts.bytes if facts is not None else record['used']
  return Checked(
    stage=stage,
    program=program.name,
    calls=program.calls,
    bytes=own + program.held,
    compile_seconds=record['compile_seconds'],
    facts=facts,
  )


def _compiled(
  lowered: jax.stages.Lowered, program: programs.Program
) -> dict[str, Any]:
  begun = time.monotonic()
  facts, used = None, 0.0
  try:
    with jax.enable_x64(program.x64), _uncached():
      made = lowered.compile()
    facts = compiled.as_json(compiled.facts(made, program.mesh))
    del made
  except jax.errors.JaxRuntimeError as error:
    if _EXHAUSTED not in str(error):
      raise
    named = _SIZE.findall(str(error))
    used = max(
      (float(size) * _UNITS[unit] for size, unit in named), default=math.inf
    )
  hardware.give_back_memory()
  seconds = time.monotonic() - begun
  return {'facts': facts, 'used': used, 'compile_seconds': seconds}


# JAX's name for how long a program must take to be worth keeping.
_LEAST_SECONDS = 'jax_persistent_cache_min_compile_time_secs'


@contextlib.contextmanager
def _uncached() -> Iterator[None]:
  """Keeps JAX's own cache from programs that it could not load again."""
  least = getattr(jax.config, _LEAST_SECONDS)
  jax.config.update(_LEAST_SECONDS, math.inf)
  try:
    yield
  finally:
    jax.config.update(_LEAST_SECONDS, least)


def _cache() -> pathlib.Path:
  home = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
  return pathlib.Path(home).expanduser() / 'jaxdiff' / 'preflight'


def _cached(path: pathlib.Path) -> dict[str, Any] | None:
  """A record of the cache; None if it is absent or damaged."""
  try:
    record = json.loads(path.read_bytes())
    float(record['compile_seconds'])
    if record['facts'] is not None:
      compiled.from_json(record['facts'])
    else:
      float(record['used'])
    return record
  except (OSError, ValueError, KeyError, TypeError):
    return None


def hours(checked: Sequence[Checked], where: Slice) -> float:
  """Of a run, as far as the compiler estimates it."""
  return sum(
    (each.seconds(where.chip) or 0.0) * each.calls / 3600 for each in checked
  )


def write(
  run: layout.Run,
  config: Any,
  found: Sequence[tuple[Slice, Sequence[Checked]]],
) -> None:
  """Writes preflight.json."""

  def row(each: Checked, where: Slice) -> dict[str, Any]:
    return dataclasses.asdict(each) | {
      'fits': fits(each, where),
      'seconds': each.seconds(where.chip),
      'share_of_peak': each.share(where.chip),
    }

  document = {
    'config': config.to_dict(),
    'jax': jax.__version__,
    'libtpu': importlib.metadata.version('libtpu'),
    'slices': [
      {
        'name': where.name,
        'chips': len(where.devices),
        'peak': where.chip.peak,
        'memory': where.chip.memory,
        'hours': hours(checked, where),
        'programs': [row(each, where) for each in checked],
      }
      for where, checked in found
    ],
  }
  files.write_json(run.preflight, document)
