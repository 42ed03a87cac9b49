"""Opens a run folder, and refuses what does not belong to the run."""

from collections.abc import Collection, Iterable, Sequence
import hashlib
import json
import os
from typing import Any

from etils import epath

from jaxdiff import inputs, schema
from jaxdiff.runs import files, layout


def make_private(path: epath.Path) -> None:
  """Makes a folder that is nobody else's to read: it holds training images."""
  if '://' not in str(path) and not path.exists():
    os.makedirs(path, mode=0o700)


def open_run(
  workdir: str,
  config: dict[str, Any],
  may_grow: Collection[str] = (),
  free: Collection[str] = (),
  keep: bool = False,
) -> layout.Run:
  """Opens or starts the folder of a run.

  Args:
    workdir: the folder; made if missing.
    config: the resolved config, as plain JSON values.
    may_grow: keys that may be larger than the folder's.
    free: keys that may differ; nothing else may.
    keep: leave the folder's config as it is.

  Returns:
    The run.

  Raises:
    InputError: if the folder holds a run of another config, something that is
      no run at all, or cannot be written.
  """
  run = layout.Run(layout.folder(workdir))
  try:
    config = json.loads(json.dumps(config))
  except TypeError as error:
    raise inputs.InputError(
      f'the config holds no plain value: {error}'
    ) from error
  try:
    if run.config.exists():
      with inputs.reading(
        run.config, 'is damaged (restore it, or give --workdir a new folder)'
      ):
        old = json.loads(inputs.read_bytes(run.config, files.MOST_JSON))
      if not isinstance(old, dict):
        raise inputs.InputError(
          f'{run.config} is damaged (no JSON object): restore it, or give '
          '--workdir a new folder'
        )
      with inputs.reading(run.config, 'is of a config of no known kind'):
        as_now = schema.renamed(old)
      # Whoever gives a part of a config means the defaults of later keys.
      whole = schema.renamed(config)
      changes = _changes(as_now, whole, may_grow, free)
      if changes:
        raise inputs.InputError(
          f'{workdir} holds a run of another config ({"; ".join(changes)}): '
          'give --workdir a new folder, or the old values'
        )
      if keep or as_now == whole:
        return run
    elif run.path.exists() and any(
      child.name not in ('run.lock', run.preflight.name)
      and not files.TEMPORARY.fullmatch(child.name)
      for child in run.path.iterdir()
    ):
      raise inputs.InputError(
        f'{workdir} is not empty and holds no run: give --workdir a new folder'
      )
    make_private(run.path)
    files.write_json(run.config, config)
  except (OSError, ImportError) as error:  # a remote scheme needs its package
    raise inputs.InputError(f'--workdir {workdir}: {error}') from error
  return run


def _changes(
  old: dict[str, Any],
  new: dict[str, Any],
  may_grow: Collection[str],
  free: Collection[str],
) -> list[str]:
  """What the new config changes that a used folder cannot take."""
  flat_old, flat_new = schema.flat(old), schema.flat(new)
  changes = []
  for name in sorted((flat_old.keys() | flat_new.keys()) - set(free)):
    before, after = flat_old.get(name), flat_new.get(name)
    if before == after or (
      name in may_grow
      and type(before) is int
      and type(after) is int
      and after > before
    ):
      continue
    why = ', and may only grow' if name in may_grow else ''
    changes.append(f'{name} is {before!r} there, {after!r} now{why}')
  return changes


def table_digests(
  run: layout.Run, reported: Iterable[layout.File]
) -> dict[str, str]:
  """SHA-256 of every table and picture that reports are made of, by name."""
  return {
    file.name: hashlib.sha256((run.path / file.name).read_bytes()).hexdigest()
    for file in reported
    if (run.path / file.name).is_file()
  }


def check_tables(run: layout.Run, reported: Sequence[layout.File]) -> None:
  """Refuses tables that are not those that the attacks made.

  Args:
    run: whose tables.
    reported: files that its stages make.

  Raises:
    InputError: naming the first.
  """
  try:
    recorded = dict(files.read_json(run.tables))
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise inputs.InputError(
      f'{run.tables} is missing or damaged: run launch.attack again'
    ) from error
  former = {file.old: file.name for file in reported}
  recorded = {
    former.get(str(name), str(name)): value for name, value in recorded.items()
  }
  found = table_digests(run, reported)
  for name in sorted(found.keys() | set(recorded)):
    if found.get(name) != recorded.get(name):
      raise inputs.InputError(
        f'{run.path / name} is not the one that was made (SHA-256 differs): '
        'run launch.attack again, which makes it from the evidence'
      )
