"""Gradients of a generator and a discriminator, trained side by side.

R3GAN's losses (Huang et al. 2024, "The GAN is dead; long live the GAN!",
section 2; the pairing: Jolicoeur-Martineau 2019, the penalties: Mescheder et
al. 2018). With real x, fake x' = G(z, y) of the same label and f = softplus:

(1)  discriminator  E f(D(x', y) - D(x, y))
                    + gamma / 2 (E |grad_x D(x, y)|^2 + E |grad_x' D(x', y)|^2)
(2)  generator      E f(D(x, y) - D(x', y))

Both step at once, from the same weights: a step is then a function of weights
and batch like any other, and every example's part is one of it alone.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdiff.runtime import mesh, prng
from jaxdiff.training import train_step

# generate(params of both nets, z [B, Z], labels) -> x [B, H, W, C].
GenerateFn = Callable[[Any, jax.Array, Any], jax.Array]
# discriminate(params of both nets, x [B, H, W, C], labels) -> float32 [B].
DiscriminateFn = Callable[[Any, jax.Array, Any], jax.Array]

# Parts of the weights of one model.
GENERATOR, DISCRIMINATOR = 'generator', 'discriminator'


def discriminator_loss(
  params: Any,
  x: jax.Array,
  fake: jax.Array,
  labels: Any,
  *,
  discriminate: DiscriminateFn,
  gamma: float,
) -> tuple[jax.Array, jax.Array]:
  """Equation (1) of each example [B], and its penalty [B]."""

  def whole(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    scores = discriminate(params, x, labels)
    return scores.sum(), scores

  def penalised(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    slope, scores = jax.grad(whole, has_aux=True)(x)
    return jnp.square(slope).sum(axis=(1, 2, 3)), scores

  of_real, real = penalised(x)
  of_fake, made = penalised(fake)
  penalty = 0.5 * gamma * (of_real + of_fake)
  return jax.nn.softplus(made - real) + penalty, penalty


def make_grad_fn(
  generate: GenerateFn,
  discriminate: DiscriminateFn,
  *,
  latent_size: int,
  gamma: float,
) -> train_step.GradFn:
  """Gradients of both nets, of the means over the whole batch.

  Args:
    generate: the generator.
    discriminate: the discriminator.
    latent_size: Z.
    gamma: of the penalties.

  Returns:
    grad_fn of params by GENERATOR and DISCRIMINATOR.
  """

  def grad_fn(
    params: Any, batch: train_step.Batch, key: jax.Array
  ) -> tuple[Any, dict[str, jax.Array]]:
    keys = prng.fold_each(key, batch.position)
    local = jax.lax.pcast(params, mesh.DATA, to='varying')
    z = prng.normal_each(keys, (latent_size,))
    fake, back = jax.vjp(
      lambda g: generate({GENERATOR: g}, z, batch.labels), local[GENERATOR]
    )

    def of_discriminator(d: Any) -> tuple[jax.Array, jax.Array]:
      loss, penalty = discriminator_loss(
        {DISCRIMINATOR: d},
        batch.x0,
        fake,
        batch.labels,
        discriminate=discriminate,
        gamma=gamma,
      )
      return loss.mean(), penalty.mean()

    (loss, penalty), of_d = jax.value_and_grad(of_discriminator, has_aux=True)(
      local[DISCRIMINATOR]
    )
    real = discriminate(local, batch.x0, batch.labels)

    def of_fakes(fake: jax.Array) -> jax.Array:
      made = discriminate(local, fake, batch.labels)
      return jax.nn.softplus(real - made).mean()

    generator_loss, slope = jax.value_and_grad(of_fakes)(fake)
    grads = {GENERATOR: back(slope)[0], DISCRIMINATOR: of_d}
    figures = {
      'loss': loss, 'generator_loss': generator_loss, 'penalty': penalty,
    }  # fmt: skip
    grads, figures = jax.lax.pmean((grads, figures), mesh.DATA)
    return grads, figures | {'grad_norm': optax.tree.norm(grads)}

  return grad_fn
