"""DP-SGD: gradients clipped one by one, summed, and noised once.

Abadi et al. 2016, "Deep Learning with Differential Privacy"; for diffusion
models Dockhorn et al. 2023, "Differentially Private Diffusion Models". With
l(x, e) the loss of an image with one draw of timestep, noise and mirror image,
C the largest norm and B the expected size of a batch:

(1)  g(x)   = clip_C of the gradient of (1 / K) sum over k of l(x, e_k)
(2)  update = (sum over the batch of g(x) + N(0, (sigma C)^2)) / B

Batches are drawn by Poisson's law (`data/batches.py`); B is a constant, not the
size that was drawn. An image's draws are folded from its number, so that they
stay what they are where another image is left out: that is what (1) bounds.
jax-privacy clips, and adds the noise.
"""

from collections.abc import Callable
from typing import Any

import jax
from jax import flatten_util
import jax.numpy as jnp

from jaxdiff.runtime import mesh, prng
from jaxdiff.training import train_step


def make_grad_fn(
  loss_fn: train_step.LossFn,
  *,
  clip_norm: float,
  noise_multiplier: float,
  expected: int,
  multiplicity: int = 1,
  flip: bool = False,
  at_once: int | None = None,
) -> Callable[..., Any]:
  """Equations (1) and (2).

  Args:
    loss_fn: of the images of a batch.
    clip_norm: C.
    noise_multiplier: sigma.
    expected: B.
    multiplicity: K.
    flip: every other draw is of the mirror image, the first by a fair coin.
    at_once: examples whose gradients are computed together, at most; None:
      all.

  Returns:
    A `train_step.GradFn` whose figures are private as its gradients are: the
    norm of the noised gradient, and no loss.
  """
  # Brings dp-accounting along: only who trains privately waits for it.
  from jax_privacy import clipping, noise_addition

  def grad_fn(
    params: Any, batch: train_step.Batch, key: jax.Array
  ) -> tuple[Any, dict[str, jax.Array]]:
    clip_key, flip_key, noise_key = jax.random.split(key, 3)

    def of_one(params, x0, position, labels=None) -> jax.Array:
      """Equation (1)'s loss of one image, every argument with an axis of 1."""
      one = lambda x: jnp.repeat(x, multiplicity, axis=0)
      keys = prng.fold_each(
        jax.random.fold_in(clip_key, position[0]), jnp.arange(multiplicity)
      )
      x0 = one(x0)
      if flip:
        coin = jax.random.bernoulli(jax.random.fold_in(flip_key, position[0]))
        mirrored = (coin + jnp.arange(multiplicity)) % 2 == 1
        x0 = jnp.where(mirrored[:, None, None, None], x0[:, :, ::-1], x0)
      labels = None if labels is None else one(labels)
      copies = train_step.Batch(x0, labels, jnp.arange(multiplicity))
      return loss_fn(params, copies, keys).mean()

    given = (batch.x0, batch.position)
    if batch.labels is not None:
      given += (batch.labels,)
    clipped = clipping.clipped_grad(
      of_one,
      l2_clip_norm=clip_norm,
      batch_argnums=tuple(range(1, 1 + len(given))),
      microbatch_size=_divisor(len(batch.x0), at_once),
    )
    filling = None if batch.real is None else ~batch.real
    # Without the cast, autodiff itself would sum gradients over 'data'.
    local = jax.lax.pcast(params, mesh.DATA, to='varying')
    grads = clipped(local, *given, is_padding_example=filling)
    grads = jax.lax.psum(grads, mesh.DATA)
    privatizer = noise_addition.gaussian_privatizer(
      stddev=noise_multiplier * clip_norm, prng_key=noise_key
    )
    # One draw for all weights: XLA had not compiled a draw for each of a
    # hundred leaves after a minute.
    flat, unravel = flatten_util.ravel_pytree(grads)
    flat, _ = privatizer.update(flat, privatizer.init(flat))
    flat = flat / expected
    return unravel(flat), {'noised_grad_norm': jnp.linalg.norm(flat)}

  return grad_fn


def make_warm_grad_fn(loss_fn: train_step.LossFn) -> Callable[..., Any]:
  """Plain gradients of images that are private already, and the same figure.

  Args:
    loss_fn: of the images of a batch.
  """
  plain = train_step.make_grad_fn(loss_fn)

  def grad_fn(
    params: Any, batch: train_step.Batch, key: jax.Array
  ) -> tuple[Any, dict[str, jax.Array]]:
    grads, figures = plain(params, batch, key)
    return grads, {'noised_grad_norm': figures['grad_norm']}

  return grad_fn


def _divisor(rows: int, at_once: int | None) -> int | None:
  """The most examples at once that divide the rows of a device."""
  if at_once is None or at_once >= rows:
    return None
  return next(n for n in range(at_once, 0, -1) if rows % n == 0)
