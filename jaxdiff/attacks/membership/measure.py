"""Signals: raw per-image evidence of a model, measured once and stored.

Signal functions (`signals`) turn images into Q numbers each. The columns are
described by a table of queries; attacks choose among them and never measure
again.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import pandas as pd

from jaxdiff.data import datasets
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, prng


@dataclasses.dataclass(frozen=True)
class SignalPlan:
  """All that the signal stage needs; made by `plans`.

  Attributes:
    signal_fn: (params, x0, labels, keys) -> [B, Q], of one model.
    queries: describes the Q columns.
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    images: uint8 [N, H, W, C].
    labels: int32 [N], or None for unconditional nets.
    seed: of the attack's noise.
    num_models: in the whole run.
    models_per_block: models that share a checkpoint.
    block_size: images a file.
    batch_size: images at a time, over all devices along 'data'.
    devices_per_model: devices that share a model; 0 chooses.
  """

  signal_fn: Callable[[Any, jax.Array, Any, jax.Array], jax.Array]
  queries: pd.DataFrame
  restore: Callable[[layout.ModelBlock, Mesh], Any]
  images: np.ndarray
  labels: np.ndarray | None
  seed: int
  num_models: int
  models_per_block: int
  block_size: int
  batch_size: int
  devices_per_model: int = 0


def measure(plan: SignalPlan, run: layout.Run) -> None:
  """Writes every block of signals that is absent or torn."""
  if multihost.is_first():
    files.write_csv(run.queries, plan.queries)

  def make_compute(mesh: Mesh) -> blocks.ComputeFn:
    measurer = make_measurer(plan, mesh)
    return lambda params, models, indices: {
      'signals': measurer(params, indices)
    }

  blocks.fill(
    'signals',
    run,
    path_of=run.signals,
    names=('signals', 'indices'),
    blocks=run.model_blocks(plan.num_models, plan.models_per_block),
    total=len(plan.images),
    block_size=plan.block_size,
    restore=plan.restore,
    make_compute=make_compute,
    shards=plan.devices_per_model,
  )


def make_measurer(
  plan: SignalPlan, mesh: Mesh
) -> Callable[[Any, np.ndarray], np.ndarray]:
  """(params [E, ...], example indices [n]) -> signals float32 [E, n, Q]."""
  shards = mesh.shape[mesh_lib.DATA]
  # No larger than what there is to do: a batch is filled up.
  most = min(plan.batch_size, plan.block_size, len(plan.images))
  batch_size = -(-most // shards) * shards

  def one_slot(params, images, labels, indices):
    keys = prng.fold_each(prng.root(plan.seed, 'attack'), indices)
    x0 = datasets.to_model_range(images)
    own = mesh_lib.own_model(params)
    # Without the cast, gradients of one example would be summed over devices;
    # and what a signal function loops over must vary as its result does.
    own = jax.lax.pcast(own, mesh_lib.DATA, to='varying')
    given = jax.lax.pcast((x0, labels, keys), mesh_lib.ENSEMBLE, to='varying')
    values = plan.signal_fn(own, *given)
    return mesh_lib.add_model_axis(values)

  sharded = jax.jit(
    jax.shard_map(
      one_slot,
      mesh=mesh,
      in_specs=(
        mesh_lib.PER_MODEL,
        mesh_lib.PER_EXAMPLE,
        mesh_lib.PER_EXAMPLE,
        mesh_lib.PER_EXAMPLE,
      ),
      out_specs=mesh_lib.PER_MODEL_AND_EXAMPLE,
    )
  )

  def measurer(params, indices):
    parts = []
    for i in range(0, len(indices), batch_size):
      chosen = indices[i : i + batch_size]
      # The last batch is filled up with its last image and cut again.
      padded = np.pad(chosen, (0, batch_size - len(chosen)), mode='edge')
      given = mesh_lib.put(
        mesh,
        (
          plan.images[padded],
          None if plan.labels is None else plan.labels[padded],
          padded.astype(np.int32),
        ),
        mesh_lib.PER_EXAMPLE,
      )
      values = multihost.fetch(sharded(params, *given))
      parts.append(values[:, : len(chosen)])
    return np.concatenate(parts, axis=1)

  return measurer


def load(
  run: layout.Run, num_models: int, count: int, block_size: int
) -> tuple[np.ndarray, pd.DataFrame]:
  """Stored signals float32 [K, N, Q] and the table of their columns."""
  stacked = [
    blocks.read_rows(run, run.signals, model, count, block_size, ('signals',))
    for model in range(num_models)
  ]
  values = np.stack([rows['signals'] for rows in stacked])
  queries = files.read_csv(run.queries)
  # An empty name is read as a missing number.
  layer = queries['layer'].astype(object).fillna('').astype(str)
  return values, queries.assign(layer=layer)
