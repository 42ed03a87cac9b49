"""Draws every inpainting of a run, and judges it by every model's loss."""

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.data import datasets
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, prng


def measure(plan: inpainting_attack.InpaintingPlan, run: layout.Run) -> None:
  """Draws and judges every inpainting that is absent or torn."""
  images = inpainting_attack.attacked(plan)
  common = {
    'blocks': run.model_blocks(len(plan.keep), plan.models_per_block),
    'block_size': plan.block_size,
    'restore': plan.restore,
    'shards': plan.devices_per_model,
  }
  blocks.fill(
    'inpainting',
    run,
    path_of=run.inpaintings,
    names=('images', 'indices'),
    total=plan.rows,
    make_compute=lambda mesh: make_painter(plan, mesh, images),
    **common,
  )
  blocks.fill(
    'inpainting losses',
    run,
    path_of=run.inpainting_losses,
    names=('loss', 'indices'),
    total=len(plan.keep) * plan.rows,
    make_compute=lambda mesh: make_judge(plan, mesh, images, run),
    **common,
  )


def _batched(mesh: Mesh, batch_size: int, count: int):
  """Slices of a block, each of one size: (rows, filled up to, without)."""
  shards = mesh.shape[mesh_lib.DATA]
  size = -(-min(batch_size, count) // shards) * shards
  for start in range(0, count, size):
    here = np.arange(start, min(start + size, count))
    yield np.pad(here, (0, size - len(here)), mode='edge'), len(here)


def make_painter(
  plan: inpainting_attack.InpaintingPlan, mesh: Mesh, images: np.ndarray
) -> blocks.ComputeFn:
  """Inpaintings of the models of a slot by number of row.

  Row r of a model is draw r % draws, under mask r // draws % masks, of its
  pair's image r // rows_per_image.
  """
  each = mesh_lib.PER_MODEL_AND_EXAMPLE

  def one_slot(params, given):
    own = mesh_lib.own_model(given)
    keys = prng.fold_each(prng.root(plan.seed, 'inpainting'), own['index'])
    for name in ('mask', 'draw'):
      keys = jax.vmap(jax.random.fold_in)(keys, own[name])
    painted = plan.inpaint_fn(
      mesh_lib.own_model(params),
      datasets.to_model_range(own['x0']),
      own['known'],
      own['labels'],
      keys,
    )
    return mesh_lib.add_model_axis(painted)

  sharded = jax.jit(
    jax.shard_map(
      one_slot,
      mesh=mesh,
      in_specs=(mesh_lib.PER_MODEL, each),
      out_specs=each,
    )
  )

  def compute(params, models, rows):
    place, rest = np.divmod(rows, plan.rows_per_image)
    mask, draw = np.divmod(rest, plan.draws)
    index = images[models // 2][:, place]
    shape = index.shape
    given = {
      'x0': plan.images[index],
      'known': _known(plan, images[models // 2], place, mask),
      'labels': None if plan.labels is None else plan.labels[index],
      'index': index.astype(np.int32),
      'mask': np.broadcast_to(mask, shape).astype(np.int32),
      'draw': np.broadcast_to(draw, shape).astype(np.int32),
    }
    parts = []
    for chosen, count in _batched(mesh, plan.batch_size, len(rows)):
      batch = {
        name: None if value is None else value[:, chosen]
        for name, value in given.items()
      }
      painted = sharded(params, mesh_lib.put(mesh, batch, each))
      parts.append(multihost.fetch(painted)[:, :count])
    painted = np.concatenate(parts, axis=1)
    for model, x0 in zip(models, painted, strict=True):
      blocks.check_finite('inpainting', model, {'inpaintings': x0})
    return {'images': datasets.to_uint8(painted)}

  return compute


def _known(
  plan: inpainting_attack.InpaintingPlan,
  images: np.ndarray,
  place: np.ndarray,
  mask: np.ndarray,
) -> np.ndarray:
  """Known pixels of rows: images [E, num_images], rows [n] -> [E, n, H, W, 1].

  Draws of one image share them: each is made once.
  """
  here, row = np.unique(place, return_inverse=True)
  made = np.array(
    [
      [
        [
          inpainting_attack.known_pixels(plan, m, index)
          for m in range(len(plan.masks))
        ]
        for index in own
      ]
      for own in images[:, here]
    ]
  )
  return made[:, row, mask]


def make_judge(
  plan: inpainting_attack.InpaintingPlan,
  mesh: Mesh,
  images: np.ndarray,
  run: layout.Run,
) -> blocks.ComputeFn:
  """Losses of all models' inpaintings: row = model that drew it x rows + row.

  Noise goes by the original image alone, the same for all that is compared.
  """

  def one_slot(params, painted, labels, index):
    keys = prng.fold_each(prng.root(plan.seed, 'inpainting_loss'), index)
    x0 = datasets.to_model_range(painted)
    given = jax.lax.pcast((x0, labels, keys), mesh_lib.ENSEMBLE, to='varying')
    loss = plan.loss_fn(mesh_lib.own_model(params), *given)
    return mesh_lib.add_model_axis(loss)

  sharded = jax.jit(
    jax.shard_map(
      one_slot,
      mesh=mesh,
      in_specs=(mesh_lib.PER_MODEL, *(mesh_lib.PER_EXAMPLE,) * 3),
      out_specs=mesh_lib.PER_MODEL_AND_EXAMPLE,
    )
  )

  def compute(params, models, rows):
    del models
    target, row = np.divmod(rows, plan.rows)
    painted = _block(plan, run, target[0], row[0])
    index = images[target // 2, row // plan.rows_per_image]
    given = (
      painted,
      None if plan.labels is None else plan.labels[index],
      index.astype(np.int32),
    )
    parts = []
    for chosen, count in _batched(mesh, plan.batch_size, len(rows)):
      batch = jax.tree.map(lambda x, chosen=chosen: x[chosen], given)
      loss = sharded(params, *mesh_lib.put(mesh, batch, mesh_lib.PER_EXAMPLE))
      parts.append(multihost.fetch(loss)[:, :count])
    return {'loss': np.concatenate(parts, axis=1)}

  return compute


def _block(
  plan: inpainting_attack.InpaintingPlan, run: layout.Run, model: int, row: int
) -> np.ndarray:
  start = row // plan.block_size * plan.block_size
  path = run.inpaintings(model, start)
  block = blocks.read_block(path, run.identity, model, None, 'images')
  if block is None:
    raise inputs.InputError(f'{path} is missing or torn: run attack again')
  return block['images']


def inpaintings_of(
  plan: inpainting_attack.InpaintingPlan,
  run: layout.Run,
  model: int,
  place: int,
  mask: int,
) -> np.ndarray:
  """All draws of one image under one mask: uint8 [draws, H, W, C]."""
  row = place * plan.rows_per_image + mask * plan.draws
  block = _block(plan, run, model, row)
  start = row % plan.block_size
  return block[start : start + plan.draws]
