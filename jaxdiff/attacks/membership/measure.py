"""Signals: raw per-image evidence of a model, measured once and stored.

Signal functions (`signals`) turn images into Q numbers each. The columns are
described by a table of queries; attacks choose among them and never measure
again.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import paths
from jaxdiff.data import datasets
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, prng, programs


@dataclasses.dataclass(frozen=True)
class SignalPlan:
  """All that the signal stage needs; made by `plans`.

  Attributes:
    signal_fn: (params, x0, cond, keys) -> [B, Q], of one model.
    queries: describes the Q columns.
    ensemble: the models; its seed is that of the attack's noise.
    images: uint8 [N, H, W, C].
    cond: int32 [N, ...], or None for unconditional nets.
    prepare: (params, x0, cond) -> what `signal_fn` takes in their place.
    block_size: images a file.
    batch_size: images at a time, over all devices along 'data'.
  """

  signal_fn: Callable[[Any, jax.Array, Any, jax.Array], jax.Array]
  queries: pd.DataFrame
  ensemble: ensemble_lib.Ensemble
  images: np.ndarray
  cond: np.ndarray | None
  block_size: int
  batch_size: int
  prepare: Callable[[Any, Any, Any], tuple[Any, Any]] = (
    lambda params, x0, cond: (x0, cond)
  )


def measure(plan: SignalPlan, run: layout.Run) -> None:
  """Writes every block of signals that is absent or torn."""
  files_of = paths.Paths(run)
  if multihost.is_first():
    files.write_csv(files_of.queries, plan.queries)

  def make_compute(mesh: Mesh) -> blocks.ComputeFn:
    measurer = make_measurer(plan, mesh)
    return lambda params, models, indices: {
      'signals': measurer(params, models, indices)
    }

  blocks.fill(
    'signals',
    run,
    plan.ensemble,
    path_of=files_of.signals,
    names=('signals', 'indices'),
    total=len(plan.images),
    block_size=plan.block_size,
    make_compute=make_compute,
  )


def make_measurer(
  plan: SignalPlan, mesh: Mesh
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
  """(params [E, ...], models [E], indices [n]) -> signals float32 [E, n, Q]."""
  mapped = _map_rows(plan, mesh)

  def measurer(params, models, indices):
    cond = None if plan.cond is None else plan.cond[indices]
    rows = (plan.images[indices], cond, indices.astype(np.int32))
    return mapped(params, models, rows)

  return measurer


def _map_rows(plan: SignalPlan, mesh: Mesh) -> blocks.MapRows:
  def signals_of(params, model, rows):
    del model  # Keys go by the example alone: models are asked the same.
    images, cond, indices = rows
    keys = prng.fold_each(prng.root(plan.ensemble.seed, 'attack'), indices)
    x0 = datasets.to_model_range(images)
    # Without the cast, gradients of one example would be summed over devices;
    # and what a signal function loops over must vary as its result does.
    params = jax.lax.pcast(params, mesh_lib.DATA, to='varying')
    given = jax.lax.pcast((x0, cond, keys), mesh_lib.ENSEMBLE, to='varying')
    x0, cond, keys = given
    return plan.signal_fn(params, *plan.prepare(params, x0, cond), keys)

  return blocks.MapRows(
    signals_of,
    mesh,
    batch_size=plan.batch_size,
    most=min(plan.block_size, len(plan.images)),
  )


def programs_of(
  plan: SignalPlan, devices: Sequence[jax.Device], name: str = 'signals'
) -> list[programs.Program]:
  """What measuring compiles: all signals are one program."""
  number = jax.ShapeDtypeStruct((), np.int32)
  image = jax.ShapeDtypeStruct(plan.images.shape[1:], np.uint8)
  cond = None
  if plan.cond is not None:
    cond = jax.ShapeDtypeStruct(plan.cond.shape[1:], np.int32)
  row = (image, cond, number)
  spans = blocks.spans(len(plan.images), plan.block_size)
  return [
    _map_rows(plan, place.mesh).program(
      name, plan.ensemble.shapes(), row, list(map(len, spans)), place
    )
    for place in plan.ensemble.placements(devices)
  ]


def load(
  run: layout.Run, num_models: int, count: int, block_size: int
) -> tuple[np.ndarray, pd.DataFrame]:
  """Stored signals float32 [K, N, Q] and the table of their columns."""
  files_of = paths.Paths(run)
  stacked = [
    blocks.read_rows(
      run, files_of.signals, model, count, block_size, ('signals',)
    )
    for model in range(num_models)
  ]
  values = np.stack([rows['signals'] for rows in stacked])
  queries = files.read_csv(files_of.queries)
  # An empty name is read as a missing number.
  layer = queries['layer'].astype(object).fillna('').astype(str)
  return values, queries.assign(layer=layer)
