"""One update: gradients over 'data', the weight average."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import train_state, train_step


def loss_fn(params, batch, keys):
  noise = jax.vmap(lambda key: jax.random.normal(key, ()))(keys)
  predicted = (batch.x0 * params['w'][None]).sum(axis=(1, 2, 3))
  return jnp.square(predicted - noise)


def run(devices, ema_decay=0.9):
  mesh = mesh_lib.make(1, jax.devices()[:devices])
  tx = optax.sgd(0.1)
  params = {'w': jnp.ones((2, 2, 1))}
  state = train_state.create(params, tx)
  x0 = jax.random.normal(jax.random.key(0), (8, 2, 2, 1))

  def body(x0):
    local = x0.shape[0]
    start = jax.lax.axis_index(mesh_lib.DATA) * local
    batch = train_step.Batch(x0, None, start + jnp.arange(local))
    grads, metrics = train_step.make_grad_fn(loss_fn)(
      state.params, batch, jax.random.key(1)
    )
    return train_step.update(state, grads, metrics, tx=tx, ema_decay=ema_decay)

  sharded = jax.shard_map(
    body,
    mesh=mesh,
    in_specs=mesh_lib.PER_EXAMPLE,
    out_specs=mesh_lib.REPLICATED,
  )
  return jax.jit(sharded)(x0), x0, params


@pytest.mark.parametrize('devices', [1, 4])
def test_update_is_the_gradient_of_the_whole_batch(devices):
  (state, metrics), x0, params = run(devices)
  keys = jax.vmap(lambda i: jax.random.fold_in(jax.random.key(1), i))(
    jnp.arange(8)
  )
  batch = train_step.Batch(x0, None, jnp.arange(8))
  loss, grads = jax.value_and_grad(lambda p: loss_fn(p, batch, keys).mean())(
    params
  )
  np.testing.assert_allclose(metrics['loss'], loss, rtol=1e-5)
  np.testing.assert_allclose(
    metrics['grad_norm'], optax.tree.norm(grads), rtol=1e-5
  )
  np.testing.assert_allclose(
    state.params['w'], params['w'] - 0.1 * grads['w'], rtol=1e-5
  )
  assert int(state.step) == 1


def test_the_average_starts_quickly():
  (state, _), _, params = run(1)
  # At step 0 the decay is (1 + 0) / (10 + 0), not 0.9.
  want = 0.1 * params['w'] + 0.9 * state.params['w']
  np.testing.assert_allclose(state.ema_params['w'], want, rtol=1e-5)
