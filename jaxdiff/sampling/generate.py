"""Mass generation: images by index, in resumable blocks."""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, prng

# sample_fn(params, key, indices [B], labels [B] or None) -> x0 [B, H, W, C].
SampleFn = Callable[[Any, jax.Array, jax.Array, Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class SamplePlan:
  """All that sampling needs; made by `plans`.

  Attributes:
    sample_fn: one model's images by index.
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    seed: of the samples.
    num_models: in the whole run.
    models_per_block: models that share a checkpoint.
    num_samples: images of each model; a multiple of `block_size`.
    block_size: images a file.
    batch_size: images of one model at a time, over all devices along 'data';
      divides `block_size`.
    classes: labels that images are drawn with, in turn; None is unconditional.
    devices_per_model: devices that share a model; 0 chooses.
    purpose: of `keys.PURPOSES`: samples of one are not those of another.
  """

  sample_fn: SampleFn
  restore: Callable[[layout.ModelBlock, Mesh], Any]
  seed: int
  num_models: int
  models_per_block: int
  num_samples: int
  block_size: int
  batch_size: int
  classes: tuple[int, ...] | None
  devices_per_model: int = 0
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
    path_of=run.samples,
    names=('images', 'indices'),
    blocks=run.model_blocks(plan.num_models, plan.models_per_block),
    total=plan.num_samples,
    block_size=plan.block_size,
    restore=plan.restore,
    make_compute=make_compute,
    shards=plan.devices_per_model,
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
  shards = mesh.shape[mesh_lib.DATA]
  if plan.batch_size % shards:
    raise inputs.InputError(
      f'sample.batch_size: {plan.batch_size} does not divide over {shards} '
      'devices along data'
    )

  def one_slot(params, models, indices, labels):
    key = jax.random.fold_in(prng.root(plan.seed, plan.purpose), models[0])
    return mesh_lib.add_model_axis(
      plan.sample_fn(mesh_lib.own_model(params), key, indices, labels)
    )

  sharded = jax.jit(
    jax.shard_map(
      one_slot,
      mesh=mesh,
      in_specs=(
        mesh_lib.PER_MODEL,
        mesh_lib.PER_MODEL,
        mesh_lib.PER_EXAMPLE,
        mesh_lib.PER_EXAMPLE,
      ),
      out_specs=mesh_lib.PER_MODEL_AND_EXAMPLE,
    )
  )

  def sampler(params, models, indices):
    labels = labels_of(indices, plan.classes)
    parts = []
    for i in range(0, len(indices), plan.batch_size):
      j = slice(i, i + plan.batch_size)
      parts.append(
        sharded(
          params,
          mesh_lib.put(mesh, models.astype(np.int32), mesh_lib.PER_MODEL),
          *mesh_lib.put(
            mesh,
            (
              indices[j].astype(np.int32),
              None if labels is None else labels[j],
            ),
            mesh_lib.PER_EXAMPLE,
          ),
        )
      )
    return np.concatenate(multihost.fetch(parts), axis=1)

  return sampler
