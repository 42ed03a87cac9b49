"""States of a block: fresh, and restored from its checkpoints."""

from collections.abc import Callable
import functools
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from jaxdiff import inputs
from jaxdiff.runs import checkpoints, layout
from jaxdiff.runtime import hardware, multihost, programs
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import plan as training_plan
from jaxdiff.training import train_state


def is_trained(plan: training_plan.TrainPlan, block: layout.ModelBlock) -> bool:
  """True when the last checkpoint of a block stands and is whole."""
  if not _has_checkpoints(block):
    return False
  saved = checkpoints.Checkpoints(
    block.checkpoints, plan.max_to_keep, block.identity
  )
  try:
    return saved.newest_whole() == plan.num_steps
  finally:
    saved.close()


def _has_checkpoints(block: layout.ModelBlock) -> bool:
  """As the first process sees it: it may make the folder before others look."""
  return bool(multihost.agree(np.array(block.checkpoints.exists())))


def init_slots(
  plan: training_plan.TrainPlan, models: range, mesh: Mesh
) -> list[train_state.TrainState]:
  """Fresh states of a block: [E, ...] along 'ensemble', a tree a slot.

  A process makes those that lie on its devices, and keeps on the first of them
  one at a time: hundreds of models are more than a device holds.
  """
  init = jax.jit(plan.init)
  shardings = [
    leaf.sharding
    for leaf in jax.tree.leaves(abstract_states(plan, len(models), mesh))
  ]
  here = jax.process_index()
  own = [any(x.process_index == here for x in row) for row in mesh.devices]

  def of_slot(slot: int) -> train_state.TrainState:
    numbers = models.start + mesh_lib.slot_models(mesh, len(models), slot)
    made, leaves = {}, []
    for place in np.flatnonzero(own).tolist():
      state, tree = jax.tree.flatten(init(int(numbers[place])))
      made[place] = [np.asarray(leaf) for leaf in state]
    first = own.index(True)
    while made[first]:
      # Leaf by leaf: memory never holds all states twice.
      last = {place: state.pop() for place, state in made.items()}
      shape = (len(numbers), *last[first].shape)

      def rows(index, last=last) -> np.ndarray:
        places = range(len(own))[index[0]]
        return np.stack([last[place][index[1:]] for place in places])

      sharding = shardings[len(made[first])]
      leaves.append(jax.make_array_from_callback(shape, sharding, rows))
    return jax.tree.unflatten(tree, leaves[::-1])

  slots = [of_slot(k) for k in range(mesh_lib.num_slots(mesh, len(models)))]
  hardware.give_back_memory()
  return slots


def init_states(
  plan: training_plan.TrainPlan, models: range, mesh: Mesh
) -> train_state.TrainState:
  """The same, stacked [K, ...] along 'ensemble'."""
  return mesh_lib.join_slots(mesh, init_slots(plan, models, mesh))


def abstract_states(
  plan: training_plan.TrainPlan, num_models: int, mesh: Mesh
) -> train_state.TrainState:
  """Shapes and shardings of a block's states, without making any.

  Where a model has several devices, each keeps a part of the weight average and
  of the optimiser's state (Rajbhandari et al. 2020, "ZeRO", stage 1).
  """

  def whole(shape: tuple[int, ...]) -> PartitionSpec:
    del shape
    return mesh_lib.PER_MODEL

  def placed(
    tree: Any, spec: Callable[[tuple[int, ...]], PartitionSpec]
  ) -> Any:
    def leaf_of(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
      shape = (num_models, *leaf.shape)
      return programs.array(mesh, spec(shape), shape, leaf.dtype)

    return jax.tree.map(leaf_of, tree)

  cut = functools.partial(mesh_lib.cut_spec, mesh)
  state = plan.shapes
  return train_state.TrainState(
    step=placed(state.step, whole),
    params=placed(state.params, whole),
    ema_params=placed(state.ema_params, cut),
    opt_state=placed(state.opt_state, cut),
  )


def whole_steps(
  plan: training_plan.TrainPlan, block: layout.ModelBlock
) -> list[int]:
  """Steps of a block's whole checkpoints, rising."""
  if not _has_checkpoints(block):
    return []
  saved = checkpoints.Checkpoints(
    block.checkpoints, plan.max_to_keep, block.identity
  )
  try:
    return saved.all_whole()
  finally:
    saved.close()


def restore_ema(
  plan: training_plan.TrainPlan,
  block: layout.ModelBlock,
  mesh: Mesh,
  step: int | None = None,
) -> Any:
  """Averaged weights of a block, [K, ...] along 'ensemble'.

  Args:
    plan: what was trained.
    block: which models, and where.
    mesh: of the restored weights.
    step: one of `whole_steps`; the end of training if None.

  Raises:
    InputError: if the block is not trained to the end.
  """
  if step is None:
    step = plan.num_steps
    if not is_trained(plan, block):
      raise inputs.InputError(
        f'{block.checkpoints} has no whole checkpoint of step {step}: run the '
        'train stage first'
      )
  saved = checkpoints.Checkpoints(
    block.checkpoints, plan.max_to_keep, block.identity
  )
  try:
    # A quarter of what is there: neither weights nor the optimiser's state.
    like = {'ema_params': abstract_states(plan, len(block.models), mesh).params}
    return saved.restore_fields(step, like)['ema_params']
  finally:
    saved.close()
