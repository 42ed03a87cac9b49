"""Training a block of models: restore, step, log, checkpoint."""

from collections.abc import Callable
import dataclasses
import functools
import hashlib
import io
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh, NamedSharding
import numpy as np
import optax
import pandas as pd

from jaxdiff import inputs
from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import checkpoints, files, layout
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import hardware, multihost, preemption, prng, progress
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import (
  input_pipeline,
  metrics_buffer,
  profiling,
  tensorboard,
  train_state,
  train_step,
)


@dataclasses.dataclass(frozen=True)
class TrainPlan:
  """All that training needs; made by `plans`.

  Attributes:
    init_fn: key -> params of one model.
    grad_fn: see `step.GradFn`.
    tx: optimiser.
    ema_decay: decay of the averaged weights.
    examples: the images, and which model trains on which; where a mirror image
      counts as the image, half of them are mirrored.
    ensemble: the models; its seed is that of initialisation, data order and
      noise. Whoever restores them is not asked.
    num_steps: updates of each model.
    batch_size: of one model, over all devices along 'data'.
    device_bytes: of images that lie on every device; more are streamed.
    log_every: steps between logged figures; divides `checkpoint_every`.
    checkpoint_every: steps between checkpoints.
    max_to_keep: newest checkpoints kept; None keeps all.
    profile_steps: steps traced into the run's profile/.
  """

  init_fn: Callable[[jax.Array], Any]
  grad_fn: train_step.GradFn
  tx: optax.GradientTransformation
  ema_decay: float
  examples: examples_lib.Examples
  ensemble: ensemble_lib.Ensemble
  num_steps: int
  batch_size: int
  device_bytes: int
  log_every: int
  checkpoint_every: int
  max_to_keep: int | None
  profile_steps: int = 0

  def keep(self, block: layout.ModelBlock) -> np.ndarray:
    """bool [K, N] of the models of a block."""
    return self.examples.keep[block.first : block.last + 1]


def fit(plan: TrainPlan, run: layout.Run) -> None:
  """Trains every block that is not yet finished, then merges metrics.csv."""
  blocks = plan.ensemble.blocks(run)
  for block in blocks:
    if not is_trained(plan, block):
      fit_block(plan, block)
  if not multihost.is_first():
    return
  parts = [
    read_part(part)
    for block in blocks
    for part in sorted(block.metrics.glob('*.csv'))
  ]
  # A run that was stopped before its first figure left an empty part.
  parts = [part for part in parts if len(part)]
  merged = pd.concat(parts, ignore_index=True).sort_values(
    ['model', 'step', 'name'], kind='stable'
  )
  files.write_csv(run.metrics, merged)


# The first line of a part of the metrics: the SHA-256 of the rest.
_SEAL = b'# sha256 '


def write_part(path: epath.Path, part: pd.DataFrame) -> None:
  """Figures up to a checkpoint, as CSV under a line with its digest."""
  body = part.to_csv(index=False, float_format='%.9g').encode()
  seal = _SEAL + hashlib.sha256(body).hexdigest().encode() + b'\n'
  files.write(path, seal + body)


def read_part(path: epath.Path) -> pd.DataFrame:
  """What `write_part` wrote.

  Raises:
    InputError: if it is damaged: it can be made again by training alone.
  """
  with inputs.reading(path):
    seal, _, body = path.read_bytes().partition(b'\n')
  if seal != _SEAL + hashlib.sha256(body).hexdigest().encode():
    raise inputs.InputError(
      f'{path} is damaged (SHA-256 differs): restore it, or remove '
      f'{path.parent.parent} to train these models again'
    )
  return pd.read_csv(io.BytesIO(body))


def is_trained(plan: TrainPlan, block: layout.ModelBlock) -> bool:
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


def fit_block(
  plan: TrainPlan, block: layout.ModelBlock, mesh: Mesh | None = None
) -> train_state.TrainState:
  """Trains one block from its newest whole checkpoint to the end.

  Args:
    plan: what to train.
    block: which models, and where.
    mesh: defaults to all devices.

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
    states = saved.restore(start, abstract_states(plan, num_models, mesh))
  else:
    states = init_states(plan, block.models, mesh)
  slots = mesh_lib.split_slots(mesh, states)
  del states
  own = input_pipeline.own_rows(block.models, keep, mesh)
  pixels = input_pipeline.feed(plan, block.models, keep, mesh, start)
  step_fn = make_step_fn(plan, mesh, keep)

  total, done = plan.num_steps * num_models, start * num_models
  rows, logged = [], start
  alone = jax.process_count() == 1
  pending = metrics_buffer.read(block, start, mesh)
  meter = profiling.Meter(step_fn, len(slots), num_models * plan.batch_size)
  with (
    progress.track('train', total, 'model-steps', done) as advance,
    profiling.tracer(block.profile, plan.profile_steps) as trace,
  ):
    for step in range(start + 1, plan.num_steps + 1):
      for slot in range(len(slots)):
        slots[slot], metrics = step_fn(slots[slot], own[slot], next(pixels))
        pending.append((slot, metrics))
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
          loss=float(means['loss'].mean()),
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
          write_part(block.metrics_part(step), part)
          tensorboard.write_part(block, step, part)
          metrics_buffer.write(block, step, pending, mesh)
        saved.save(step, mesh_lib.join_slots(mesh, slots))
        rows = []
        if first:
          metrics_buffer.forget(block, but=step)
      if stop:
        saved.close()
        preemption.leave()
  saved.close()
  return mesh_lib.join_slots(mesh, slots)


def init_one(plan: TrainPlan, model: jax.Array) -> train_state.TrainState:
  """The state of one model before its first step."""
  root = prng.root(plan.ensemble.seed, 'init')
  params = plan.init_fn(jax.random.fold_in(root, model))
  return train_state.create(params, plan.tx)


def init_states(
  plan: TrainPlan, models: range, mesh: Mesh
) -> train_state.TrainState:
  """Fresh states of a block, stacked [K, ...] and sharded along 'ensemble'."""
  init = jax.jit(functools.partial(init_one, plan))

  def stack(*leaves: jax.Array) -> jax.Array:
    stacked = np.stack([np.asarray(leaf) for leaf in leaves])
    for leaf in leaves:
      leaf.delete()  # leaf by leaf: memory never holds all states twice
    return mesh_lib.put(mesh, stacked, mesh_lib.PER_MODEL)

  states = jax.tree.map(stack, *(init(model) for model in models))
  hardware.give_back_memory()
  return states


def abstract_states(
  plan: TrainPlan, num_models: int, mesh: Mesh
) -> train_state.TrainState:
  """Shapes and shardings of a block's states, without making any."""
  sharding = NamedSharding(mesh, mesh_lib.PER_MODEL)
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      (num_models, *leaf.shape), leaf.dtype, sharding=sharding
    ),
    jax.eval_shape(functools.partial(init_one, plan), 0),
  )


def whole_steps(plan: TrainPlan, block: layout.ModelBlock) -> list[int]:
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
  plan: TrainPlan, block: layout.ModelBlock, mesh: Mesh, step: int | None = None
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


def make_step_fn(
  plan: TrainPlan, mesh: Mesh, keep: np.ndarray
) -> profiling.Program:
  """(states, own, pixels) of one slot -> (states, metrics [E]).

  The states are donated.
  """
  shards = mesh.shape[mesh_lib.DATA]
  if plan.batch_size % shards:
    raise inputs.InputError(
      f'train.batch_size: {plan.batch_size} does not divide over {shards} '
      'devices along data'
    )
  counts = keep.sum(axis=1)
  smallest, largest = int(counts.min()), int(counts.max())

  def one_slot(states, own, pixels):
    state, model = mesh_lib.own_model((states, own))
    key = jax.random.fold_in(
      jax.random.fold_in(
        prng.root(plan.ensemble.seed, 'noise'), model['model']
      ),
      state.step,
    )
    return mesh_lib.add_model_axis(
      train_step.train_step(
        state,
        input_pipeline.batch_of(
          plan,
          model,
          pixels,
          state.step,
          shards=shards,
          smallest=smallest,
          largest=largest,
        ),
        key,
        grad_fn=plan.grad_fn,
        tx=plan.tx,
        ema_decay=plan.ema_decay,
      )
    )

  sharded = jax.shard_map(
    one_slot,
    mesh=mesh,
    in_specs=(
      mesh_lib.PER_MODEL,
      mesh_lib.PER_MODEL,
      input_pipeline.pixels_spec(plan),
    ),
    out_specs=mesh_lib.PER_MODEL,
  )
  return profiling.Program(jax.jit(sharded, donate_argnums=0))


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
