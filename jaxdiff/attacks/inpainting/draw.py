"""Draws every inpainting of a run, and judges it by every model's loss."""

from collections.abc import Sequence

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.inpainting import paths
from jaxdiff.data import datasets
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng, programs


def measure(plan: inpainting_attack.InpaintingPlan, run: layout.Run) -> None:
  """Draws and judges every inpainting that is absent or torn."""
  images = inpainting_attack.attacked(plan)
  files_of = paths.Paths(run)
  blocks.fill(
    'inpainting',
    run,
    plan.ensemble,
    path_of=files_of.drawn,
    names=('images', 'indices'),
    total=plan.rows,
    block_size=plan.block_size,
    make_compute=lambda mesh: make_painter(plan, mesh, images),
  )
  blocks.fill(
    'inpainting losses',
    run,
    plan.ensemble,
    path_of=files_of.losses,
    names=('loss', 'indices'),
    total=plan.examples.num_models * plan.rows,
    block_size=plan.block_size,
    make_compute=lambda mesh: make_judge(plan, mesh, images, run),
  )


def make_painter(
  plan: inpainting_attack.InpaintingPlan, mesh: Mesh, images: np.ndarray
) -> blocks.ComputeFn:
  """Inpaintings of the models of a slot by number of row.

  Row r of a model is draw r % draws, under mask r // draws % masks, of its
  pair's image r // rows_per_image.
  """
  mapped = _map_paint(plan, mesh)

  def compute(params, models, rows):
    place, rest = np.divmod(rows, plan.rows_per_image)
    mask, draw = np.divmod(rest, plan.draws)
    index = images[models // 2][:, place]
    given = {
      'x0': plan.examples.images[index],
      'known': _known(plan, images[models // 2], place, mask),
      'cond': plan.examples.cond_of(index),
      'index': index.astype(np.int32),
      'mask': np.broadcast_to(mask, index.shape).astype(np.int32),
      'draw': np.broadcast_to(draw, index.shape).astype(np.int32),
    }
    painted = mapped(params, models, given)
    for model, x0 in zip(models, painted, strict=True):
      blocks.check_finite('inpainting', model, {'inpaintings': x0})
    return {'images': datasets.to_uint8(painted)}

  return compute


def _map_paint(
  plan: inpainting_attack.InpaintingPlan, mesh: Mesh
) -> blocks.MapRows:
  def paint(params, model, rows):
    del model  # Both models of a pair draw with the same noise.
    root = prng.root(plan.ensemble.seed, 'inpainting')
    keys = prng.fold_each(root, rows['index'])
    for name in ('mask', 'draw'):
      keys = jax.vmap(jax.random.fold_in)(keys, rows[name])
    x0 = datasets.to_model_range(rows['x0'])
    return plan.inpaint_fn(params, x0, rows['known'], rows['cond'], keys)

  return blocks.MapRows(
    paint,
    mesh,
    batch_size=plan.batch_size,
    most=plan.block_size,
    spec=mesh_lib.PER_MODEL_AND_EXAMPLE,
  )


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
        for index in of_pair
      ]
      for of_pair in images[:, here]
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
  mapped = _map_judge(plan, mesh)

  def compute(params, models, rows):
    target, row = np.divmod(rows, plan.rows)
    index = images[target // 2, row // plan.rows_per_image]
    given = (
      _block(plan, run, target[0], row[0]),
      plan.examples.cond_of(index),
      index.astype(np.int32),
    )
    return {'loss': mapped(params, models, given)}

  return compute


def _map_judge(
  plan: inpainting_attack.InpaintingPlan, mesh: Mesh
) -> blocks.MapRows:
  def judge(params, model, rows):
    del model
    painted, cond, index = rows
    root = prng.root(plan.ensemble.seed, 'inpainting_loss')
    keys = prng.fold_each(root, index)
    x0 = datasets.to_model_range(painted)
    given = jax.lax.pcast((x0, cond, keys), mesh_lib.ENSEMBLE, to='varying')
    return plan.loss_fn(params, *given)

  return blocks.MapRows(
    judge, mesh, batch_size=plan.batch_size, most=plan.block_size
  )


def programs_of(
  plan: inpainting_attack.InpaintingPlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What drawing and judging compile."""
  height, width, channels = plan.examples.shape
  number = jax.ShapeDtypeStruct((), np.int32)
  image = jax.ShapeDtypeStruct((height, width, channels), np.uint8)
  cond = None if plan.examples.cond is None else number
  drawn = {
    'x0': image,
    'known': jax.ShapeDtypeStruct((height, width, 1), bool),
    'cond': cond,
    'index': number,
    'mask': number,
    'draw': number,
  }
  params = plan.ensemble.shapes()
  out = []
  for place in plan.ensemble.placements(devices):
    for name, mapped, row, total in (
      ('inpainting', _map_paint(plan, place.mesh), drawn, plan.rows),
      (
        'inpainting losses',
        _map_judge(plan, place.mesh),
        (image, cond, number),
        plan.examples.num_models * plan.rows,
      ),
    ):
      spans = list(map(len, blocks.spans(total, plan.block_size)))
      out.append(mapped.program(name, params, row, spans, place))
  return out


def _block(
  plan: inpainting_attack.InpaintingPlan, run: layout.Run, model: int, row: int
) -> np.ndarray:
  start = row // plan.block_size * plan.block_size
  path = paths.Paths(run).drawn(model, start)
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
