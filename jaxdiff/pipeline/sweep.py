"""A sweep: one run a point, and a table that compares them."""

from collections.abc import Sequence
import re
from typing import Any

from absl import logging
from etils import epath
import jax

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import attack_checkpoints, stages
from jaxdiff.report import sweep
from jaxdiff.runs import files, layout
from jaxdiff.runtime import multihost

# What a point of a sweep has; and where a step is chosen on other models.
_POINT = {'knob', 'value', 'run', 'overrides'}
_PILOT = {'overrides', 'metric', 'at_most'}
_OF_PILOT = '-pilot'


def sweep_configs(config, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The ConfigDict of every run of a sweep, by its folder's name.

  Raises:
    InputError: if two points want different runs of one name.
  """
  if not points:
    raise inputs.InputError('sweep() gives no points: there is nothing to run')
  configs: dict[str, Any] = {}
  pilots: dict[str, Any] = {}
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
    if point['run'].endswith(_OF_PILOT):
      raise inputs.InputError(
        f'{where}: runs that end in {_OF_PILOT} are pilots of others'
      )
    pilot = point.get('pilot')
    if pilots.setdefault(point['run'], pilot) != pilot:
      raise inputs.InputError(
        f'two points of the sweep share run {point["run"]}, and not its pilot'
      )
    if pilot is not None:
      configs[f'{point["run"]}{_OF_PILOT}'] = _pilot_of(changed, pilot, where)
    same = configs.setdefault(point['run'], changed)
    if same.to_dict() != changed.to_dict():
      raise inputs.InputError(
        f'two points of the sweep share run {point["run"]}'
      )
  return configs


def _pilot_of(changed, pilot: Any, where: str):
  """The ConfigDict of models of another seed, of which a step is chosen.

  Raises:
    InputError: if no step could be chosen on them.
  """
  if not isinstance(pilot, dict) or pilot.keys() != _PILOT:
    raise inputs.InputError(
      f'{where}: pilot is a dict of {", ".join(sorted(_PILOT))}'
    )
  if pilot['metric'] not in sweep.METRICS:
    name = inputs.one_line(repr(pilot['metric']), 60)
    raise inputs.InputError(
      f'{where}: pilot: no metric {name}; there is {", ".join(sweep.METRICS)}'
    )
  if not isinstance(pilot['at_most'], int | float):
    raise inputs.InputError(f'{where}: pilot: at_most is no number')
  out = changed.copy_and_resolve_references()
  with inputs.reading(f'{where}: pilot', 'overrides are no values by key'):
    out.update_from_flattened_dict(
      {'train.max_to_keep': 0} | dict(pilot['overrides'])
    )
    steps = out.train.num_steps
    every = out.train.checkpoint_every
  for wrong, words in (
    (out.seed == changed.seed, 'seed: it is that of the run, whose models must '
     'be others'),
    (every >= steps, f'train.checkpoint_every: {every} keeps no step before '
     f'the last, {steps}'),
    (steps != changed.train.num_steps, 'train.num_steps is not that of the '
     'run'),
  ):  # fmt: skip
    if wrong:
      raise inputs.InputError(f'{where}: pilot: {words}')
  return out


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
      `overrides` (values by dotted key). Points may share a run. Where one
      has `pilot`, a dict of `overrides`, `metric` and `at_most`, models that
      these overrides give, another seed's, are attacked at every checkpoint,
      and training stops at the last step at which their metric is at most that.
    shard: (i, n) does every n-th run, from the i-th, and compares nothing.

  Returns:
    Path of sweep.html, or None of a shard.

  Raises:
    InputError: before any long work, if a point is wrong.
  """
  configs = sweep_configs(config, points)
  pilots = {x['run']: x['pilot'] for x in points if 'pilot' in x}
  for name, changed in configs.items():
    run = layout.Run(layout.folder(str(folder / name)))
    if name in pilots:
      # As any step that may be chosen.
      changed = changed.copy_and_resolve_references()
      of_pilot = configs[f'{name}{_OF_PILOT}']
      changed.train.stop_at = of_pilot.train.checkpoint_every
    plans_lib.make(changed, run=run)
  index, count = shard
  # Whoever has a run has its pilot.
  runs = [name for name in configs if not name.endswith(_OF_PILOT)]
  mine = runs[index::count]
  for number, name in enumerate(mine, 1):
    logging.info('sweep: run %d of %d, %s', number, len(mine), name)
    changed = configs[name]
    if name in pilots:
      other = f'{name}{_OF_PILOT}'
      attack_checkpoints.run_steps(configs[other], str(folder / other))
      jax.clear_caches()
      step = _chosen(folder, name, pilots[name])
      if step is None:
        logging.warning('sweep: %s is left out: %s', name, _NONE)
        continue
      changed.train.stop_at = step
    stages.run_stages(changed, str(folder / name))
    jax.clear_caches()
  if count > 1:
    return None
  left_out: list[str] = []
  if multihost.is_first():
    shown = []
    for point in points:
      value = point['value']
      if pilot := pilots.get(point['run']):
        step = _chosen(folder, point['run'], pilot)
        if step is None:
          left_out.append(f'{point["knob"]}, {value}: left out: {_NONE}.')
          continue
        value = f'{value} ({step})'
      shown.append(point | {'value': value})
    sweep.write(config.name, shown, folder, left_out)
  return folder / 'sweep.html'


_NONE = 'its pilot had memorised more than that at every checkpoint'


def _chosen(folder: epath.Path, name: str, pilot: dict[str, Any]) -> int | None:
  """The last step of a pilot at which its metric is still small enough.

  Raises:
    InputError: if it was not measured.
  """
  table = files.read_csv(layout.Run(folder / f'{name}{_OF_PILOT}').steps_table)
  table = table[table['metric'] == pilot['metric']]
  if not len(table):
    raise inputs.InputError(
      f'sweep(): {name}{_OF_PILOT} has no {pilot["metric"]!r}: it takes more '
      'models'
    )
  small = table[table['value'] <= pilot['at_most']]
  return int(small['step'].max()) if len(small) else None
