"""Training state of one model: a plain pytree, stacked for a block."""

from typing import Any, NamedTuple

import jax
import optax


class TrainState(NamedTuple):
  """One model; every leaf gains a leading axis K in a block of K models."""

  step: jax.Array  # int32 scalar: updates done
  params: Any
  ema_params: Any
  opt_state: optax.OptState


def create(params: Any, tx: optax.GradientTransformation) -> TrainState:
  """The state before the first step."""
  return TrainState(
    step=jax.numpy.zeros((), jax.numpy.int32),
    params=params,
    ema_params=params,
    opt_state=tx.init(params),
  )
