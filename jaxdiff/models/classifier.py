"""A small classifier of noised images: p(class | x_t)."""

from flax import linen as nn
import jax
import jax.numpy as jnp

from jaxdiff.models import layers


class Surrogate(nn.Module):
  """Convolutions that halve the sides, told the timestep at every level.

  Attributes:
    num_classes: logits.
    channels: of each level.
  """

  num_classes: int
  channels: tuple[int, ...] = (32, 64)

  @nn.compact
  def __call__(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """x_t [B, H, W, C], t int [B] -> logits float32 [B, num_classes]."""
    time = layers.timestep_embedding(t, 2 * self.channels[0])
    time = nn.silu(nn.Dense(self.channels[-1])(time))
    x = x_t
    for width in self.channels:
      x = nn.Conv(width, (3, 3), strides=2)(x)
      x = nn.silu(x + nn.Dense(width)(time)[:, None, None, :])
      x = x + nn.silu(nn.Conv(width, (3, 3))(x))
    x = nn.silu(nn.Dense(2 * self.channels[-1])(x.reshape(len(x), -1)))
    return nn.Dense(self.num_classes)(jnp.concatenate([x, time], axis=-1))
