"""Figures of the steps since the last log: averaged, or kept over a stop."""

from collections.abc import Collection
from typing import Any

from jax.sharding import Mesh
import numpy as np

from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh as mesh_lib


def means(
  pending: list[tuple[int, dict[str, Any]]], mesh: Mesh, num_models: int
) -> dict[str, np.ndarray]:
  """Means since the last log, name -> float32 [K] in order of model."""
  slots = mesh_lib.num_slots(mesh, num_models)
  averages = {}
  for name in sorted(pending[0][1]):
    values = np.zeros(num_models, np.float64)
    for slot, metrics in pending:
      values[mesh_lib.slot_models(mesh, num_models, slot)] += np.asarray(
        metrics[name]
      )
    averages[name] = (values / (len(pending) / slots)).astype(np.float32)
  return averages


def write(
  block: layout.ModelBlock,
  step: int,
  pending: list[tuple[int, dict[str, Any]]],
  mesh: Mesh,
) -> None:
  """Figures of steps since the last log: [steps, K] by name."""
  num_models = len(block.models)
  slots = mesh_lib.num_slots(mesh, num_models)
  arrays: dict[str, np.ndarray] = {}
  for number, (slot, metrics) in enumerate(pending):
    for name, values in metrics.items():
      shape = (len(pending) // slots, num_models)
      array = arrays.setdefault(name, np.zeros(shape, np.float32))
      where = mesh_lib.slot_models(mesh, num_models, slot)
      array[number // slots, where] = np.asarray(values)
  if arrays:
    files.write_npz(block.metrics_pending(step), **arrays)


def read(
  block: layout.ModelBlock, step: int, mesh: Mesh
) -> list[tuple[int, dict[str, Any]]]:
  """What `write` left at this step, if training stopped there."""
  arrays = files.read_npz(block.metrics_pending(step)) or {}
  num_models = len(block.models)
  slots = mesh_lib.num_slots(mesh, num_models)
  models = [mesh_lib.slot_models(mesh, num_models, s) for s in range(slots)]
  steps = len(next(iter(arrays.values()), ()))
  return [
    (slot, {name: values[row, models[slot]] for name, values in arrays.items()})
    for row in range(steps)
    for slot in range(slots)
  ]


def forget(block: layout.ModelBlock, but: Collection[int]) -> None:
  """Removes what `write` left at steps that training cannot go back to."""
  kept = {block.metrics_pending(step) for step in but}
  for path in block.metrics.glob('*.npz'):
    if path not in kept:
      path.unlink()
