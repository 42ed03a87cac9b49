"""Drives a stage that leaves evidence in blocks: model x rows, resumable."""

from collections.abc import Callable, Sequence
import hashlib
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from jaxdiff import inputs
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import files, layout
from jaxdiff.runtime import (
  compiling,
  hardware,
  multihost,
  preemption,
  programs,
  progress,
)
from jaxdiff.runtime import mesh as mesh_lib

# compute(params [E, ...], models [E], rows [n]) -> arrays by name, of each
# model: [E, n, ...], or a list of E.
ComputeFn = Callable[[Any, np.ndarray, np.ndarray], dict[str, Any]]
# (params of a model, its number, rows [B, ...]) -> tree of [B, ...].
RowFn = Callable[[Any, jax.Array, Any], Any]


class MapRows:
  """What a model makes of rows, batch by batch, for every model of a slot."""

  def __init__(
    self,
    fn: RowFn,
    mesh: Mesh,
    *,
    batch_size: int,
    most: int,
    spec: PartitionSpec = mesh_lib.PER_EXAMPLE,
    cut: bool = False,
  ):
    """Nothing is compiled before the first call.

    Args:
      fn: of one model and a batch.
      mesh: of the models.
      batch_size: rows at a time, over all devices along 'data'.
      most: rows that are asked for at once; a batch is no larger, and always of
        one size: the last is filled up with its last row and cut again.
      spec: PER_EXAMPLE, all models see the same rows [n, ...]; or
        PER_MODEL_AND_EXAMPLE, each has its own [E, n, ...].
      cut: weights lie in parts on the devices of a model (`mesh.cut_spec`) and
        are gathered where they are used; XLA sees to it. One model at a time.
    """
    shards = mesh.shape[mesh_lib.DATA]
    self._size = -(-min(batch_size, most) // shards) * shards
    self._axis = 1 if spec == mesh_lib.PER_MODEL_AND_EXAMPLE else 0
    self._mesh, self._spec, self._cut = mesh, spec, cut

    def one_slot(params, models, rows):
      if self._axis:
        rows = mesh_lib.own_model(rows)
      made = fn(mesh_lib.own_model(params), models[0], rows)
      return mesh_lib.add_model_axis(made)

    if cut and mesh.shape[mesh_lib.ENSEMBLE] != 1:
      raise ValueError('weights are cut where one model is worked on')
    self._one_slot = one_slot
    self._made: Any = None

  def _sharded(self, weights: int) -> Any:
    """The jitted program of a model of so many weights, always the same."""
    if self._made is None:
      mesh, whole = self._mesh, mesh_lib.PER_MODEL_AND_EXAMPLE
      how = compiling.options(mesh, weights)
      if self._cut:
        self._made = jax.jit(
          self._one_slot,
          out_shardings=NamedSharding(mesh, whole),
          compiler_options=how,
        )
      else:
        self._made = jax.jit(
          jax.shard_map(
            self._one_slot,
            mesh=mesh,
            in_specs=(mesh_lib.PER_MODEL, mesh_lib.PER_MODEL, self._spec),
            out_specs=whole,
          ),
          compiler_options=how,
        )
    return self._made

  def __call__(self, params: Any, models: np.ndarray, rows: Any) -> Any:
    """(params [E, ...], models [E], rows) -> tree of NumPy [E, n, ...]."""
    mesh, axis, size = self._mesh, self._axis, self._size
    ahead = 0 if mesh_lib.must_alternate(mesh) else 1
    count = jax.tree.leaves(rows)[0].shape[axis]
    numbers = mesh_lib.put(mesh, models.astype(np.int32), mesh_lib.PER_MODEL)
    of_all = programs.numbers_of(params)
    sharded = self._sharded(of_all // mesh.shape[mesh_lib.ENSEMBLE])
    given, made = [], []
    for start in range(0, count, size):
      batch = np.minimum(np.arange(start, start + size), count - 1)
      chosen = jax.tree.map(
        lambda leaf, batch=batch: np.take(leaf, batch, axis), rows
      )
      chosen = mesh_lib.put(mesh, chosen, self._spec)
      given.append(sharded(params, numbers, chosen))
      # While one batch is fetched, the next is at work; no more lie there.
      if len(given) > ahead:
        made.append(multihost.fetch(given.pop(0)))
    made += multihost.fetch(given)
    return jax.tree.map(
      lambda *leaves: np.concatenate(leaves, axis=1)[:, :count], *made
    )

  def program(
    self,
    name: str,
    params: Any,
    row: Any,
    spans: Sequence[int],
    place: ensemble_lib.Placement,
  ) -> programs.Program:
    """The program that calls compile, called for every slot.

    Args:
      name: for people.
      params: shapes of one model's.
      row: shapes of one row.
      spans: rows asked for at once of every slot, call by call.
      place: of the models, on this mesh.
    """
    models = self._mesh.shape[mesh_lib.ENSEMBLE]
    lead = (models, self._size) if self._axis else (self._size,)
    weights = programs.stacked(self._mesh, mesh_lib.PER_MODEL, params, models)
    if self._cut:
      weights = mesh_lib.cut_shapes(self._mesh, weights)
    args = (
      weights,
      programs.array(self._mesh, mesh_lib.PER_MODEL, (models,), np.int32),
      programs.stacked(self._mesh, self._spec, row, *lead),
    )
    return programs.Program(
      name,
      self._sharded(programs.numbers_of(params)),
      args,
      place.slots * sum(-(-span // self._size) for span in spans),
      held=place.waiting * programs.bytes_of(weights),
    )


def fill(
  stage: str,
  run: layout.Run,
  ensemble: ensemble_lib.Ensemble,
  *,
  path_of: Callable[[int, int], epath.Path],
  names: Sequence[str],
  total: int,
  block_size: int,
  make_compute: Callable[[Mesh], ComputeFn],
  unit: str = 'images',
) -> None:
  """Writes every block of evidence that is absent or torn, and no other.

  Args:
    stage: name shown to people.
    run: whose evidence it is.
    ensemble: the models of the run.
    path_of: (model, first row) -> file of a block.
    names: arrays that a whole file holds.
    total: rows of each model; the last block may be short.
    block_size: rows a file.
    make_compute: mesh -> the computation of one slot and one block of rows.
    unit: what rows are, for people.
  """
  blocks = ensemble.blocks(run)
  spans_of = spans(total, block_size)
  missing = _missing(run, blocks, path_of, names, spans_of)
  work = total * sum(len(block.models) for block in blocks)
  done = work - _size(missing, spans_of)
  with progress.track(stage, work, unit, done) as advance:
    for block in blocks:
      if not any(model in block.models for model, _ in missing):
        continue
      mesh = mesh_lib.make(len(block.models), shards=ensemble.devices_per_model)
      slots = mesh_lib.split_slots(mesh, ensemble.restore(block, mesh))
      compute = make_compute(mesh)
      hardware.give_back_memory()
      for slot, params in enumerate(slots):
        models = block.first + mesh_lib.slot_models(
          mesh, len(block.models), slot
        )
        for rows in spans_of:
          if not any((model, rows[0]) in missing for model in models):
            continue
          arrays = compute(params, models, rows)
          for place, model in enumerate(models):
            if (model, rows[0]) in missing:
              of_model = {name: value[place] for name, value in arrays.items()}
              if model % jax.process_count() == jax.process_index():
                check_finite(stage, model, of_model)
                write_block(
                  path_of(model, rows[0]),
                  run.identity,
                  model,
                  indices=rows,
                  **of_model,
                )
              advance(len(rows))
          if multihost.any_of(preemption.asked()):
            preemption.leave()
  multihost.barrier(stage)


def fill_apart(
  stage: str,
  run: layout.Run,
  ensemble: ensemble_lib.Ensemble,
  *,
  path_of: Callable[[int, int], epath.Path],
  names: Sequence[str],
  total: int,
  block_size: int,
  make_compute: Callable[[Mesh], ComputeFn],
  unit: str = 'images',
) -> None:
  """As `fill`, but every process makes blocks of its own, on its own devices.

  Nobody waits for another before the end. For models that each process can
  restore by itself; a checkpoint is restored by all processes together.

  Args:
    stage: as `fill`, and so the others.
    run: whose evidence it is.
    ensemble: the models of the run, one a block.
    path_of: (model, first row) -> file of a block.
    names: arrays that a whole file holds.
    total: rows of each model.
    block_size: rows a file.
    make_compute: mesh -> the computation of one model and one block of rows.
    unit: what rows are.
  """
  if ensemble.models_per_block != 1:
    raise ValueError('processes work apart on blocks of one model')
  blocks = ensemble.blocks(run)
  spans_of = spans(total, block_size)
  missing = sorted(_missing(run, blocks, path_of, names, spans_of))
  own = missing[multihost.share(len(missing))]
  done = total * len(blocks) - _size(missing, spans_of)
  mesh = mesh_lib.make(1, jax.local_devices())
  with progress.track(stage, total * len(blocks), unit, done) as advance:
    for block in blocks:
      starts = [start for model, start in own if model == block.first]
      if not starts or preemption.asked():
        continue
      params = ensemble.restore(block, mesh)
      compute = make_compute(mesh)
      hardware.give_back_memory()
      for start in starts:
        rows = np.arange(start, min(start + block_size, total))
        arrays = compute(params, np.array([block.first]), rows)
        of_model = {name: value[0] for name, value in arrays.items()}
        check_finite(stage, block.first, of_model)
        write_block(
          path_of(block.first, start),
          run.identity,
          block.first,
          indices=rows,
          **of_model,
        )
        advance(len(rows))
        if preemption.asked():
          break
      del params
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier(stage)


def _missing(
  run: layout.Run,
  blocks: Sequence[layout.ModelBlock],
  path_of: Callable[[int, int], epath.Path],
  names: Sequence[str],
  spans_of: Sequence[np.ndarray],
) -> set[tuple[int, int]]:
  """`absent` among all blocks of evidence."""
  pieces = [
    (model, int(rows[0]))
    for block in blocks
    for model in block.models
    for rows in spans_of
  ]
  return absent(
    run, pieces, path_of, names, {int(rows[0]): rows for rows in spans_of}
  )


def _size(
  missing: Sequence[tuple[int, int]] | set[tuple[int, int]],
  spans_of: Sequence[np.ndarray],
) -> int:
  """Rows of some blocks of evidence."""
  size = {int(rows[0]): len(rows) for rows in spans_of}
  return sum(size[start] for _, start in missing)


def spans(total: int, block_size: int) -> list[np.ndarray]:
  """Rows of every block; the last may be short."""
  return [
    np.arange(start, min(start + block_size, total))
    for start in range(0, total, block_size)
  ]


def check_finite(stage: str, model: int, arrays: dict[str, np.ndarray]) -> None:
  """Refuses evidence that is no number: every attack would be blind to it.

  Raises:
    FloatingPointError: naming the model.
  """
  for name, values in arrays.items():
    if values.dtype.kind == 'f' and not np.isfinite(values).all():
      share = 1.0 - np.isfinite(values).mean()
      raise FloatingPointError(
        f'{stage}: {100 * share:.3g} % of the {name} of model {model} are not '
        'finite: its weights, training or schedule went wrong; of what the run '
        'trains lower train.learning_rate, or mend diffusion.beta_start and '
        'beta_end, in a new --workdir'
      )


def absent(
  run: layout.Run,
  pieces: Sequence[tuple[int, int]],
  path_of: Callable[[int, int], epath.Path],
  names: Sequence[str],
  rows: dict[int, np.ndarray],
) -> set[tuple[int, int]]:
  """The (model, first row) of blocks that are absent, torn or another's.

  The first process looks: others may write before the last has looked.
  """
  gone = np.zeros(len(pieces), bool)
  if multihost.is_first():
    gone[:] = [
      read_block(
        path_of(model, start), run.identity, model, rows[start], *names
      )
      is None
      for model, start in pieces
    ]
  gone = multihost.agree(gone)
  return {piece for piece, out in zip(pieces, gone, strict=True) if out}


def write_block(
  path: epath.Path, identity: str, model: int, **arrays: np.ndarray
) -> None:
  """Writes a block of evidence that says whose it is, and of what."""
  files.write_npz(
    path, made_by=np.array(_seal(identity, model, arrays)), **arrays
  )


def read_block(
  path: epath.Path,
  identity: str,
  model: int,
  rows: np.ndarray | None,
  *names: str,
) -> dict[str, np.ndarray] | None:
  """Arrays of a block; None if it is absent, torn, or not the one wanted.

  Args:
    path: of the block.
    identity: of the run.
    model: model number.
    rows: int [n] that its `indices` must be; None is not compared.
    *names: arrays that it holds.
  """
  block = files.read_npz(path, 'made_by', 'indices', *names)
  if block is None:
    return None
  if str(block.pop('made_by')) == _seal(identity, model, block) and (
    rows is None or np.array_equal(block['indices'], rows)
  ):
    return block
  logging.warning('%s is of another run, model or rows; made again', path)
  return None


def _seal(identity: str, model: int, arrays: dict[str, np.ndarray]) -> str:
  """SHA-256 of a block's owner and content."""
  digest = hashlib.sha256(f'{identity} model {model}'.encode())
  for name in sorted(arrays):
    array = np.asarray(arrays[name])
    digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def read_rows(
  run: layout.Run,
  path_of: Callable[[int, int], epath.Path],
  model: int,
  total: int,
  block_size: int,
  names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Arrays of all rows of one model, joined from their blocks.

  Args:
    run: whose evidence.
    path_of: (model, first row) -> file of a block.
    model: model number.
    total: number of rows.
    block_size: rows a block.
    names: arrays to read.

  Raises:
    InputError: if a block is absent, torn or another's.
  """
  parts: dict[str, list[np.ndarray]] = {name: [] for name in names}
  for start in range(0, total, block_size):
    path = path_of(model, start)
    rows = np.arange(start, min(start + block_size, total))
    block = read_block(path, run.identity, model, rows, *names)
    if block is None or any(len(block[name]) != len(rows) for name in names):
      raise inputs.InputError(f'{path} is missing or torn: run its stage again')
    for name in names:
      parts[name].append(block[name])
  return {name: np.concatenate(arrays) for name, arrays in parts.items()}
