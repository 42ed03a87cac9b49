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

from jaxdiff.data import examples as examples_lib
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import ensemble as ensemble_lib

# logits_fn(params, x_t, t) -> [B, num_clusters].
LogitsFn = Callable[[Any, jax.Array, jax.Array], Any]


@dataclasses.dataclass(frozen=True)
class SidePlan:
  """All that surrogates and the comparison need; made by `plans`.

  Guided samples are drawn by `sampling`, with weights from `train.restore`, and
  their neighbours found by `extraction.find_neighbours`.

  Attributes:
    init_fn: key -> params of a surrogate.
    logits_fn: the surrogate.
    schedule: of the models.
    examples: the images, and which model trained on which.
    ensemble: the models; its seed is that of clusters, surrogates and noise.
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
    scale: lambda of equation (1), for the reader of a table.
    near: of extraction's plan.
  """

  init_fn: Callable[[jax.Array], Any]
  logits_fn: LogitsFn
  schedule: schedules.Schedule
  examples: examples_lib.Examples
  ensemble: ensemble_lib.Ensemble
  block_size: int
  num_learned: int
  num_samples: int
  num_clusters: int
  cohesion: float
  num_steps: int
  batch_size: int
  learning_rate: float
  settings: tuple[str, ...]
  scale: float
  near: float = 0.0

  @property
  def num_plain(self) -> int:
    return self.num_learned + self.num_samples


def guide(
  eps_fn: processes.EpsFn,
  logits_fn: Callable[[jax.Array, jax.Array], Any],
  schedule: schedules.Schedule,
  scale: float,
) -> processes.EpsFn:
  """Equation (1): an eps_fn whose `cond` is (cond, clusters [B])."""

  def guided(x_t: jax.Array, t: jax.Array, cond: Any) -> jax.Array:
    inner, clusters = cond
    eps, variance = processes.split_variance(eps_fn(x_t, t, inner), x_t)

    def log_p(x: jax.Array) -> jax.Array:
      log_probability = jax.nn.log_softmax(logits_fn(x, t))
      return jnp.take_along_axis(
        log_probability, clusters[:, None], axis=1
      ).sum()

    pull = scale * schedule.noise_scale(t)[:, None, None, None]
    eps = eps - pull * jax.grad(log_p)(x_t)
    if variance is None:
      return eps
    return jnp.concatenate([eps, variance], axis=-1)

  return guided
