"""Signals: raw per-image evidence of a model, measured once and stored.

A signal function turns images into Q numbers each. The columns are described
by a table of queries; attacks choose among them and never measure again. Noise
is folded from (attack root, example, t, draw) and never from the model or the
mirror: the same noise for all models and for an image and its mirror image is
what makes likelihood-ratio attacks sharp.

Loss signal (paper, section 4.2 and 5.2): mean over pixels of
|eps - eps_hat(x_t, t)|^2 at each timestep of a grid, for some draws of eps,
with and without horizontal flip. Smaller = more likely a member.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import pandas as pd

from jaxdiff import evidence, multihost, runs
from jaxdiff import keys as keys_lib
from jaxdiff import mesh as mesh_lib
from jaxdiff.data import datasets
from jaxdiff.diffusion import processes, schedules

# signal_fn(x0 [B, H, W, C], cond, keys [B]) -> float32 [B, Q].
SignalFn = Callable[[jax.Array, Any, jax.Array], jax.Array]


def loss_queries(
  timesteps: tuple[int, ...], draws: int, flip: bool
) -> pd.DataFrame:
  """Columns of the loss signal: name, t, draw, flip, cost.

  Args:
    timesteps: grid of 0-based timesteps.
    draws: noise draws at each.
    flip: measure the mirror image too.

  Returns:
    One row a column of the signal; cost is in denoiser calls an image.
  """
  rows = [
    ('loss', t, draw, mirrored, 1)
    for t in timesteps
    for draw in range(draws)
    for mirrored in range(2 if flip else 1)
  ]
  return pd.DataFrame(rows, columns=['name', 't', 'draw', 'flip', 'cost'])


def make_loss_signal(
  eps_fn: processes.EpsFn,
  schedule: schedules.Schedule,
  queries: pd.DataFrame,
) -> SignalFn:
  """The loss signal of one model.

  Args:
    eps_fn: noise predictor, deterministic.
    schedule: noise schedule.
    queries: as `loss_queries` makes it.
  """
  table = tuple(
    jnp.asarray(queries[name].to_numpy(), jnp.int32)
    for name in ('t', 'draw', 'flip')
  )

  def signal_fn(x0: jax.Array, cond: Any, keys: jax.Array) -> jax.Array:
    def query(column: tuple[jax.Array, ...]) -> jax.Array:
      t, draw, flip = column
      noise_keys = jax.vmap(
        lambda key: jax.random.fold_in(jax.random.fold_in(key, t), draw)
      )(keys)
      eps = keys_lib.normal_each(noise_keys, x0.shape[1:])
      x = jnp.where(flip == 1, x0[:, :, ::-1], x0)
      ts = jnp.full((x0.shape[0],), t)
      eps_hat = eps_fn(processes.add_noise(schedule, x, eps, ts), ts, cond)
      return jnp.square(eps_hat - eps).mean(axis=tuple(range(1, x0.ndim)))

    return jax.lax.map(query, table).T

  return signal_fn


@dataclasses.dataclass(frozen=True)
class SignalPlan:
  """All that the signal stage needs; made by `build`.

  Attributes:
    signal_fn: (params, x0, labels, keys) -> [B, Q], of one model.
    queries: describes the Q columns.
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    images: uint8 [N, H, W, C].
    labels: int32 [N], or None for unconditional nets.
    seed: of the attack's noise.
    num_models: in the whole run.
    models_per_block: models that share a checkpoint.
    block_size: images a file.
    batch_size: images at a time, over all devices along 'data'.
  """

  signal_fn: Callable[[Any, jax.Array, Any, jax.Array], jax.Array]
  queries: pd.DataFrame
  restore: Callable[[runs.ModelBlock, Mesh], Any]
  images: np.ndarray
  labels: np.ndarray | None
  seed: int
  num_models: int
  models_per_block: int
  block_size: int
  batch_size: int


def measure(plan: SignalPlan, run: runs.Run) -> None:
  """Writes every block of signals that is absent or torn."""
  if multihost.is_first():
    runs.write_csv(run.queries, plan.queries)

  def make_compute(mesh: Mesh) -> evidence.ComputeFn:
    measurer = make_measurer(plan, mesh)
    return lambda params, models, indices: {
      'signals': measurer(params, indices)
    }

  evidence.fill(
    'signals',
    path_of=run.signals,
    names=('signals', 'indices'),
    blocks=run.model_blocks(plan.num_models, plan.models_per_block),
    total=len(plan.images),
    block_size=plan.block_size,
    restore=plan.restore,
    make_compute=make_compute,
  )


def make_measurer(
  plan: SignalPlan, mesh: Mesh
) -> Callable[[Any, np.ndarray], np.ndarray]:
  """(params [E, ...], example indices [n]) -> signals float32 [E, n, Q]."""
  shards = mesh.shape[mesh_lib.DATA]
  batch_size = -(-plan.batch_size // shards) * shards

  def one_slot(params, images, labels, indices):
    keys = keys_lib.fold_each(keys_lib.root(plan.seed, 'attack'), indices)
    x0 = datasets.to_model_range(images)
    values = plan.signal_fn(mesh_lib.own_model(params), x0, labels, keys)
    return mesh_lib.add_model_axis(values)

  sharded = jax.jit(
    jax.shard_map(
      one_slot,
      mesh=mesh,
      in_specs=(
        mesh_lib.PER_MODEL,
        mesh_lib.PER_EXAMPLE,
        mesh_lib.PER_EXAMPLE,
        mesh_lib.PER_EXAMPLE,
      ),
      out_specs=mesh_lib.PER_MODEL_AND_EXAMPLE,
    )
  )

  def measurer(params, indices):
    parts = []
    for i in range(0, len(indices), batch_size):
      chosen = indices[i : i + batch_size]
      # The last batch is filled up with its last image and cut again.
      padded = np.pad(chosen, (0, batch_size - len(chosen)), mode='edge')
      given = mesh_lib.put(
        mesh,
        (
          plan.images[padded],
          None if plan.labels is None else plan.labels[padded],
          padded.astype(np.int32),
        ),
        mesh_lib.PER_EXAMPLE,
      )
      values = multihost.fetch(sharded(params, *given))
      parts.append(values[:, : len(chosen)])
    return np.concatenate(parts, axis=1)

  return measurer


def load(
  run: runs.Run, num_models: int, count: int, block_size: int
) -> tuple[np.ndarray, pd.DataFrame]:
  """Stored signals float32 [K, N, Q] and the table of their columns."""
  stacked = [
    runs.read_rows(run.signals, model, count, block_size, ('signals',))
    for model in range(num_models)
  ]
  values = np.stack([rows['signals'] for rows in stacked])
  return values, runs.read_csv(run.queries)
