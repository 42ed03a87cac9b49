"""The ('ensemble', 'data') mesh: models along one axis, examples the other.

A block of K models is one pytree whose leaves lead with an axis of K, sharded
along 'ensemble'. A device (or row of devices along 'data') holds K / E of
them and works on one at a time: *slot* j is the j-th model of every row. There
is no vmap over weights, which would turn convolutions into grouped ones, and
no collective along 'ensemble'.
"""

from collections.abc import Sequence
import math
import os
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
import numpy as np

ENSEMBLE = 'ensemble'
DATA = 'data'

PER_MODEL = PartitionSpec(ENSEMBLE)
PER_MODEL_AND_EXAMPLE = PartitionSpec(ENSEMBLE, DATA)
PER_EXAMPLE = PartitionSpec(DATA)
REPLICATED = PartitionSpec()

# Devices that share one model's batch on a CPU, and what each must get of it:
# each has the whole of its weights and gradients.
_MOST_CPU_SHARDS, _LEAST_CPU_BATCH = 8, 8
# Numbers of a model's array from which its devices keep a part each.
LEAST_CUT = 2**14


def on_cpu(mesh: Mesh) -> bool:
  """Whether programs for a mesh run on a CPU, wherever they are compiled."""
  return mesh.devices.flat[0].platform == 'cpu'


def must_alternate(mesh: Mesh) -> bool:
  """Whether a program with collectives must end before the next is started.

  XLA's CPU devices share as many threads as there are cores, and a device that
  waits for the others of its row keeps one. Of two programs under way each can
  hold threads that the other needs, and after 40 seconds XLA aborts.
  """
  return on_cpu(mesh) and mesh.shape[DATA] > 1


def use_cpu_devices(count: int) -> None:
  """Splits the CPU backend into `count` devices; call before any JAX work.

  YNNPACK's convolutions gain little from threads. On two cores, two
  small models on two devices train 1.3 times as fast as one after the other,
  and one large model shared by two devices as fast again.
  """
  jax.config.update('jax_num_cpu_devices', count)


def default_cpu_devices(num_models: int, batch_sizes: Sequence[int]) -> int:
  """As many CPU devices as models and batches divide over, at most one a core.

  Args:
    num_models: models trained together.
    batch_sizes: of one model; each must divide over the devices that share it.
  """
  if hasattr(os, 'sched_getaffinity'):
    cores = len(os.sched_getaffinity(0))
  else:
    cores = os.cpu_count() or 1

  def divides(count: int) -> bool:
    shards = count // math.gcd(num_models, count)
    return shards == 1 or (
      shards <= _MOST_CPU_SHARDS
      and all(
        size % shards == 0 and size >= shards * _LEAST_CPU_BATCH
        for size in batch_sizes
      )
    )

  return max(count for count in range(1, cores + 1) if divides(count))


def make(
  num_models: int,
  devices: list[jax.Device] | None = None,
  shards: int = 0,
) -> Mesh:
  """A mesh for a block of models: as many rows as divide both counts.

  Args:
    num_models: models trained together.
    devices: defaults to all devices.
    shards: devices that share a model; 0 chooses.

  Returns:
    Mesh of shape (E, D / E) with axes ('ensemble', 'data'), where E is the
    largest number that divides both `num_models` and the device count D, or
    D / shards.

  Raises:
    ValueError: if `shards` does not go with the counts.
  """
  devices = jax.devices() if devices is None else devices
  rows = math.gcd(num_models, len(devices))
  if shards:
    rows = len(devices) // shards
    if rows * shards != len(devices) or num_models % max(rows, 1):
      raise ValueError(
        f'train.devices_per_model: {shards} leaves rows of {len(devices)} '
        f'devices over which {num_models} models do not divide; 0 chooses'
      )
  return jax.make_mesh(
    (rows, len(devices) // rows),
    (ENSEMBLE, DATA),
    axis_types=(AxisType.Auto,) * 2,
    devices=devices,
  )


def put(mesh: Mesh, tree: Any, spec: PartitionSpec) -> Any:
  """Places every leaf of a host tree on the mesh under one spec.

  Where other processes hold a part of the mesh, each places its own.
  """
  sharding = NamedSharding(mesh, spec)
  if sharding.is_fully_addressable:
    return jax.device_put(tree, sharding)

  def put_leaf(leaf: Any) -> jax.Array:
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

  return jax.tree.map(put_leaf, tree)


def num_slots(mesh: Mesh, num_models: int) -> int:
  """Models that each row of devices holds."""
  return num_models // mesh.shape[ENSEMBLE]


def slot_models(mesh: Mesh, num_models: int, slot: int) -> np.ndarray:
  """Positions in the block of the models of one slot: int [E]."""
  slots = num_slots(mesh, num_models)
  return np.arange(mesh.shape[ENSEMBLE]) * slots + slot


def split_slots(mesh: Mesh, tree: Any) -> list[Any]:
  """A block [K, ...] as one tree [E, ...] a slot; nothing leaves its device.

  Slots are trees of their own because updating a slice of the stack copies all
  of it where the compiler does not work in place. A single slot is the block.
  """
  leaves = jax.tree.leaves(tree)
  if not leaves:
    return [tree]
  slots = num_slots(mesh, leaves[0].shape[0])

  if slots == 1:
    return [tree]

  def of_slot(local: Any, slot: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[slot : slot + 1], local)

  specs = _specs(tree)
  split = jax.shard_map(
    lambda local: [of_slot(local, slot) for slot in range(slots)],
    mesh=mesh,
    in_specs=(specs,),
    out_specs=[specs] * slots,
  )
  return jax.jit(split)(tree)


def join_slots(mesh: Mesh, slots: list[Any]) -> Any:
  """The inverse of `split_slots`; the slots stay."""
  if len(slots) == 1:
    return slots[0]
  return join_program(mesh, slots)(slots)


def join_program(mesh: Mesh, slots: list[Any]) -> Any:
  """What `join_slots` calls with several slots, or shapes of them; jitted."""
  specs = _specs(slots[0])
  join = jax.shard_map(
    lambda local: jax.tree.map(lambda *x: jnp.concatenate(x), *local),
    mesh=mesh,
    in_specs=([specs] * len(slots),),
    out_specs=specs,
  )
  return jax.jit(join)


def _specs(tree: Any) -> Any:
  return jax.tree.map(lambda leaf: leaf.sharding.spec, tree)


def cut_spec(mesh: Mesh, shape: tuple[int, ...]) -> PartitionSpec:
  """PER_MODEL for [K, ...] of which each device of a model keeps a part.

  Its longest axis that divides among them is cut along 'data'. What is small,
  or does not divide, is whole on each.
  """
  shards = mesh.shape[DATA]
  axes = [axis for axis in range(1, len(shape)) if shape[axis] % shards == 0]
  if shards == 1 or not axes or math.prod(shape[1:]) < LEAST_CUT:
    return PER_MODEL
  longest = max(axes, key=lambda axis: shape[axis])
  return PartitionSpec(ENSEMBLE, *[None] * (longest - 1), DATA)


def cut_shapes(mesh: Mesh, tree: Any) -> Any:
  """Shapes [K, ...] with their shardings by `cut_spec`."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.shape,
      leaf.dtype,
      sharding=NamedSharding(mesh, cut_spec(mesh, leaf.shape)),
    ),
    tree,
  )


def own_model(tree: Any) -> Any:
  """Inside shard_map: the one model of a slot, without its axis."""
  return jax.tree.map(lambda leaf: leaf[0], tree)


def add_model_axis(tree: Any) -> Any:
  """Inside shard_map: leading axis of one for a PER_MODEL output."""
  return jax.tree.map(lambda leaf: leaf[None], tree)
