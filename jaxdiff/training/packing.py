"""Small arrays of a state as one, while a small net trains on a CPU.

A net of a hundred thousand weights has some 150 arrays, most of them biases and
scales, and its state four times as many. To hand them to a program takes a CPU
an eighth of such a net's step, and the optimiser makes hundreds of kernels of
them that do next to nothing each. Checkpoints hold the state as it is.
"""

from collections.abc import Callable, Sequence
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdiff.runtime import compiling, programs
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import block_states
from jaxdiff.training import plan as training_plan


class Packed(NamedTuple):
  """A tree whose small arrays are one.

  Attributes:
    small: [E, n], end to end.
    large: the others, as they are.
  """

  small: Any
  large: list[Any]


class Packing:
  """How states are packed, and unpacked again.

  What is done to packed trees must not depend on which array a number is of, or
  what its shape is: AdamW, norms over all and averages do not.
  """

  def __init__(self, plan: training_plan.TrainPlan, mesh: Mesh):
    """Packs nothing where it does not pay or is not allowed."""
    params = plan.shapes.params
    leaves = jax.tree.leaves(params)
    self._tree: Any = jax.tree.structure(params)
    self._shapes = [leaf.shape for leaf in leaves]
    # Devices of a model keep parts of no smaller array.
    self._small = [leaf.size < mesh_lib.LEAST_CUT for leaf in leaves]
    self._plan, self._mesh = plan, mesh
    self.packs = (
      plan.elementwise
      and plan.private is None
      and compiling.is_small(mesh, programs.numbers_of(params))
      and sum(self._small) > 1
      and len({leaf.dtype for leaf in leaves}) == 1
    )

  def pack(self, tree: Any) -> Any:
    """Packs each part, [E, ...], that is as the net's weights; in a program."""
    return self._packed(tree, _end_to_end)

  def unpack(self, tree: Any) -> Any:
    """The inverse of `pack`."""
    return self._unpacked(tree, _cut_out)

  def pack_placed(self, tree: Any) -> Any:
    """The same of arrays on their devices, which takes no program."""
    return self._packed(tree, _placed_end_to_end)

  def unpack_placed(self, tree: Any) -> Any:
    """The inverse of `pack_placed`; large arrays are the same, not copied."""
    return self._unpacked(tree, _cut_out_placed)

  def abstract_slot(self) -> Any:
    """Shapes and shardings of a packed slot."""
    models = self._mesh.shape[mesh_lib.ENSEMBLE]
    slot = block_states.abstract_states(self._plan, models, self._mesh)
    return self._packed(slot, _end_to_end_shape)

  def _packed(self, tree: Any, join: Callable[[list[Any]], Any]) -> Any:
    def packed(part: Any) -> Any:
      if not self._is_like(part):
        return part
      each = list(zip(jax.tree.leaves(part), self._small, strict=True))
      return Packed(
        join([leaf for leaf, small in each if small]),
        [leaf for leaf, small in each if not small],
      )

    return jax.tree.map(packed, tree, is_leaf=self._is_like)

  def _unpacked(self, tree: Any, cut_out: Callable[..., Any]) -> Any:
    def unpacked(part: Any) -> Any:
      if not isinstance(part, Packed):
        return part
      large, start, leaves = iter(part.large), 0, []
      for shape, small in zip(self._shapes, self._small, strict=True):
        if not small:
          leaves.append(next(large))
          continue
        end = start + math.prod(shape)
        leaves.append(cut_out(part.small, start, end, shape))
        start = end
      return jax.tree.unflatten(self._tree, leaves)

    return jax.tree.map(
      unpacked, tree, is_leaf=lambda part: isinstance(part, Packed)
    )

  def _is_like(self, part: Any) -> bool:
    return self.packs and jax.tree.structure(part) == self._tree


def _end_to_end(leaves: Sequence[jax.Array]) -> jax.Array:
  return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def _cut_out(
  small: jax.Array, start: int, end: int, shape: tuple[int, ...]
) -> jax.Array:
  return small[:, start:end].reshape(len(small), *shape)


def _end_to_end_shape(leaves: Sequence[Any]) -> jax.ShapeDtypeStruct:
  numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
  first = leaves[0]
  return jax.ShapeDtypeStruct(
    (first.shape[0], numbers), first.dtype, sharding=first.sharding
  )


def _placed_end_to_end(leaves: Sequence[jax.Array]) -> jax.Array:
  held = [_of_devices(leaf) for leaf in leaves]
  return _placed(
    {
      device: np.concatenate(
        [each[device].reshape(len(part), -1) for each in held], axis=1
      )
      for device, part in held[0].items()
    },
    _end_to_end_shape(leaves),
  )


def _cut_out_placed(
  small: jax.Array, start: int, end: int, shape: tuple[int, ...]
) -> jax.Array:
  like = jax.ShapeDtypeStruct(
    (len(small), *shape), small.dtype, sharding=small.sharding
  )
  return _placed(
    {
      device: part[:, start:end].reshape(len(part), *shape)
      for device, part in _of_devices(small).items()
    },
    like,
  )


def _of_devices(array: jax.Array) -> dict[jax.Device, np.ndarray]:
  """What each device of this process holds."""
  return {
    shard.device: np.asarray(shard.data) for shard in array.addressable_shards
  }


def _placed(
  parts: dict[jax.Device, np.ndarray], like: jax.ShapeDtypeStruct
) -> jax.Array:
  """The inverse of `_of_devices`: copies, which nothing else writes over."""
  return jax.make_array_from_single_device_arrays(
    like.shape,
    like.sharding,
    [
      jax.device_put(part, device, may_alias=False)
      for device, part in parts.items()
    ],
  )
