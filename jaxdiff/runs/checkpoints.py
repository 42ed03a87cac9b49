"""Orbax checkpoints with a SHA-256 manifest; the only module that knows Orbax.

Orbax writes a step atomically, but restores a damaged one without complaint.
A manifest beside each step holds the digest of every file in it and is written
last: a step without a manifest never finished, one that disagrees with its
manifest is damaged. Both are passed over, saying so.
"""

from collections.abc import Iterator
from concurrent import futures
import contextlib
import hashlib
import sys
from typing import Any

from absl import logging
from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxdiff import inputs
from jaxdiff.runs import files
from jaxdiff.runtime import multihost

# Files that are read at a time, and bytes of each.
_THREADS, _AT_ONCE = 16, 2**24


class Checkpoints:
  """Saved training states of one block of models."""

  def __init__(
    self,
    path: epath.Path,
    max_to_keep: int | None = None,
    identity: str = '',
  ):
    """Opens, or makes, a folder of checkpoints.

    Args:
      path: the folder.
      max_to_keep: newest steps; None keeps all.
      identity: of the run, which checkpoints of another run do not have.
    """
    self._path, self._identity = path, identity
    self._manager = ocp.CheckpointManager(
      path,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=max_to_keep, create=True, enable_async_checkpointing=False
      ),
    )

  def save(self, step: int, state: Any) -> None:
    """Saves a state; an unfinished or damaged one of the same step goes.

    Raises:
      OSError: if it cannot be written, whatever Orbax raises then.
    """
    if '://' not in str(self._path) and not self._path.exists():
      raise OSError(f'{self._path} is gone')
    try:
      with _closed_loops_are_silent():
        if step in self._manager.all_steps():
          self._manager.delete(step)
        self._manager.save(step, args=ocp.args.StandardSave(state))
        self._manager.wait_until_finished()
    except OSError:
      raise
    except Exception as error:  # TensorStore has its own kinds
      raise OSError(
        f'{self._path}: the checkpoint of step {step} could not be written: '
        f'{inputs.one_line(error)}'
      ) from error
    multihost.barrier('the checkpoint')
    if multihost.is_first():
      files.write_json(self._manifest(step), self._digests(step))
      kept = set(self._manager.all_steps())
      for manifest in self._path.glob('manifest-*.json'):
        if int(manifest.stem.split('-')[1]) not in kept:
          manifest.unlink()
    multihost.barrier('the manifest')

  def kept(self) -> set[int]:
    """Steps that are there, whole or not."""
    return set(self._manager.all_steps())

  def newest_whole(self) -> int | None:
    """The newest step whose files all agree with its manifest."""
    step = next(self._whole(), -1) if multihost.is_first() else -1
    step = int(multihost.agree(np.array(step)))
    return None if step < 0 else step

  def all_whole(self) -> list[int]:
    """All such steps, rising."""
    steps = np.array(sorted(self._manager.all_steps()), np.int64)
    if multihost.is_first():
      steps[~np.isin(steps, list(self._whole()))] = -1
    return [int(step) for step in multihost.agree(steps) if step >= 0]

  def _whole(self) -> Iterator[int]:
    """Newest first."""
    for step in sorted(self._manager.all_steps(), reverse=True):
      manifest = self._manifest(step)
      if not manifest.exists():
        logging.warning('%s: step %d was never finished', self._path, step)
      elif self._recorded(manifest) != self._digests(step):
        logging.warning(
          '%s: step %d is damaged, or of another run (its manifest differs); '
          'passing it over',
          self._path,
          step,
        )
      else:
        yield step

  def _recorded(self, manifest: epath.Path) -> object:
    """What a manifest says; None if it is torn."""
    try:
      return files.read_json(manifest)
    except (OSError, ValueError, RecursionError):
      return None

  def restore(self, step: int, like: Any) -> Any:
    """Restores a step in the structure and sharding of `like`.

    Args:
      step: as returned by `newest_whole` or `all_whole`.
      like: pytree of arrays or `jax.ShapeDtypeStruct` with shardings.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    return self._manager.restore(step, args=ocp.args.StandardRestore(abstract))

  def restore_fields(self, step: int, like: dict[str, Any]) -> dict[str, Any]:
    """`restore` of some fields alone; the others are not read.

    Args:
      step: as of `restore`.
      like: of each field, as of `restore`.

    Raises:
      InputError: if a field has other arrays than asked.
    """
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    how = ocp.checkpoint_utils.construct_restore_args(abstract)
    folder = self._path / str(step) / ocp.checkpoint_manager.DEFAULT_ITEM_NAME
    # The handler alone: a Checkpointer warns of each item of a manager's step.
    reader = ocp.PyTreeCheckpointHandler()
    try:
      # Orbax would leave out what either side lacks.
      tree = reader.metadata(folder).tree
      there = _names({field: tree.get(field) for field in like})
      if odd := sorted(there ^ _names(abstract)):
        raise inputs.InputError(
          f'{folder} is of another net: one of them has no {odd[0]}'
          + (f', nor {len(odd) - 1} others' if len(odd) > 1 else '')
        )
      return reader.restore(
        folder,
        args=ocp.args.PyTreeRestore(abstract, how, partial_restore=True),
      )
    finally:
      reader.close()

  def close(self) -> None:
    self._manager.close()

  def _manifest(self, step: int) -> epath.Path:
    return self._path / f'manifest-{step}.json'

  def _digests(self, step: int) -> dict[str, str]:
    """SHA-256 by file; under the empty name, whose they are."""
    folder = self._path / str(step)
    if not folder.is_dir():
      return {}
    every = sorted(_files(folder))
    # Hashing and reading leave Python's lock: of hundreds of models one thread
    # would read for minutes while all devices wait.
    with futures.ThreadPoolExecutor(_THREADS) as pool:
      digests = list(pool.map(_digest, every))
    names = [str(file.relative_to(folder)) for file in every]
    return {'': self._identity} | dict(zip(names, digests, strict=True))


@contextlib.contextmanager
def _closed_loops_are_silent() -> Iterator[None]:
  """After a failed write TensorStore still calls Orbax's loop, which is closed.

  Python prints a traceback for each such call. They come later, from threads:
  after a failure this stays as it is.
  """
  before = sys.unraisablehook

  def hook(unraisable) -> None:
    if 'Event loop is closed' not in str(unraisable.exc_value):
      before(unraisable)

  sys.unraisablehook = hook
  yield
  sys.unraisablehook = before


def _names(tree: Any) -> set[str]:
  """Of the arrays in a tree, like ema_params/conv_in/kernel."""
  return {
    jax.tree_util.keystr(path, simple=True, separator='/')
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }


def _digest(file: epath.Path) -> str:
  """SHA-256 of a file, some of which is in memory at a time."""
  digest = hashlib.sha256()
  with file.open('rb') as stream:
    while part := stream.read(_AT_ONCE):
      digest.update(part)
  return digest.hexdigest()


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Every file below a folder; remote folders know no recursive glob."""
  for child in folder.iterdir():
    if child.is_dir():
      yield from _files(child)
    else:
      yield child
