"""Drives a stage that leaves evidence in blocks: model x rows, resumable."""

from collections.abc import Callable, Sequence
from typing import Any

from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff.runs import layout
from jaxdiff.runtime import hardware, multihost, preemption, progress
from jaxdiff.runtime import mesh as mesh_lib

# compute(params [E, ...], models [E], rows [n]) -> arrays [E, n, ...] by name.
ComputeFn = Callable[[Any, np.ndarray, np.ndarray], dict[str, np.ndarray]]


def fill(
  stage: str,
  run: layout.Run,
  *,
  path_of: Callable[[int, int], epath.Path],
  names: Sequence[str],
  blocks: list[layout.ModelBlock],
  total: int,
  block_size: int,
  restore: Callable[[layout.ModelBlock, Mesh], Any],
  make_compute: Callable[[Mesh], ComputeFn],
  shards: int = 0,
) -> None:
  """Writes every block of evidence that is absent or torn, and no other.

  Args:
    stage: name shown to people.
    run: whose evidence it is.
    path_of: (model, first row) -> file of a block.
    names: arrays that a whole file holds.
    blocks: the models of the run.
    total: rows of each model; the last block may be short.
    block_size: rows a file.
    restore: (block, mesh) -> params of a block, [K, ...] along 'ensemble'.
    make_compute: mesh -> the computation of one slot and one block of rows.
    shards: devices that share a model; 0 chooses.
  """
  spans = [
    np.arange(start, min(start + block_size, total))
    for start in range(0, total, block_size)
  ]
  missing = absent(
    run,
    [
      (model, rows[0])
      for block in blocks
      for model in block.models
      for rows in spans
    ],
    path_of,
    names,
    {rows[0]: rows for rows in spans},
  )
  size = {rows[0]: len(rows) for rows in spans}
  work = total * sum(len(block.models) for block in blocks)
  done = work - sum(size[start] for _, start in missing)
  with progress.track(stage, work, 'images', done) as advance:
    for block in blocks:
      if not any(model in block.models for model, _ in missing):
        continue
      mesh = mesh_lib.make(len(block.models), shards=shards)
      slots = mesh_lib.split_slots(mesh, restore(block, mesh))
      compute = make_compute(mesh)
      hardware.give_back_memory()
      for slot, params in enumerate(slots):
        models = block.first + mesh_lib.slot_models(
          mesh, len(block.models), slot
        )
        for rows in spans:
          if not any((model, rows[0]) in missing for model in models):
            continue
          arrays = compute(params, models, rows)
          for place, model in enumerate(models):
            if (model, rows[0]) in missing:
              own = {name: value[place] for name, value in arrays.items()}
              if model % jax.process_count() == jax.process_index():
                check_finite(stage, model, own)
                layout.write_block(
                  path_of(model, rows[0]),
                  run.identity,
                  model,
                  indices=rows,
                  **own,
                )
              advance(len(rows))
          if multihost.any_of(preemption.asked()):
            preemption.leave()
  multihost.barrier(stage)


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
        'finite: its training or its schedule went wrong; lower '
        'train.learning_rate, or mend diffusion.beta_start and beta_end, in a '
        'new --workdir'
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
      layout.read_block(
        path_of(model, start), run.identity, model, rows[start], *names
      )
      is None
      for model, start in pieces
    ]
  gone = multihost.agree(gone)
  return {piece for piece, out in zip(pieces, gone, strict=True) if out}
