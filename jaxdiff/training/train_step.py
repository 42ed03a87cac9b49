"""One update of one model: gradients, over 'data', and the step itself."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdiff.runtime import mesh, prng
from jaxdiff.training import train_state


class Batch(NamedTuple):
  """This device's rows of a batch.

  Attributes:
    x0: float32 [B, H, W, C] in [-1, 1].
    labels: int32 [B, ...], or None for an unconditional net.
    position: int32 [B] place in the whole batch; noise is drawn by it. Of
      private training, the image's number among the examples.
    real: bool [B], False for rows that only fill the batch; None: all are.
  """

  x0: jax.Array
  labels: jax.Array | None
  position: jax.Array
  real: jax.Array | None = None


# grad_fn(params, batch, key) -> (gradients averaged over 'data', metrics).
GradFn = Callable[[Any, Batch, jax.Array], tuple[Any, dict[str, jax.Array]]]

# loss_fn(params, batch, keys [B]) -> float32 [B].
LossFn = Callable[[Any, Batch, jax.Array], jax.Array]


def make_grad_fn(loss_fn: LossFn) -> GradFn:
  """Plain gradients of the mean loss over the whole batch."""

  def grad_fn(
    params: Any, batch: Batch, key: jax.Array
  ) -> tuple[Any, dict[str, jax.Array]]:
    keys = prng.fold_each(key, batch.position)
    # Without the cast, autodiff itself would sum gradients over 'data'.
    local = jax.lax.pcast(params, mesh.DATA, to='varying')
    loss, grads = jax.value_and_grad(lambda p: loss_fn(p, batch, keys).mean())(
      local
    )
    loss, grads = jax.lax.pmean((loss, grads), mesh.DATA)
    return grads, {'loss': loss, 'grad_norm': optax.tree.norm(grads)}

  return grad_fn


def update(
  state: train_state.TrainState,
  grads: Any,
  metrics: dict[str, jax.Array],
  *,
  tx: optax.GradientTransformation,
  ema_decay: float,
) -> tuple[train_state.TrainState, dict[str, jax.Array]]:
  """One optimiser step and one step of the weight average.

  Args:
    state: of one model.
    grads: of its parameters.
    metrics: scalars that came with them.
    tx: optimiser.
    ema_decay: decay of the weight average; early on (1 + n) / (10 + n) when
      that is less, so that short runs do not average in their start.

  Returns:
    The next state and scalars to log.
  """
  updates, opt_state = tx.update(grads, state.opt_state, state.params)
  params = optax.apply_updates(state.params, updates)
  count = state.step.astype(jnp.float32)
  decay = jnp.minimum(ema_decay, (1.0 + count) / (10.0 + count))
  ema_params = optax.incremental_update(params, state.ema_params, 1.0 - decay)
  metrics = {**metrics, 'param_norm': optax.tree.norm(params)}
  return (
    train_state.TrainState(state.step + 1, params, ema_params, opt_state),
    metrics,
  )
