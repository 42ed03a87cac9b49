"""How training images reach the devices: kept there, or streamed from the host.

A batch is a function of (model, step) alone (`data/batches.py`), so both ways
train the same model, and a stopped run goes on anywhere without any state of a
reader. A set that fits lies on every device, and a step picks its rows there. A
larger one stays with the host (in memory, or in a file mapped into it), and
grain's threads read ahead: each process only the rows of its own devices.
"""

from collections.abc import Iterator
import functools
import itertools
import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
import numpy as np

from jaxdiff.data import batches, datasets
from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng, programs, progress
from jaxdiff.training import plan as training_plan
from jaxdiff.training import train_step

# Threads that read, and batches ahead of training.
_THREADS, _AHEAD = 4, 8


class Plan(Protocol):
  """What feeding reads of a `plan.TrainPlan`."""

  @property
  def examples(self) -> examples_lib.Examples: ...

  @property
  def ensemble(self) -> ensemble_lib.Ensemble: ...

  @property
  def num_steps(self) -> int: ...

  @property
  def batch_size(self) -> int: ...

  @property
  def rows(self) -> int: ...

  @property
  def private(self) -> training_plan.Private | None: ...

  @property
  def device_bytes(self) -> int: ...


def streams(plan: Plan) -> bool:
  """True when the images are more than a device shall hold."""
  return plan.examples.images.nbytes > plan.device_bytes


def own_rows(
  plan: Plan, models: range, keep: np.ndarray, mesh: Mesh, start: int = 0
) -> list[dict[str, jax.Array]]:
  """Which rows are whose: a tree [E, ...] a slot.

  Args:
    plan: images, and how many a batch.
    models: of the block.
    keep: bool [K, N], their training sets.
    mesh: of the block.
    start: steps done; past the first phase of private training, zeros stand for
      its images.
  """
  counts = keep.sum(axis=1).astype(np.int32)
  members = np.zeros((len(keep), counts.max()), np.int32)
  for row, mask in zip(members, keep, strict=True):
    row[: mask.sum()] = np.flatnonzero(mask)
  per_model = {
    'model': np.asarray(models, np.int32),
    'members': members,
    'count': counts,
  }
  if plan.private:
    per_model['threshold'] = np.full(len(keep), _threshold(plan), np.uint32)
    if plan.private.warm_images:
      examples = plan.examples
      shape = len(keep), plan.private.warm_count, *examples.shape
      per_model['warm'] = np.zeros(shape, np.float32)
      if start < plan.private.warm_steps:
        with progress.track('first images', len(keep), 'models') as advance:
          for row, (model, mask) in enumerate(zip(models, keep, strict=True)):
            per_model['warm'][row] = plan.private.warm_images(
              examples.images[mask], examples.cond_of(mask), model
            )
            advance(1)
  return mesh_lib.split_slots(
    mesh, mesh_lib.put(mesh, per_model, mesh_lib.PER_MODEL)
  )


def _threshold(plan: Plan) -> int:
  """Of 2^32: the share of examples that is drawn, the same of all models."""
  assert plan.private is not None
  return min((plan.batch_size << 32) // plan.private.count, 2**32 - 1)


def abstract_rows(plan: Plan, keep: np.ndarray, mesh: Mesh) -> dict[str, Any]:
  """Shapes of what `own_rows` gives for a slot: `keep` [K, N] of a block."""
  models = mesh.shape[mesh_lib.ENSEMBLE]
  largest = int(keep.sum(axis=1).max())
  shapes: dict[str, tuple[tuple[int, ...], Any]] = {
    'model': ((), np.int32),
    'members': ((largest,), np.int32),
    'count': ((), np.int32),
  }
  if plan.private:
    shapes['threshold'] = ((), np.uint32)
    if plan.private.warm_images:
      shape = (plan.private.warm_count, *plan.examples.shape)
      shapes['warm'] = (shape, np.float32)
  return {
    name: programs.array(mesh, mesh_lib.PER_MODEL, (models, *shape), dtype)
    for name, (shape, dtype) in shapes.items()
  }


def abstract_feed(plan: Plan, mesh: Mesh) -> dict[str, Any]:
  """Shapes of what `feed` gives."""
  shape: tuple[int, ...] = (len(plan.examples), math.prod(plan.examples.shape))
  if streams(plan):
    shape = (mesh.shape[mesh_lib.ENSEMBLE], plan.rows, shape[1])
  spec, cond = pixels_spec(plan), plan.examples.cond
  return {
    'images': programs.array(mesh, spec, shape, np.uint8),
    'labels': (
      None if cond is None else programs.array(
        mesh, spec, (*shape[:-1], *cond.shape[1:]), cond.dtype
      )
    ),
  }  # fmt: skip


def pixels_spec(plan: Plan):
  """PartitionSpec of what `feed` gives."""
  return (
    mesh_lib.PER_MODEL_AND_EXAMPLE if streams(plan) else mesh_lib.REPLICATED
  )


def feed(
  plan: Plan, models: range, keep: np.ndarray, mesh: Mesh, start: int
) -> Iterator[dict[str, Any]]:
  """Images and labels for every slot of every step after `start`.

  Args:
    plan: images, and how many a batch.
    models: of the block.
    keep: bool [K, N], their training sets.
    mesh: of the block.
    start: steps done.

  Returns:
    Dicts of `images` and `labels` (or None) on the devices: always the same
    whole set [N, H W C] if it fits, otherwise the batch [E, B, H W C].
  """
  if not streams(plan):
    whole = {
      'images': _flat(plan.examples.images),
      'labels': plan.examples.cond,
    }
    return itertools.repeat(mesh_lib.put(mesh, whole, mesh_lib.REPLICATED))
  import grain

  source = _Batches(plan, models, keep, mesh)
  left = grain.MapDataset.source(source)[start * source.slots :]
  options = grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=_AHEAD)
  return iter(left.to_iter_dataset(options))


def batch_of(
  plan: Plan,
  model: dict[str, jax.Array],
  pixels: dict[str, Any],
  step: jax.Array,
  *,
  shards: int,
  smallest: int,
  largest: int,
) -> train_step.Batch:
  """Inside shard_map: this device's rows of the batch of one model.

  Args:
    plan: how many a batch, and whether to mirror.
    model: this model's of `own_rows`.
    pixels: this device's part of what `feed` gives.
    step: 0-based.
    shards: devices that share the batch.
    smallest: training set of a block.
    largest: likewise.
  """
  shuffle_key, flip_key = _data_keys(plan.ensemble.seed, model['model'])
  position = number = _positions(plan.rows, shards)
  real = place = None
  if plan.private:
    place = batches.poisson_positions(
      shuffle_key,
      step,
      model['count'],
      model['threshold'],
      size=plan.rows,
      largest=largest,
    )
    real = place[position] >= 0
    place = jnp.maximum(place, 0)
    number = model['members'][place[position]]
  if streams(plan):
    images, labels = mesh_lib.own_model((pixels['images'], pixels['labels']))
  else:
    if place is None:
      place = batches.batch_positions(
        shuffle_key,
        step,
        model['count'],
        size=plan.batch_size,
        smallest=smallest,
        largest=largest,
      )
    row = model['members'][place[position]]
    images = pixels['images'][row]
    labels = None if pixels['labels'] is None else pixels['labels'][row]
  x0 = datasets.to_model_range(images.reshape(-1, *plan.examples.shape))
  # Of private training the loss of an image is that of its mirror image too.
  if plan.examples.flip and not plan.private:
    flip_keys = prng.fold_each(jax.random.fold_in(flip_key, step), position)
    mirrored = jax.vmap(jax.random.bernoulli)(flip_keys)
    x0 = jnp.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
  return train_step.Batch(x0, labels, number, real)


def _positions(rows: int, shards: int) -> jax.Array:
  """Rows of the whole batch that this device has."""
  local = rows // shards
  return jax.lax.axis_index(mesh_lib.DATA) * local + jnp.arange(local)


def warm_batch(
  plan: Plan, model: dict[str, jax.Array], step: jax.Array, shards: int
) -> train_step.Batch:
  """The same of the first phase of private training."""
  private = plan.private
  assert private is not None
  root = prng.root(plan.ensemble.seed, 'warm')
  key = jax.random.fold_in(jax.random.fold_in(root, model['model']), step)
  position = _positions(private.warm_rows, shards)
  keys = prng.fold_each(key, position)
  row = jax.vmap(
    lambda key: jax.random.randint(key, (), 0, private.warm_count)
  )(keys)
  cond = None
  if private.warm_cond is not None:
    cond = jnp.asarray(private.warm_cond)[row]
  return train_step.Batch(model['warm'][row], cond, position)


def _data_keys(
  seed: int, model: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
  """Keys of a model's data order and of its mirror images."""
  key = jax.random.fold_in(prng.root(seed, 'data'), model)
  first, second = jax.random.split(key)
  return first, second


class _Batches:
  """Random access by (step, slot) to batches on the devices, for grain."""

  def __init__(self, plan: Plan, models: range, keep: np.ndarray, mesh: Mesh):
    self.slots = mesh_lib.num_slots(mesh, len(models))
    self._plan, self._models, self._mesh = plan, models, mesh
    self._members = [np.flatnonzero(mask) for mask in keep]
    self._largest = max(map(len, self._members))
    # The epoch at hand and the next of every model.
    self._order = functools.lru_cache(2 * len(models))(self._shuffle)
    self._poisson = functools.lru_cache(8 * len(models))(self._drawn)

  def __len__(self) -> int:
    return self._plan.num_steps * self.slots

  def __getitem__(self, number: int) -> dict[str, Any]:
    step, slot = divmod(number, self.slots)
    of = mesh_lib.slot_models(self._mesh, len(self._models), slot)
    sharding = NamedSharding(self._mesh, mesh_lib.PER_MODEL_AND_EXAMPLE)

    def place(array: np.ndarray) -> jax.Array:
      shape = (len(of), self._plan.rows, *array.shape[1:])

      def part(index) -> np.ndarray:
        rows = [self._rows(model, step)[index[1]] for model in of[index[0]]]
        return np.stack([array[some] for some in rows])

      return jax.make_array_from_callback(shape, sharding, part)

    labels = self._plan.examples.cond
    return {
      'images': place(_flat(self._plan.examples.images)),
      'labels': None if labels is None else place(labels),
    }

  def _rows(self, place: int, step: int) -> np.ndarray:
    """As `batches.batch_positions` has them: int [B] into the images."""
    members, size = self._members[place], self._plan.batch_size
    if self._plan.private:
      return members[np.maximum(self._poisson(place, step), 0)]
    epoch, offset = np.divmod(step * size + np.arange(size), len(members))
    position = np.empty(size, np.int64)
    for number in range(epoch[0], epoch[-1] + 1):
      here = epoch == number
      position[here] = self._order(place, number)[offset[here]]
    return members[position]

  def _drawn(self, place: int, step: int) -> np.ndarray:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      key, _ = _data_keys(self._plan.ensemble.seed, self._models[place])
      count = len(self._members[place])
      return np.asarray(
        _poisson(
          key, np.uint32(step), np.uint32(count),
          np.uint32(_threshold(self._plan)),
          size=self._plan.rows, largest=self._largest,
        )
      )  # fmt: skip

  def _shuffle(self, place: int, epoch: int) -> np.ndarray:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      key, _ = _data_keys(self._plan.ensemble.seed, self._models[place])
      count = np.uint32(len(self._members[place]))
      order = _shuffle(key, np.uint32(epoch), count, largest=self._largest)
      return np.asarray(order)


def _flat(images: np.ndarray) -> np.ndarray:
  """[N, H, W, C] -> [N, H W C].

  A TPU keeps the last two axes in tiles of at least 8 x 128 numbers: of images
  it would copy the whole set, at every step, before it takes some rows.
  """
  return images.reshape(len(images), -1)


_shuffle = jax.jit(batches.shuffle, static_argnames='largest')
_poisson = jax.jit(
  batches.poisson_positions, static_argnames=('size', 'largest')
)
