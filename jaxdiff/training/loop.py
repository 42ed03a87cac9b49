"""Training a block of models: restore, step, log, checkpoint."""

from collections.abc import Sequence
import functools
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.runs import checkpoints, files, layout
from jaxdiff.runtime import (
  compiling,
  multihost,
  preemption,
  prng,
  programs,
  progress,
)
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import (
  block_states,
  input_pipeline,
  metrics_buffer,
  metrics_parts,
  packing,
  profiling,
  tensorboard,
  train_state,
  train_step,
)
from jaxdiff.training import plan as training_plan


def fit(plan: training_plan.TrainPlan, run: layout.Run) -> None:
  """Trains every block that is not yet finished, then merges metrics.csv."""
  blocks = plan.ensemble.blocks(run)
  step_fns = StepFns(plan)
  for block in blocks:
    if not block_states.is_trained(plan, block):
      fit_block(plan, block, step_fns=step_fns)
  if not multihost.is_first():
    return
  logged = {*range(plan.log_every, plan.num_steps, plan.log_every)}
  tables = [
    metrics_parts.read_all(block, logged | {plan.num_steps}) for block in blocks
  ]
  merged = pd.concat(tables, ignore_index=True).sort_values(
    ['model', 'step', 'name'], kind='stable'
  )
  files.write_csv(run.metrics, merged)


def fit_block(
  plan: training_plan.TrainPlan,
  block: layout.ModelBlock,
  mesh: Mesh | None = None,
  step_fns: 'StepFns | None' = None,
) -> train_state.TrainState:
  """Trains one block from its newest whole checkpoint to the end.

  Args:
    plan: what to train.
    block: which models, and where.
    mesh: defaults to all devices.
    step_fns: those of blocks before.

  Returns:
    The final states, stacked [K, ...].

  Raises:
    FloatingPointError: when a loss is not finite, naming step, model and the
      last good checkpoint.
  """
  num_models = len(block.models)
  if mesh is None:
    mesh = mesh_lib.make(num_models, shards=plan.ensemble.devices_per_model)
  keep = plan.keep(block)
  first = multihost.is_first()
  if first:
    files.write_npy(block.keep, keep)
  logging.info(
    'train: models %d to %d, %d steps, %d models a device, %d devices a model',
    block.first, block.last, plan.num_steps,
    mesh_lib.num_slots(mesh, num_models), mesh.shape[mesh_lib.DATA],
  )  # fmt: skip

  saved = checkpoints.Checkpoints(
    block.checkpoints, plan.max_to_keep, block.identity
  )
  start = saved.newest_whole() or 0
  if first:
    # Of checkpoints that were damaged since: these steps are trained again.
    for part in block.metrics.glob('*.csv'):
      if part.stem.isdigit() and int(part.stem) > start:
        part.unlink()
  if start:
    # What is lost of the figures is said before the rest is trained.
    before = {*range(plan.log_every, start + 1, plan.log_every)}
    metrics_parts.read_all(block, before, last=start)
    states = saved.restore(
      start, block_states.abstract_states(plan, num_models, mesh)
    )
    slots = mesh_lib.split_slots(mesh, states)
    del states
  else:
    slots = block_states.init_slots(plan, block.models, mesh)
  packed = packing.Packing(plan, mesh)
  for slot in range(len(slots)):
    slots[slot] = packed.pack_placed(slots[slot])
  rows_of_slot = input_pipeline.own_rows(plan, block.models, keep, mesh, start)
  pixels = input_pipeline.feed(plan, block.models, keep, mesh, start)
  warm_steps = plan.private.warm_steps if plan.private else 0
  step_fns = step_fns or StepFns(plan)
  step_fn = step_fns.get(mesh, keep, start < warm_steps)

  alternate = mesh_lib.must_alternate(mesh)
  total, done = plan.num_steps * num_models, start * num_models
  rows, logged = [], start
  alone = jax.process_count() == 1
  pending = metrics_buffer.read(block, start, mesh)
  if start % plan.log_every and start < plan.num_steps and not pending:
    raise inputs.InputError(
      f'{block.metrics_pending(start)} is missing or torn: restore it, or '
      f'remove {block.path} to train these models again'
    )
  metered = functools.partial(
    profiling.Meter,
    slots=len(slots),
    images=num_models * plan.batch_size,
    devices=mesh.size,
  )
  meter = metered(step_fn)
  with (
    progress.track('train', total, 'model-steps', done) as advance,
    profiling.tracer(block.profile, plan.profile_steps) as trace,
  ):
    for step in range(start + 1, plan.num_steps + 1):
      if step == warm_steps + 1 and step > start + 1:
        step_fn = step_fns.get(mesh, keep)
        meter = metered(step_fn)
      for slot in range(len(slots)):
        slots[slot], metrics = step_fn(
          slots[slot], rows_of_slot[slot], next(pixels)
        )
        pending.append((slot, metrics))
        if alternate:
          jax.block_until_ready(metrics)
      meter.step()
      trace(metrics)
      if step % plan.log_every == 0 or step == plan.num_steps:
        means = metrics_buffer.means(multihost.fetch(pending), mesh, num_models)
        _check_finite(means, step, block, saved)
        pending = []
        for name, values in means.items():
          rows += [
            (model, step, name, value)
            for model, value in zip(block.models, values, strict=True)
          ]
        advance(
          num_models * (step - logged),
          **_shown(means),
          **meter.read(),
        )
        logged = step
      # Processes agree when they fetch figures: asking costs a round of all.
      stop = preemption.asked()
      if not alone:
        stop = not pending and multihost.any_of(stop)
      last = step == plan.num_steps
      if step % plan.checkpoint_every == 0 or last or stop:
        if first:
          part = pd.DataFrame(rows, columns=['model', 'step', 'name', 'value'])
          metrics_parts.write_part(block.metrics_part(step), part)
          tensorboard.write_part(block, step, part)
          metrics_buffer.write(block, step, pending, mesh)
        joined = mesh_lib.join_slots(mesh, slots)
        saved.save(step, packed.unpack_placed(joined))
        del joined
        rows = []
        if first:
          metrics_buffer.forget(block, but=saved.kept())
      if stop:
        saved.close()
        preemption.leave()
  saved.close()
  return packed.unpack_placed(mesh_lib.join_slots(mesh, slots))


class StepFns:
  """Steps that are compiled: blocks of like shape share one.

  Tracing and compiling a large net takes minutes, of each of many blocks.
  """

  def __init__(self, plan: training_plan.TrainPlan):
    self._plan = plan
    self._made: dict[tuple[Any, ...], profiling.Program] = {}

  def get(
    self, mesh: Mesh, keep: np.ndarray, warm: bool = False
  ) -> profiling.Program:
    """As `make_step_fn`."""
    counts = keep.sum(axis=1)
    # What its trace depends on: the models themselves are arguments.
    key = mesh, len(keep), int(counts.min()), int(counts.max()), warm
    if key not in self._made:
      self._made[key] = make_step_fn(self._plan, mesh, keep, warm)
    return self._made[key]


def make_step_fn(
  plan: training_plan.TrainPlan,
  mesh: Mesh,
  keep: np.ndarray,
  warm: bool = False,
) -> profiling.Program:
  """(states, own, pixels) of one slot -> (states, metrics [E]).

  The states are those of `packing.Packing(plan, mesh)`, and donated unless the
  older emitters compile it. The first phase of private training has a program
  of its own, which no conditional on the step carries along to the end.

  Args:
    plan: of training.
    mesh: of a block.
    keep: bool [K, N], which image each of its models trains on.
    warm: of the first phase of private training.
  """
  shards = mesh.shape[mesh_lib.DATA]
  rows = plan.rows
  if warm:
    assert plan.private is not None
    rows = plan.private.warm_rows
  if rows % shards:
    raise inputs.InputError(
      f'train.batch_size: {rows} rows do not divide over {shards} devices '
      'along data'
    )
  counts = keep.sum(axis=1)
  smallest, largest = int(counts.min()), int(counts.max())

  def gradients(params, steps, rows_of_slot, pixels):
    params, step, model = mesh_lib.own_model((params, steps, rows_of_slot))
    key = jax.random.fold_in(
      jax.random.fold_in(
        prng.root(plan.ensemble.seed, 'noise'), model['model']
      ),
      step,
    )
    if warm:
      assert plan.private is not None and plan.private.warm_grad_fn is not None
      batch = input_pipeline.warm_batch(plan, model, step, shards)
      return mesh_lib.add_model_axis(
        plan.private.warm_grad_fn(params, batch, key)
      )
    batch = input_pipeline.batch_of(
      plan,
      model,
      pixels,
      step,
      shards=shards,
      smallest=smallest,
      largest=largest,
    )
    return mesh_lib.add_model_axis(plan.grad_fn(params, batch, key))

  sharded = jax.shard_map(
    gradients,
    mesh=mesh,
    in_specs=(*[mesh_lib.PER_MODEL] * 3, input_pipeline.pixels_spec(plan)),
    out_specs=mesh_lib.PER_MODEL,
  )
  update = functools.partial(
    train_step.update, tx=plan.tx, ema_decay=plan.ema_decay
  )

  packed = packing.Packing(plan, mesh)

  def one_slot(states, rows_of_slot, pixels):
    params = packed.unpack(states.params)
    found = sharded(params, states.step, rows_of_slot, pixels)
    # Outside of shard_map: each device updates its part of what is cut.
    return jax.vmap(update)(states, *packed.pack(found))

  each = NamedSharding(mesh, mesh_lib.PER_MODEL)
  shardings = (
    jax.tree.map(lambda leaf: leaf.sharding, packed.abstract_slot()),
    each,
  )
  # Gradients of single examples are other convolutions, not measured.
  how = older = None
  if packed.packs:
    how = older = compiling.older_emitters()
  elif plan.private is None:
    weights = programs.numbers_of(plan.shapes.params)
    how = compiling.options(mesh, weights)
  return profiling.Program(
    jax.jit(
      one_slot,
      donate_argnums=() if older else 0,
      out_shardings=shardings,
      compiler_options=how,
    )
  )


def programs_of(
  plan: training_plan.TrainPlan,
  devices: Sequence[jax.Device],
  name: str = 'train',
) -> list[programs.Program]:
  """What training compiles: a model's first state, and its step."""
  mesh = mesh_lib.make(1, list(devices)[:1])
  number = programs.array(mesh, mesh_lib.REPLICATED, (), np.int32)
  out = [
    programs.Program(
      f'{name}: initialisation',
      jax.jit(plan.init),
      (number,),
      plan.ensemble.num_models,
    )
  ]
  for place in plan.ensemble.placements(devices):
    keep = plan.examples.keep[place.models.start : place.models.stop]
    args = step_args(plan, place.mesh, keep)
    warm_steps = plan.private.warm_steps if plan.private else 0
    for words, warm, steps in (
      ('step', False, plan.num_steps - warm_steps),
      ('step of the first phase', True, warm_steps),
    ):
      if steps:
        out.append(
          programs.Program(
            f'{name}: {words}',
            make_step_fn(plan, place.mesh, keep, warm),
            args,
            place.slots * steps,
            held=place.waiting * programs.bytes_of(args[0]),
          )
        )
    if place.waiting:
      # For a checkpoint the slots are one array, beside themselves.
      saved = -(-plan.num_steps // plan.checkpoint_every)
      slots = [args[0]] * (place.waiting + 1)
      out.append(
        programs.Program(
          f'{name}: joining slots',
          mesh_lib.join_program(place.mesh, slots),
          (slots,),
          saved * place.slots / (place.waiting + 1),
          held=programs.bytes_of(args[2]),
        )
      )
  return out


def step_args(
  plan: training_plan.TrainPlan, mesh: Mesh, keep: np.ndarray
) -> tuple[Any, ...]:
  """Shapes of what a step is called with; `keep` as `make_step_fn`."""
  return (
    packing.Packing(plan, mesh).abstract_slot(),
    input_pipeline.abstract_rows(plan, keep, mesh),
    input_pipeline.abstract_feed(plan, mesh),
  )


def _shown(means: dict[str, np.ndarray]) -> dict[str, float]:
  """What progress shows; a private run has no loss to show."""
  name = 'loss' if 'loss' in means else 'param_norm'
  return {name: float(means[name].mean())}


def _check_finite(
  means: dict[str, np.ndarray],
  step: int,
  block: layout.ModelBlock,
  saved: checkpoints.Checkpoints,
) -> None:
  """Loss, gradient and weights; raises before a bad state is saved."""
  for name, values in means.items():
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
      good = saved.newest_whole()
      last = f'is step {good}' if good else 'does not exist'
      raise FloatingPointError(
        f'{name} of model {block.first + bad[0]} is {values[bad[0]]} at step '
        f'{step}; the last good checkpoint {last} ({block.checkpoints}): '
        'lower train.learning_rate in a new --workdir'
      )
