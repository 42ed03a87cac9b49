"""Mass generation: images by index, in resumable blocks."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.runs import blocks, layout
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng, programs

# sample_fn(params, key, indices [B], labels [B] or None) -> x0 [B, H, W, C].
SampleFn = Callable[[Any, jax.Array, jax.Array, Any], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplePlan(samples_lib.Samples):
  """All that sampling needs; made by `plans`.

  `num_samples` is a multiple of `block_size`.

  Attributes:
    sample_fn: one model's images by index.
    ensemble: the models; its seed is that of the samples.
    batch_size: images of one model at a time, over all devices along 'data';
      divides `block_size`.
    num_steps: network calls an image, for who counts the work.
    purpose: of `prng.PURPOSES`: samples of one are not those of another.
  """

  sample_fn: SampleFn
  ensemble: ensemble_lib.Ensemble
  batch_size: int
  num_steps: int = 0
  purpose: str = 'sampling'


def generate(plan: SamplePlan, run: layout.Run) -> None:
  """Writes every block of samples that is absent or torn."""

  def make_compute(mesh: Mesh) -> blocks.ComputeFn:
    sampler = make_sampler(plan, mesh)

    def compute(params, models, indices):
      made = sampler(params, models, indices)
      for model, x0 in zip(models, made, strict=True):
        # Before they are rounded to pixels, which are always finite.
        blocks.check_finite('sample', model, {'samples': x0})
      arrays = {'images': datasets.to_uint8(made)}
      labels = labels_of(indices, plan.classes)
      if labels is not None:
        arrays['labels'] = np.tile(labels, (len(models), 1))
      return arrays

    return compute

  blocks.fill(
    'sample',
    run,
    plan.ensemble,
    path_of=run.samples,
    names=('images', 'indices'),
    total=plan.num_samples,
    block_size=plan.block_size,
    make_compute=make_compute,
  )


def labels_of(
  indices: np.ndarray, classes: tuple[int, ...] | None
) -> np.ndarray | None:
  """The label that each image number is drawn with; None if unconditional."""
  if classes is None:
    return None
  return np.asarray(classes, np.int32)[indices % len(classes)]


def make_sampler(
  plan: SamplePlan, mesh: Mesh
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
  """(params [E, ...], models [E], indices [S]) -> x0 float32 [E, S, H, W, C].

  Raises:
    InputError: if the batch does not divide over the devices along 'data'.
  """
  mapped = _map_rows(plan, mesh)

  def sampler(params, models, indices):
    rows = (indices.astype(np.int32), labels_of(indices, plan.classes))
    return mapped(params, models, rows)

  return sampler


def _map_rows(plan: SamplePlan, mesh: Mesh) -> blocks.MapRows:
  shards = mesh.shape[mesh_lib.DATA]
  if plan.batch_size % shards:
    raise inputs.InputError(
      f'sample.batch_size: {plan.batch_size} does not divide over {shards} '
      'devices along data'
    )

  def samples_of(params, model, rows):
    key = prng.root(plan.ensemble.seed, plan.purpose)
    return plan.sample_fn(params, jax.random.fold_in(key, model), *rows)

  return blocks.MapRows(
    samples_of, mesh, batch_size=plan.batch_size, most=plan.batch_size
  )


def programs_of(
  plan: SamplePlan, devices: Sequence[jax.Device], name: str = 'sampler'
) -> list[programs.Program]:
  """What sampling compiles."""
  number = jax.ShapeDtypeStruct((), np.int32)
  row = (number, None if plan.classes is None else number)
  spans = (plan.block_size,) * (plan.num_samples // plan.block_size)
  return [
    _map_rows(plan, place.mesh).program(
      name, plan.ensemble.shapes(), row, spans, place
    )
    for place in plan.ensemble.placements(devices)
  ]
