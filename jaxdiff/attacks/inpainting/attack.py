"""Inpainting: a model that trained on an image fills in what is hidden of it.

Carlini et al. (2023), section 5.3. Models 2j and 2j + 1 are attacked on images
that exactly one of them trained on, with the same noise. Each draws many
inpaintings of each image (`diffusion/repaint.py`), and they are judged by

(1)  ratio = loss of the target / mean loss of the shadow models

of the inpainting at one timestep, where shadow models are those of other pairs
that did not train on the image. (The paper has one; with several, the mean.)
The smallest ratios are kept, and the result is their mean distance (RMSE) to
the original: small for the model that trained on it (paper, figure 13).

Inpaintings are stored as 8-bit images and judged as such.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import pandas as pd
from scipy import stats

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.metrics import intervals
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, prng

# Rows of evidence a file, at most, unless one image has more.
_BLOCK = 4096
# Images shown, of each mask and kind.
_EXAMPLES = 4


def left_half(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """The paper's: the left half is hidden."""
  del rng
  return np.broadcast_to(np.arange(shape[1]) >= shape[1] // 2, shape[:2])


def centre(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """A box in the middle, of half the height and half the width, is hidden."""
  del rng
  known = np.ones(shape[:2], bool)
  top, left = shape[0] // 4, shape[1] // 4
  known[top : top + shape[0] // 2, left : left + shape[1] // 2] = False
  return known


def random_half(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
  """Half of the pixels are hidden, others for every image."""
  known = np.arange(shape[0] * shape[1]) % 2 == 0
  return rng.permutation(known).reshape(shape[:2])


# Image shape and generator -> bool [H, W], True where a pixel is known.
MASKS: dict[str, Callable[..., np.ndarray]] = {
  'left': left_half,
  'centre': centre,
  'random': random_half,
}


@dataclasses.dataclass(frozen=True)
class InpaintingPlan:
  """All that the attack needs; made by `plans`.

  Attributes:
    inpaint_fn: (params, x0, known, labels, keys) -> x0 [B, H, W, C].
    loss_fn: (params, x0, labels, keys) -> loss [B].
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    images: uint8 [N, H, W, C].
    labels: int32 [N], or None for unconditional nets.
    keep: bool [K, N].
    seed: of the choice of images, masks and noise.
    models_per_block: models that share a checkpoint.
    num_images: that each pair of models is attacked on; 0 leaves it out.
    masks: names of MASKS.
    draws: inpaintings of each image, by each of its two models.
    kept: those with the smallest ratios, whose distance counts.
    batch_size: inpaintings of a model at a time, over its devices.
    settings: how they are drawn and judged, for the reader of a table.
    devices_per_model: devices that share a model; 0 chooses.
  """

  inpaint_fn: Callable[..., jax.Array]
  loss_fn: Callable[..., jax.Array]
  restore: Callable[[layout.ModelBlock, Mesh], Any]
  images: np.ndarray
  labels: np.ndarray | None
  keep: np.ndarray
  seed: int
  models_per_block: int
  num_images: int
  masks: tuple[str, ...]
  draws: int
  kept: int
  batch_size: int
  settings: dict[str, Any]
  devices_per_model: int = 0

  @property
  def rows_per_image(self) -> int:
    return len(self.masks) * self.draws

  @property
  def rows(self) -> int:
    """Inpaintings of one model."""
    return self.num_images * self.rows_per_image

  @property
  def block_size(self) -> int:
    """Inpaintings a file: whole images, equally many."""
    fitting = [
      count
      for count in range(1, self.num_images + 1)
      if self.num_images % count == 0 and count * self.rows_per_image <= _BLOCK
    ]
    return max(fitting, default=1) * self.rows_per_image


def attacked(plan: InpaintingPlan) -> np.ndarray:
  """Images that each pair is attacked on: int [K / 2, num_images].

  Pairs take turns in one random order, so that few images or none come twice.

  Raises:
    InputError: if there are not enough that one of the two trained on.
  """
  num_examples = len(plan.images)
  order = prng.rng(plan.seed, 'inpainting').permutation(num_examples)
  chosen = []
  for pair in range(len(plan.keep) // 2):
    first, second = plan.keep[2 * pair : 2 * pair + 2]
    turned = np.roll(order, -pair * plan.num_images)
    own = turned[(first != second)[turned]][: plan.num_images]
    if len(own) < plan.num_images:
      raise inputs.InputError(
        f'inpainting.num_images: {plan.num_images} asked, but models '
        f'{2 * pair} and {2 * pair + 1} differ in {len(own)} images'
      )
    chosen.append(own)
  return np.array(chosen)


def shadows(plan: InpaintingPlan, model: int, index: int) -> np.ndarray:
  """Models of other pairs that did not train on an image."""
  out = ~plan.keep[:, index]
  out[model // 2 * 2 : model // 2 * 2 + 2] = False
  return np.flatnonzero(out)


def check(plan: InpaintingPlan) -> None:
  """Raises InputError if the run's models cannot be attacked this way."""
  if len(plan.keep) < 4 or len(plan.keep) % 2:
    raise inputs.InputError(
      'inpainting.num_images: needs an even num_models of at least 4, two to '
      f'attack and others as shadow models, not {len(plan.keep)}; 0 leaves '
      'inpainting out'
    )
  for pair, chosen in enumerate(attacked(plan)):
    for index in chosen:
      if not len(shadows(plan, 2 * pair, index)):
        raise inputs.InputError(
          f'inpainting.num_images: every model trained on image {index}, none '
          'is left as its shadow model; raise num_models'
        )


def known_pixels(plan: InpaintingPlan, mask: int, index: int) -> np.ndarray:
  """bool [H, W, 1] of one image."""
  rng = prng.rng(plan.seed, 'inpainting', mask, index)
  return MASKS[plan.masks[mask]](plan.images.shape[1:], rng)[..., None]


def measure(plan: InpaintingPlan, run: layout.Run) -> None:
  """Draws and judges every inpainting that is absent or torn."""
  images = attacked(plan)
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
  plan: InpaintingPlan, mesh: Mesh, images: np.ndarray
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
  plan: InpaintingPlan, images: np.ndarray, place: np.ndarray, mask: np.ndarray
) -> np.ndarray:
  """Known pixels of rows: images [E, num_images], rows [n] -> [E, n, H, W, 1].

  Draws of one image share them: each is made once.
  """
  here, row = np.unique(place, return_inverse=True)
  made = np.array(
    [
      [
        [known_pixels(plan, m, index) for m in range(len(plan.masks))]
        for index in own
      ]
      for own in images[:, here]
    ]
  )
  return made[:, row, mask]


def make_judge(
  plan: InpaintingPlan, mesh: Mesh, images: np.ndarray, run: layout.Run
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
  plan: InpaintingPlan, run: layout.Run, model: int, row: int
) -> np.ndarray:
  start = row // plan.block_size * plan.block_size
  path = run.inpaintings(model, start)
  block = layout.read_block(path, run.identity, model, None, 'images')
  if block is None:
    raise inputs.InputError(f'{path} is missing or torn: run attack again')
  return block['images']


def inpaintings_of(
  plan: InpaintingPlan, run: layout.Run, model: int, place: int, mask: int
) -> np.ndarray:
  """All draws of one image under one mask: uint8 [draws, H, W, C]."""
  row = place * plan.rows_per_image + mask * plan.draws
  block = _block(plan, run, model, row)
  start = row % plan.block_size
  return block[start : start + plan.draws]


def table(plan: InpaintingPlan, run: layout.Run) -> pd.DataFrame:
  """One row an image, mask and target model; smallest ratios kept.

  Columns: mask, pair, index, target, member, shadow_models, draws, kept, ratio
  (mean of those kept), best_draw, distance (mean RMSE of those kept to the
  original), distance_all (mean over all draws), distance_nearest (the nearest
  draw: no attack, it needs the original).
  """
  images = attacked(plan)
  shape = (len(plan.keep), plan.num_images, len(plan.masks), plan.draws)
  rows = []
  loss = np.stack(
    [
      layout.read_rows(
        run,
        run.inpainting_losses,
        model,
        len(plan.keep) * plan.rows,
        plan.block_size,
        ('loss',),
      )['loss'].reshape(shape)
      for model in range(len(plan.keep))
    ]
  )
  for m, mask in enumerate(plan.masks):
    for target in range(len(plan.keep)):
      for place, index in enumerate(images[target // 2]):
        others = shadows(plan, target, index)
        own = loss[:, target, place, m]
        ratio = own[target] / own[others].mean(axis=0)
        best = np.argsort(ratio, kind='stable')[: plan.kept]
        painted = inpaintings_of(plan, run, target, place, m)
        error = (painted.astype(np.float64) - plan.images[index]) / 255.0
        distance = np.sqrt(np.square(error).mean(axis=(1, 2, 3)))
        rows.append(
          {
            'mask': mask, 'pair': target // 2, 'index': index,
            'target': target, 'member': int(plan.keep[target, index]),
            'shadow_models': len(others), 'draws': plan.draws,
            'kept': len(best), 'ratio': ratio[best].mean(),
            'best_draw': best[0], 'distance': distance[best].mean(),
            'distance_all': distance.mean(),
            'distance_nearest': distance.min(),
          }
        )  # fmt: skip
  return pd.DataFrame(rows)


def compare(
  rows: pd.DataFrame, column: str
) -> dict[str, tuple[float, float, float]]:
  """Trained on it against not: metric -> (value, low, high).

  Intervals are of order statistics and exact; without one below six images.
  Metrics: 'member' and 'other', the median distance; 'difference', other minus
  member, its median; 'share_below', of images nearer to the original when it
  was trained on; 'p_value' of the one-sided signed-rank test of that. An image
  that several pairs were attacked on counts once, by its mean.

  Args:
    rows: of `table`, of one mask.
    column: whose distances.
  """
  wide = rows.pivot_table(index='index', columns='member', values=column)
  member, other = wide[1].to_numpy(), wide[0].to_numpy()
  below = int((member < other).sum())
  if np.array_equal(member, other):
    p_value = 1.0
  else:
    p_value = stats.wilcoxon(member, other, alternative='less').pvalue
  return {
    'member': intervals.median(member),
    'other': intervals.median(other),
    'difference': intervals.median(other - member),
    'share_below': (
      below / len(wide), *intervals.binomial(below, len(wide))
    ),
    'p_value': (float(p_value), np.nan, np.nan),
  }  # fmt: skip


def examples(
  plan: InpaintingPlan, run: layout.Run, rows: pd.DataFrame
) -> dict[str, np.ndarray]:
  """Images to look at (paper, figure 14), of each mask.

  The _EXAMPLES with the largest difference, then as many of the others, in
  their order: mask [E], index [E], and uint8 [E, H, W, C] `masked` (hidden
  pixels grey), `member` and `other`: the best draw of the model that trained
  on the image, and of the one that did not.
  """
  out = {name: [] for name in ('mask', 'index', 'masked', 'member', 'other')}
  places = {
    (target // 2, index): place
    for target in range(0, len(plan.keep), 2)
    for place, index in enumerate(attacked(plan)[target // 2])
  }
  for m, mask in enumerate(plan.masks):
    own = rows[rows['mask'] == mask]
    wide = own.pivot_table(
      index=['pair', 'index'], columns='member', values='distance', sort=False
    )
    order = (wide[1] - wide[0]).sort_values(kind='stable').index
    first = list(order[:_EXAMPLES])
    rest = [one for one in wide.index if one not in first]
    for pair, index in first + rest[:_EXAMPLES]:
      known = known_pixels(plan, m, index)
      out['mask'].append(mask)
      out['index'].append(index)
      out['masked'].append(np.where(known, plan.images[index], np.uint8(128)))
      for name, member in (('member', 1), ('other', 0)):
        row = own[
          (own['pair'] == pair)
          & (own['index'] == index)
          & (own['member'] == member)
        ].iloc[0]
        drawn = inpaintings_of(plan, run, row['target'], places[pair, index], m)
        out[name].append(drawn[row['best_draw']])
  return {name: np.array(values) for name, values in out.items()}


def analyse(plan: InpaintingPlan, run: layout.Run) -> None:
  """Reads stored evidence; writes the tables and the examples."""
  rows = table(plan, run)
  layout.write_csv(run.inpainting_images, rows)
  layout.write_npz(run.inpainting_examples, **examples(plan, run, rows))
  counts = {
    'draws': plan.draws,
    'kept': min(plan.kept, plan.draws),
    'num_images': rows['index'].nunique(),
    **plan.settings,
  }
  summary = pd.DataFrame(
    [
      {
        'mask': mask, 'selection': selection, 'metric': metric,
        'value': value, 'low': low, 'high': high, **counts,
      }
      for mask, own in rows.groupby('mask', sort=False)
      for selection, column in (
        ('kept', 'distance'), ('all', 'distance_all'),
        ('nearest', 'distance_nearest'),
      )
      for metric, (value, low, high) in compare(own, column).items()
    ]
  )  # fmt: skip
  layout.write_csv(run.inpainting_summary, summary)
