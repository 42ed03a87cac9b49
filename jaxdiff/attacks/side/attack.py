"""Surrogate guidance: conditions made up for a model that has none.

SIDE (Chen et al. 2024, arXiv 2406.12752). Models give away more of what they
are asked for. One that takes no condition gets a surrogate: its own samples
are clustered, a classifier learns the clusters from noised samples, and new
samples are guided towards one cluster each:

(1)  eps_hat'(x, t) = eps_hat(x, t) - s_t lambda  grad_x log p(cluster | x, t)

Clusters are k-means' on principal components of the samples, those kept whose
cohesion, the mean cosine of samples to their centre, reaches a threshold; all
if none does. No training image is looked at before hits are counted.

Samples are compared at equal budgets: guided ones with as many plain ones, from
which nothing was learned; and, since those learned from cost as much, plain
ones with those learned from and the guided ones together.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax
import pandas as pd
from sklearn import cluster, decomposition

from jaxdiff import inputs
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import hits as hits_lib
from jaxdiff.data import datasets
from jaxdiff.diffusion import processes, schedules
from jaxdiff.metrics import intervals
from jaxdiff.runs import blocks as blocks_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, preemption, prng, progress

_COMPONENTS = 50
# Steps of a surrogate between looks at the clock.
_CHUNK = 50

# logits_fn(params, x_t, t) -> [B, num_clusters].
LogitsFn = Callable[[Any, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class GuidancePlan:
  """All that surrogates and the comparison need; made by `plans`.

  Guided samples are drawn by `sampling`, with weights from `restore`, and their
  neighbours found by `extraction.find_neighbours`.

  Attributes:
    init_fn: key -> params of a surrogate.
    logits_fn: the surrogate.
    schedule: of the models.
    images: uint8 [N, H, W, C], every example of the run.
    keep: bool [K, N].
    seed: of clusters, surrogates and their noise.
    models_per_block: models that share a checkpoint.
    block_size: plain samples a file.
    num_learned: plain samples, the first, that a surrogate learns from.
    num_samples: guided samples of each model, compared with as many plain ones
      that come after those.
    num_clusters: of the samples of a model.
    cohesion: a cluster must have, within -1 .. 1, to be guided to.
    num_steps: that a surrogate is trained.
    batch_size: of the surrogate.
    learning_rate: of the surrogate (Adam).
    settings: of extraction; their rules are read from its summary.
    groups: int [N], equal for near-duplicates, which count as one image.
    scale: lambda of equation (1), for the reader of a table.
    devices_per_model: devices that share a model; 0 chooses.
  """

  init_fn: Callable[[jax.Array], Any]
  logits_fn: LogitsFn
  schedule: schedules.Schedule
  images: np.ndarray
  keep: np.ndarray
  seed: int
  models_per_block: int
  block_size: int
  num_learned: int
  num_samples: int
  num_clusters: int
  cohesion: float
  num_steps: int
  batch_size: int
  learning_rate: float
  settings: tuple[str, ...]
  groups: np.ndarray
  scale: float
  devices_per_model: int = 0

  @property
  def num_plain(self) -> int:
    return self.num_learned + self.num_samples


def guide(
  eps_fn: processes.EpsFn,
  logits_fn: Callable[[jax.Array, jax.Array], jax.Array],
  schedule: schedules.Schedule,
  scale: float,
) -> processes.EpsFn:
  """Equation (1): an eps_fn whose `cond` is (cond, clusters [B])."""

  def guided(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    inner, clusters = cond
    eps, variance = processes.split_variance(eps_fn(x_t, t, inner), x_t)

    def log_p(x: jax.Array) -> jax.Array:
      own = jax.nn.log_softmax(logits_fn(x, t))
      return jnp.take_along_axis(own, clusters[:, None], axis=1).sum()

    pull = scale * schedule.noise_scale(t)[:, None, None, None]
    eps = eps - pull * jax.grad(log_p)(x_t)
    if variance is None:
      return eps
    return jnp.concatenate([eps, variance], axis=-1)

  return guided


def clusters_of(
  samples: np.ndarray, num_clusters: int, cohesion: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """k-means on principal components of samples.

  Args:
    samples: uint8 [S, H, W, C].
    num_clusters: at most this many.
    cohesion: mean cosine, within a cluster, of samples to the centre.
    seed: of the start.

  Returns:
    int32 [S] the cluster of each sample, and int32 [kept] the numbers of those
    that hold together; all if none does.
  """
  flat = samples.reshape(len(samples), -1) / 255.0
  components = min(_COMPONENTS, *flat.shape)
  found = decomposition.PCA(components, random_state=seed).fit_transform(flat)
  made = cluster.KMeans(
    min(num_clusters, len(samples)), n_init=4, random_state=seed
  ).fit(found)
  centres = made.cluster_centers_[made.labels_]
  cosine = (found * centres).sum(axis=1) / np.maximum(
    np.linalg.norm(found, axis=1) * np.linalg.norm(centres, axis=1), 1e-12
  )
  sizes = np.bincount(made.labels_, minlength=num_clusters)
  held = np.bincount(made.labels_, cosine, num_clusters) / np.maximum(sizes, 1)
  kept = np.flatnonzero((held >= cohesion) & (sizes > 0))
  if not len(kept):
    kept = np.flatnonzero(sizes)
  return made.labels_.astype(np.int32), kept.astype(np.int32)


def train_surrogates(plan: GuidancePlan, run: layout.Run) -> None:
  """Trains the surrogate of every model that has none, or a torn one."""
  names = _leaves(plan)
  blocks = run.model_blocks(len(plan.keep), plan.models_per_block)
  missing = blocks_lib.absent(
    run,
    [(model, 0) for block in blocks for model in block.models],
    run.surrogates,
    names,
    {0: np.zeros(1, int)},
  )
  total = len(plan.keep) * plan.num_steps
  done = total - len(missing) * plan.num_steps
  with progress.track('surrogates', total, 'model-steps', done) as advance:
    for block in blocks:
      mesh = mesh_lib.make(len(block.models), shards=plan.devices_per_model)
      for slot in range(mesh_lib.num_slots(mesh, len(block.models))):
        models = block.first + mesh_lib.slot_models(
          mesh, len(block.models), slot
        )
        own = [model for model in models if (model, 0) in missing]
        if not own:
          continue
        arrays = _train(plan, run, mesh, models, advance, len(own))
        for place, model in enumerate(models):
          if (model, 0) in missing and multihost.is_first():
            layout.write_block(
              run.surrogates(model, 0),
              run.identity,
              model,
              indices=np.zeros(1, int),
              **{name: value[place] for name, value in arrays.items()},
            )
        if multihost.any_of(preemption.asked()):
          preemption.leave()
  multihost.barrier('surrogates')


def _leaves(plan: GuidancePlan) -> list[str]:
  """Names of what a surrogate's file holds: parameters, and its clusters."""
  tree = jax.eval_shape(plan.init_fn, jax.random.key(0))
  paths = jax.tree_util.tree_leaves_with_path(tree)
  return [
    jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in paths
  ] + ['kept', 'num_kept']


def _train(
  plan: GuidancePlan,
  run: layout.Run,
  mesh: Mesh,
  models: np.ndarray,
  advance: Callable[[int], None],
  num_missing: int,
) -> dict[str, np.ndarray]:
  """Surrogates of one slot, by the names of `_leaves`: [E, ...] each."""
  images, labels, kept = [], [], []
  for model in models:
    samples = layout.read_rows(
      run, run.samples, model, plan.num_learned, plan.block_size, ('images',)
    )['images']
    own, good = clusters_of(
      samples, plan.num_clusters, plan.cohesion, plan.seed
    )
    images.append(samples)
    labels.append(own)
    # Of one length: the list of clusters, again and again.
    kept.append((np.resize(good, plan.num_clusters), np.int32(len(good))))
  labels, numbers, counts = (
    multihost.agree(np.stack(x)) for x in (labels, *zip(*kept, strict=True))
  )
  tx = optax.adam(plan.learning_rate)

  def start(models):
    key = prng.root(plan.seed, 'surrogate')
    params = plan.init_fn(jax.random.fold_in(key, models[0]))
    return mesh_lib.add_model_axis((params, tx.init(params)))

  def step(state, models, images, labels, number):
    params, opt_state = mesh_lib.own_model(state)
    key = prng.root(plan.seed, 'surrogate')
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
  start = jax.jit(
    jax.shard_map(start, mesh=mesh, in_specs=each, out_specs=each)
  )
  step = jax.jit(
    jax.shard_map(
      step,
      mesh=mesh,
      in_specs=(*(each,) * 4, mesh_lib.REPLICATED),
      out_specs=each,
    ),
    donate_argnums=0,
  )
  given = mesh_lib.put(
    mesh, (models.astype(np.int32), np.stack(images), labels), each
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


def restore(
  plan: GuidancePlan,
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
    path = run.surrogates(model, 0)
    arrays = layout.read_block(path, run.identity, model, None, *names)
    if arrays is None:
      raise inputs.InputError(f'{path} is missing or torn: run attack again')
    stored.append([arrays[name] for name in names])
  *leaves, numbers, counts = (np.stack(x) for x in zip(*stored, strict=True))
  tree = jax.tree.structure(jax.eval_shape(plan.init_fn, jax.random.key(0)))
  own = {
    'surrogate': jax.tree.unflatten(tree, leaves),
    'kept': numbers,
    'num_kept': counts,
  }
  return {
    'net': restore_nets(block, mesh),
    **mesh_lib.put(mesh, own, mesh_lib.PER_MODEL),
  }


def _rates(hits: list[dict[str, np.ndarray]]) -> dict[str, float]:
  """Of samples that are put together: SIDE's AMS and UMS, and the control's."""
  joined = {
    half: np.concatenate([one[half] for one in hits])
    for half in hits_lib.HALVES
  }
  count = len(joined['training'])

  def unique(half: str) -> int:
    return len(np.unique(joined[half][joined[half] >= 0]))

  return {
    'hit_rate': float((joined['training'] >= 0).mean()),
    'unique_rate': unique('training') / count,
    'control_unique_rate': unique('control') / count,
  }


def table(
  plan: GuidancePlan, run: layout.Run, guided: layout.Run
) -> pd.DataFrame:
  """One row a setting, model, budget, arm and metric.

  Columns: setting, model, budget ('equal_samples', 'equal_total'), num_samples,
  arm ('plain', 'guided'), metric, value. Metrics: 'hit_rate', samples that hit
  some training image (SIDE's AMS); 'unique_rate', distinct training images hit
  by sample (UMS); 'control_unique_rate', the same of the control half.
  """
  rules = extraction_evaluate.rules_of(run)
  rows = []
  for setting in plan.settings:
    for model in range(len(plan.keep)):
      if (setting, model) not in rules:
        continue
      plain, found = (
        hits_lib.hit_by_sample(
          layout.read_rows(
            folder, folder.neighbours, model, number, plan.block_size,
            extraction_evaluate.NEIGHBOUR_ARRAYS,
          ),
          plan.groups, *rules[setting, model],
        )
        for folder, number in (
          (run, plan.num_plain), (guided, plan.num_samples),
        )
      )  # fmt: skip
      learned, rest = (
        {half: hit[part] for half, hit in plain.items()}
        for part in (
          slice(plan.num_learned), slice(plan.num_learned, None),
        )
      )  # fmt: skip
      for budget, arms in (
        ('equal_samples', {'plain': [rest], 'guided': [found]}),
        ('equal_total', {'plain': [plain], 'guided': [learned, found]}),
      ):
        for arm, parts in arms.items():
          number = sum(len(part['training']) for part in parts)
          rows += [
            (setting, model, budget, number, arm, metric, value)
            for metric, value in _rates(parts).items()
          ]
  return pd.DataFrame(
    rows,
    columns=[
      'setting', 'model', 'budget', 'num_samples', 'arm', 'metric', 'value',
    ],
  )  # fmt: skip


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
  """Mean over models of each arm, and of their difference, with intervals."""
  out = []
  names = ['setting', 'budget', 'num_samples', 'metric']
  for keys, own in rows.groupby(names, sort=False):
    wide = own.pivot_table(index='model', columns='arm', values='value')
    for arm, values in (
      ('plain', wide['plain']),
      ('guided', wide['guided']),
      ('difference', wide['guided'] - wide['plain']),
    ):
      lowest = -np.inf if arm == 'difference' else 0.0
      value = intervals.student(values.to_numpy(), lowest)
      out.append((*keys, arm, *value, len(wide)))
  return pd.DataFrame(
    out, columns=[*names, 'arm', 'value', 'low', 'high', 'num_models']
  )


def analyse(plan: GuidancePlan, run: layout.Run, guided: layout.Run) -> None:
  """Compares stored neighbours; writes the table of models and the summary."""
  rows = table(plan, run, guided)
  layout.write_csv(run.guidance_models, rows)
  layout.write_csv(
    run.guidance_summary,
    summarise(rows).assign(
      scale=plan.scale, num_clusters=plan.num_clusters, cohesion=plan.cohesion
    ),
  )
