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


def sweep_configs(config, points: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """The ConfigDict of every run of a sweep, by its folder's name.

  Raises:
    InputError: if two points want different runs of one name.
  """
  if not points:
    raise inputs.InputError('sweep() gives no points: there is nothing to run')
  configs: dict[str, Any] = {}
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
    if 'pilot' in point:
      pilot = point['pilot']
      if not isinstance(pilot, dict) or pilot.keys() != _PILOT:
        raise inputs.InputError(
          f'{where}: pilot is a dict of {", ".join(sorted(_PILOT))}'
        )
      other = f'{point["run"]}-pilot'
      with inputs.reading(f'{where}: pilot', 'overrides are no values by key'):
        of_pilot = changed.copy_and_resolve_references()
        of_pilot.update_from_flattened_dict(
          {'train.max_to_keep': 0} | dict(pilot['overrides'])
        )
      configs[other] = of_pilot
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
  for name, changed in configs.items():
    plans_lib.make(changed, run=layout.Run(layout.folder(str(folder / name))))
  index, count = shard
  pilots = {x['run']: x['pilot'] for x in points if 'pilot' in x}
  runs = [name for name in configs if name.removesuffix('-pilot') not in pilots]
  # Whoever has a run has its pilot.
  runs += list(pilots)
  mine = runs[index::count]
  for number, name in enumerate(mine, 1):
    logging.info('sweep: run %d of %d, %s', number, len(mine), name)
    changed = configs[name]
    if name in pilots:
      of_pilot = configs[f'{name}-pilot']
      attack_checkpoints.run_steps(of_pilot, str(folder / f'{name}-pilot'))
      jax.clear_caches()
      changed.train.stop_at = _chosen(folder, name, pilots[name])
    stages.run_stages(changed, str(folder / name))
    jax.clear_caches()
  if count > 1:
    return None
  if multihost.is_first():
    shown = [
      point | {'value': f'{point["value"]} ({_chosen(folder, name, pilot)})'}
      if (pilot := pilots.get(name := point['run'])) else point
      for point in points
    ]  # fmt: skip
    sweep.write(config.name, shown, folder)
  return folder / 'sweep.html'


def _chosen(folder: epath.Path, name: str, pilot: dict[str, Any]) -> int:
  """The last step of a pilot at which its metric is still small enough.

  Raises:
    InputError: if it is at none, or was not measured.
  """
  table = files.read_csv(layout.Run(folder / f'{name}-pilot').steps_table)
  table = table[table['metric'] == pilot['metric']]
  small = table[table['value'] <= pilot['at_most']]
  if not len(small):
    raise inputs.InputError(
      f'sweep(): no checkpoint of {name}-pilot has {pilot["metric"]!r} at most '
      f'{pilot["at_most"]}'
    )
  return int(small['step'].max())
