"""States of a block: fresh, and restored from its checkpoints."""

import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np

from jaxdiff import inputs
from jaxdiff.runs import checkpoints, layout
from jaxdiff.runtime import hardware, multihost, prng
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


def init_one(
  plan: training_plan.TrainPlan, model: jax.Array
) -> train_state.TrainState:
  """The state of one model before its first step."""
  root = prng.root(plan.ensemble.seed, 'init')
  params = plan.init_fn(jax.random.fold_in(root, model))
  return train_state.create(params, plan.tx)


def init_program(plan: training_plan.TrainPlan) -> jax.stages.Wrapped:
  """`init_one` on one device."""
  return jax.jit(functools.partial(init_one, plan))


def init_states(
  plan: training_plan.TrainPlan, models: range, mesh: Mesh
) -> train_state.TrainState:
  """Fresh states of a block, stacked [K, ...] and sharded along 'ensemble'."""
  init = init_program(plan)

  def stack(*leaves: jax.Array) -> jax.Array:
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    for leaf in leaves:
      leaf.delete()  # leaf by leaf: memory never holds all states twice
    return mesh_lib.put(mesh, stacked, mesh_lib.PER_MODEL)

  states = jax.tree.map(stack, *(init(model) for model in models))
  hardware.give_back_memory()
  return states


def abstract_states(
  plan: training_plan.TrainPlan, num_models: int, mesh: Mesh
) -> train_state.TrainState:
  """Shapes and shardings of a block's states, without making any."""
  sharding = NamedSharding(mesh, mesh_lib.PER_MODEL)
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (num_models, *leaf.shape), leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(functools.partial(init_one, plan), 0),
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
    like = abstract_states(plan, len(block.models), mesh)
    return saved.restore(step, like).ema_params
  finally:
    saved.close()
