"""Trains a surrogate classifier for each model, on its own samples."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np
import optax

from jaxdiff import inputs
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.attacks.side import clusters, paths
from jaxdiff.data import datasets
from jaxdiff.diffusion import processes
from jaxdiff.runs import blocks as blocks_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, preemption, prng, programs, progress

# Steps of a surrogate between looks at the clock.
_CHUNK = 50


def train_surrogates(plan: side_attack.SidePlan, run: layout.Run) -> None:
  """Trains the surrogate of every model that has none, or a torn one."""
  names = _leaves(plan)
  blocks = plan.ensemble.blocks(run)
  missing = blocks_lib.absent(
    run,
    [(model, 0) for block in blocks for model in block.models],
    paths.Paths(run).surrogates,
    names,
    {0: np.zeros(1, int)},
  )
  total = plan.examples.num_models * plan.num_steps
  done = total - len(missing) * plan.num_steps
  with progress.track('surrogates', total, 'model-steps', done) as advance:
    for block in blocks:
      mesh = mesh_lib.make(
        len(block.models), shards=plan.ensemble.devices_per_model
      )
      for slot in range(mesh_lib.num_slots(mesh, len(block.models))):
        models = block.first + mesh_lib.slot_models(
          mesh, len(block.models), slot
        )
        lacking = [model for model in models if (model, 0) in missing]
        if not lacking:
          continue
        arrays = _train(plan, run, mesh, models, advance, len(lacking))
        for place, model in enumerate(models):
          if (model, 0) in missing and multihost.is_first():
            blocks_lib.write_block(
              paths.Paths(run).surrogates(model, 0),
              run.identity,
              model,
              indices=np.zeros(1, int),
              **{name: value[place] for name, value in arrays.items()},
            )
        if multihost.any_of(preemption.asked()):
          preemption.leave()
  multihost.barrier('surrogates')


def _leaves(plan: side_attack.SidePlan) -> list[str]:
  """Names of what a surrogate's file holds: parameters, and its clusters."""
  tree = jax.eval_shape(plan.init_fn, jax.random.key(0))
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in paths
  ] + ['kept', 'num_kept']


def _train(
  plan: side_attack.SidePlan,
  run: layout.Run,
  mesh: Mesh,
  models: np.ndarray,
  advance: Callable[[int], None],
  num_missing: int,
) -> dict[str, np.ndarray]:
  """Surrogates of one slot, by the names of `_leaves`: [E, ...] each."""
  images, labels, kept = [], [], []
  for model in models:
    samples = blocks_lib.read_rows(
      run, run.samples, model, plan.num_learned, plan.block_size, ('images',)
    )['images']
    cluster, good = clusters.clusters_of(
      samples, plan.num_clusters, plan.cohesion, plan.ensemble.seed
    )
    images.append(samples)
    labels.append(cluster)
    # Of one length: the list of clusters, again and again.
    kept.append((np.resize(good, plan.num_clusters), np.int32(len(good))))
  labels, numbers, counts = (
    multihost.agree(np.stack(x)) for x in (labels, *zip(*kept, strict=True))
  )
  start, step = _programs(plan, mesh)
  given = mesh_lib.put(
    mesh,
    (models.astype(np.int32), np.stack(images), labels),
    mesh_lib.PER_MODEL,
  )
  state = start(given[0])
  for number in range(plan.num_steps):
    state = step(state, *given, np.int32(number))
    if (number + 1) % _CHUNK == 0:
      jax.block_until_ready(state)
      advance(_CHUNK * num_missing)
  advance(plan.num_steps % _CHUNK * num_missing)
  values = jax.tree.leaves(multihost.fetch(state[0]))
  for place, model in enumerate(models):
    blocks_lib.check_finite(
      'surrogates',
      model,
      {'weights': np.concatenate([x[place].ravel() for x in values])},
    )
  return dict(zip(_leaves(plan), [*values, numbers, counts], strict=True))


def _programs(plan: side_attack.SidePlan, mesh: Mesh):
  """Start and step of the surrogates of a slot, both jitted."""
  tx = optax.adam(plan.learning_rate)

  def start(models):
    key = prng.root(plan.ensemble.seed, 'surrogate')
    params = plan.init_fn(jax.random.fold_in(key, models[0]))
    return mesh_lib.add_model_axis((params, tx.init(params)))

  def step(state, models, images, labels, number):
    params, opt_state = mesh_lib.own_model(state)
    key = prng.root(plan.ensemble.seed, 'surrogate')
    # Beside the key of `start`, which no step has.
    key = jax.random.fold_in(jax.random.fold_in(key, models[0]), 1)
    pick, time, noise = jax.random.split(jax.random.fold_in(key, number), 3)
    rows = jax.random.randint(pick, (plan.batch_size,), 0, plan.num_learned)
    t = jax.random.randint(time, (plan.batch_size,), 0, len(plan.schedule))
    x0 = datasets.to_model_range(images[0][rows])
    eps = jax.random.normal(noise, x0.shape)
    x_t = processes.add_noise(plan.schedule, x0, eps, t)

    def loss(params):
      logits = plan.logits_fn(params, x_t, t)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, labels[0][rows]
      ).mean()

    updates, opt_state = tx.update(jax.grad(loss)(params), opt_state, params)
    params = optax.apply_updates(params, updates)
    return mesh_lib.add_model_axis((params, opt_state))

  each = mesh_lib.PER_MODEL
  start = jax.shard_map(start, mesh=mesh, in_specs=each, out_specs=each)
  step = jax.shard_map(
    step,
    mesh=mesh,
    in_specs=(*(each,) * 4, mesh_lib.REPLICATED),
    out_specs=each,
  )
  return jax.jit(start), jax.jit(step, donate_argnums=0)


def programs_of(
  plan: side_attack.SidePlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What training the surrogates compiles."""
  out = []
  for place in plan.ensemble.placements(devices):
    start, step = _programs(plan, place.mesh)
    rows = place.mesh.shape[mesh_lib.ENSEMBLE]
    learned = (rows, plan.num_learned)

    def given(shape, dtype, mesh=place.mesh):
      return programs.array(mesh, mesh_lib.PER_MODEL, shape, dtype)

    models = given((rows,), np.int32)
    state = programs.like(
      place.mesh, mesh_lib.PER_MODEL, jax.eval_shape(start, models)
    )
    number = programs.array(place.mesh, mesh_lib.REPLICATED, (), np.int32)
    args = (
      state,
      models,
      given((*learned, *plan.examples.shape), np.uint8),
      given(learned, np.int32),
      number,
    )
    calls = place.slots * plan.num_steps
    out.append(programs.Program('surrogates: step', step, args, calls))
  return out


def shapes(plan: side_attack.SidePlan, net: Any) -> dict[str, Any]:
  """Shapes of what `restore` gives of one model; `net` are those of its net."""
  number = jax.ShapeDtypeStruct((), np.int32)
  return {
    'net': net,
    'surrogate': jax.eval_shape(plan.init_fn, jax.random.key(0)),
    'kept': jax.ShapeDtypeStruct((plan.num_clusters,), np.int32),
    'num_kept': number,
  }


def restore(
  plan: side_attack.SidePlan,
  run: layout.Run,
  restore_nets: Callable[[layout.ModelBlock, Mesh], Any],
  block: layout.ModelBlock,
  mesh: Mesh,
) -> dict[str, Any]:
  """Weights of nets and surrogates of a block: [K, ...] along 'ensemble'.

  Raises:
    InputError: if a surrogate is absent or torn.
  """
  names = _leaves(plan)
  stored = []
  for model in block.models:
    path = paths.Paths(run).surrogates(model, 0)
    arrays = blocks_lib.read_block(path, run.identity, model, None, *names)
    if arrays is None:
      raise inputs.InputError(f'{path} is missing or torn: run attack again')
    stored.append([arrays[name] for name in names])
  *leaves, numbers, counts = (np.stack(x) for x in zip(*stored, strict=True))
  tree = jax.tree.structure(jax.eval_shape(plan.init_fn, jax.random.key(0)))
  stacked = {
    'surrogate': jax.tree.unflatten(tree, leaves),
    'kept': numbers,
    'num_kept': counts,
  }
  return {
    'net': restore_nets(block, mesh),
    **mesh_lib.put(mesh, stacked, mesh_lib.PER_MODEL),
  }
