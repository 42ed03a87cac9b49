"""Run every point of a config's `sweep()`, then draw them against each other.

    launch/local.sh python -m launch.sweep \
      --config=configs/ablations.py:runlocal --workdir=runs/ablations

Each run is a folder of its own under --workdir; the same command again resumes
what was interrupted and repeats nothing. sweep.csv and sweep.html compare them.

Several machines that share --workdir take a part each, --shard=0/4 to 3/4; when
all are done, the same command without --shard compares them.
"""

from collections.abc import Iterable
import re
import runpy
from typing import Any

from absl import flags
from ml_collections import config_flags

from jaxdiff import inputs
from jaxdiff.pipeline import sweep as pipeline_sweep
from jaxdiff.runs import layout
from launch import main

SHARD = flags.DEFINE_string('shard', '0/1', 'i/n: every n-th run, from i.')


def shard() -> tuple[int, int]:
  """What --shard says."""
  index, _, count = SHARD.value.partition('/')
  whole = re.fullmatch(r'[0-9]{1,6}/[0-9]{1,6}', SHARD.value)
  if not whole or int(index) >= int(count):
    raise inputs.InputError(
      f'--shard={SHARD.value} is not i/n, as 0/4, 1/4, 2/4 and 3/4 are'
    )
  return int(index), int(count)


def _file() -> tuple[str, str, str, dict[str, Any]]:
  """What --config names: all of it, its file, its argument, what it defines."""
  name = config_flags.get_config_filename(main.flags.FLAGS['config'])
  path, _, arg = name.partition(':')
  with inputs.reading(f'--config={name}', 'fails'):
    return name, path, arg, runpy.run_path(path)


def is_all() -> bool:
  """Whether an audit of the config is all of its sweep: AUDIT_ALL."""
  return bool(_file()[-1].get('AUDIT_ALL'))


def points() -> list[dict[str, Any]]:
  """What the config file's sweep() says."""
  name, path, arg, module = _file()
  if 'sweep' not in module:
    raise inputs.InputError(f'--config={name}: {path} has no function sweep()')
  with inputs.reading(f'--config={name}: sweep()', 'fails'):
    return list(module['sweep'](arg or None))


def work(config, workdir: str) -> None:
  """Runs and draws."""
  page = pipeline_sweep.run_sweep(
    config, layout.folder(workdir), points(), shard()
  )
  if page is None:
    print(f'shard {SHARD.value} is done; without --shard, all are compared')
  else:
    print(f'sweep: {page}')


def configs_of(config) -> Iterable[Any]:
  """The ConfigDict of every run."""
  return pipeline_sweep.sweep_configs(config, points()).values()


if __name__ == '__main__':
  main.start_work(work, configs_of)
