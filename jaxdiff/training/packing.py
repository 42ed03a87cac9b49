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
    self._weights = programs.numbers_of(params)
    self._plan, self._mesh = plan, mesh
    self.packs = (
      plan.elementwise
      and plan.private is None
      and compiling.is_small(mesh, self._weights)
      and sum(self._small) > 1
    )

  def pack(
    self, tree: Any, join: Callable[[Sequence[Any]], Any] | None = None
  ) -> Any:
    """Packs each part of a tree that is as the net's weights.

    Args:
      tree: leaves [E, ...].
      join: leaves -> [E, n]; puts arrays end to end if None.
    """
    join = join or _end_to_end

    def packed(part: Any) -> Any:
      if not self._is_like(part):
        return part
      each = list(zip(jax.tree.leaves(part), self._small, strict=True))
      return Packed(
        join([leaf for leaf, small in each if small]),
        [leaf for leaf, small in each if not small],
      )

    return jax.tree.map(packed, tree, is_leaf=self._is_like)

  def unpack(self, tree: Any) -> Any:
    """The inverse of `pack`."""

    def unpacked(part: Any) -> Any:
      if not isinstance(part, Packed):
        return part
      large, start, leaves = iter(part.large), 0, []
      for shape, small in zip(self._shapes, self._small, strict=True):
        if not small:
          leaves.append(next(large))
          continue
        end = start + math.prod(shape)
        flat = part.small[:, start:end]
        leaves.append(flat.reshape(len(flat), *shape))
        start = end
      return jax.tree.unflatten(self._tree, leaves)

    return jax.tree.map(
      unpacked, tree, is_leaf=lambda part: isinstance(part, Packed)
    )

  def abstract_slot(self) -> Any:
    """Shapes and shardings of a packed slot."""
    return self.pack(self._unpacked_slot(), _end_to_end_shape)

  def pack_slots(self, slots: Sequence[Any]) -> list[Any]:
    """Of `mesh.split_slots`."""
    return self._each(self.pack, slots, self.abstract_slot())

  def unpack_slots(self, slots: Sequence[Any]) -> list[Any]:
    """The inverse of `pack_slots`; the slots stay."""
    return self._each(self.unpack, slots, self._unpacked_slot())

  def _each(self, fn: Any, slots: Sequence[Any], like: Any) -> list[Any]:
    if not self.packs:
      return list(slots)
    jitted = jax.jit(
      fn,
      out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like),
      compiler_options=compiling.for_training(self._mesh, self._weights),
    )
    return [jitted(slot) for slot in slots]

  def _unpacked_slot(self) -> Any:
    models = self._mesh.shape[mesh_lib.ENSEMBLE]
    return block_states.abstract_states(self._plan, models, self._mesh)

  def _is_like(self, part: Any) -> bool:
    return self.packs and jax.tree.structure(part) == self._tree


def _end_to_end(leaves: Sequence[jax.Array]) -> jax.Array:
  return jnp.concatenate([x.reshape(len(x), -1) for x in leaves], axis=1)


def _end_to_end_shape(
  leaves: Sequence[jax.ShapeDtypeStruct],
) -> jax.ShapeDtypeStruct:
  numbers = sum(math.prod(leaf.shape[1:]) for leaf in leaves)
  first = leaves[0]
  return jax.ShapeDtypeStruct(
    (first.shape[0], numbers), first.dtype, sharding=first.sharding
  )
