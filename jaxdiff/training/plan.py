"""What training works by."""

from collections.abc import Callable
import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import optax

from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import prng
from jaxdiff.training import train_state


@dataclasses.dataclass(frozen=True)
class Private:
  """How training is private: batches by Poisson's law, and a first phase.

  Attributes:
    rows: that a batch has room for, a multiple of 64.
    count: the public number of examples that a batch is a share of.
    warm_steps: first steps, on images that are private already.
    warm_grad_fn: of these; None if there are none.
    warm_images: (images, cond, model) of a training set -> float32
      [R, H, W, C] in [-1, 1].
    warm_count: how many these are, R.
    warm_rows: of a batch of these, a multiple of 64, too.
    warm_cond: what nets are told of these, int32 [R, ...]; None: nothing.
  """

  rows: int
  count: int
  warm_steps: int = 0
  warm_grad_fn: Callable[..., Any] | None = None
  warm_images: Callable[..., np.ndarray] | None = None
  warm_count: int = 0
  warm_rows: int = 0
  warm_cond: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class TrainPlan:
  """All that training needs; made by `plans`.

  Attributes:
    init_fn: key -> params of one model.
    grad_fn: see `train_step.GradFn`.
    tx: optimiser.
    ema_decay: decay of the averaged weights.
    examples: the images, and which model trains on which; where a mirror image
      counts as the image, it is mirrored in half of the batches.
    ensemble: the models; its seed is that of initialisation, data order and
      noise. Its `restore` is not used.
    num_steps: updates of each model.
    batch_size: of one model, over all devices along 'data'.
    device_bytes: of images that lie on every device; more are streamed.
    log_every: steps between logged figures; divides `checkpoint_every`.
    checkpoint_every: steps between checkpoints.
    max_to_keep: newest checkpoints kept; None keeps all.
    profile_steps: steps traced into the run's profile/.
    private: how training is private; None: it is not.
    elementwise: the optimiser treats all numbers alike, but for a norm of all.
  """

  init_fn: Callable[[jax.Array], Any]
  grad_fn: Callable[..., tuple[Any, dict[str, jax.Array]]]
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
  private: Private | None = None
  elementwise: bool = False

  @property
  def rows(self) -> int:
    """Of a batch, with those that only fill it."""
    return self.private.rows if self.private else self.batch_size

  def init(self, model: jax.Array) -> train_state.TrainState:
    """The state of one model before its first step."""
    root = prng.root(self.ensemble.seed, 'init')
    params = self.init_fn(jax.random.fold_in(root, model))
    return train_state.create(params, self.tx)

  @functools.cached_property
  def shapes(self) -> train_state.TrainState:
    """`jax.ShapeDtypeStruct`s of such a state."""
    return jax.eval_shape(self.init, 0)

  def keep(self, block: layout.ModelBlock) -> np.ndarray:
    """bool [K, N] of the models of a block."""
    return self.examples.keep[block.first : block.last + 1]
