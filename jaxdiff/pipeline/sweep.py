"""A sweep: one run a point, and a table that compares them."""

from collections.abc import Sequence
import re
from typing import Any

from absl import logging
from etils import epath
import jax

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import stages
from jaxdiff.report import sweep
from jaxdiff.runs import layout
from jaxdiff.runtime import multihost

# What a point of a sweep has.
_POINT = {'knob', 'value', 'run', 'overrides'}


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
    stages.run_stages(changed, str(folder / name))
    jax.clear_caches()
  if count > 1:
    return None
  if multihost.is_first():
    sweep.write(config.name, list(points), folder)
  return folder / 'sweep.html'
