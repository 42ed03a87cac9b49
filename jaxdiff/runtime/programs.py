"""Programs that a run compiles: functions of arrays that are not there yet.

A stage says which programs it calls, on which devices and how often, so that
they can be compiled before the run, for devices that are elsewhere.
"""

from collections.abc import Callable, Sequence
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from jaxdiff.runtime import topologies


@dataclasses.dataclass(frozen=True)
class Program:
  """One program, as the run calls it.

  Attributes:
    name: for people: what it does.
    function: jitted.
    args: trees of `jax.ShapeDtypeStruct` with shardings.
    calls: how often the run calls it, one after the other.
    options: further arguments, static.
    x64: whether it is called with 64-bit types enabled.
    held: bytes that lie on each device beside what it takes and makes.
  """

  name: str
  function: Any
  args: tuple[Any, ...]
  calls: float
  options: dict[str, Any] = dataclasses.field(default_factory=dict)
  x64: bool = False
  held: int = 0

  @property
  def mesh(self) -> Mesh:
    """Of the devices that it runs on."""
    return jax.tree.leaves(self.args)[0].sharding.mesh

  @property
  def argument_bytes(self) -> int:
    """Of the arguments, on each device."""
    return bytes_of(self.args)

  def lower(self) -> jax.stages.Lowered:
    """The program before the compiler's work."""
    with jax.enable_x64(self.x64):
      return self.function.lower(*self.args, **self.options)


# Devices -> what a stage compiles for them. The devices are all of a run's.
ProgramsFn = Callable[[Sequence[jax.Device]], list[Program]]


def none(devices: Sequence[jax.Device]) -> list[Program]:
  """Of a stage that compiles nothing of weight."""
  del devices
  return []


def of_one_process(devices: Sequence[jax.Device]) -> list[jax.Device]:
  """Devices like those that one process of a run sees as its own."""
  own = [device for device in devices if device.process_index == 0]
  return topologies.host_like(own) if len(own) < len(devices) else own


def num_processes(devices: Sequence[jax.Device]) -> int:
  """Processes that a run has: one a host."""
  return len({device.process_index for device in devices})


def numbers_of(tree: Any) -> int:
  """Of arrays, or of their shapes, over all devices."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def bytes_of(tree: Any) -> int:
  """Of arrays that are not there yet, on each device."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )


def array(
  mesh: Mesh, spec: PartitionSpec, shape: tuple[int, ...], dtype: Any
) -> jax.ShapeDtypeStruct:
  """An array that is not there yet."""
  return jax.ShapeDtypeStruct(
    shape, np.dtype(dtype), sharding=NamedSharding(mesh, spec)
  )


def like(mesh: Mesh, spec: PartitionSpec, tree: Any) -> Any:
  """Shapes of a tree of arrays that are there."""
  return jax.tree.map(lambda x: array(mesh, spec, x.shape, x.dtype), tree)


def stacked(mesh: Mesh, spec: PartitionSpec, tree: Any, *lead: int) -> Any:
  """A tree of shapes with leading axes before them, under one spec."""
  return jax.tree.map(
    lambda leaf: array(mesh, spec, (*lead, *leaf.shape), leaf.dtype), tree
  )
