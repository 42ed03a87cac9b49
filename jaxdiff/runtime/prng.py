"""Random numbers by meaning: (seed, purpose, model, step, index).

Never by device, batch or host, so that a result does not depend on any of
them. Each purpose has a root of its own: noise that a network was trained on
is never the noise that an attack measures it with, and the draw of a split is
never that of the interval which judges it.
"""

import jax
import numpy as np

PURPOSES = (
  'init', 'data', 'noise', 'sampling', 'attack',
  'subset', 'split', 'interval', 'control', 'inpainting', 'inpainting_loss',
  'canaries', 'surrogate', 'guidance', 'screening', 'fakes', 'warm',
  'ambient',
)  # fmt: skip


def root(seed: int, purpose: str) -> jax.Array:
  """The key of one purpose; raises ValueError for an unknown purpose."""
  return jax.random.fold_in(jax.random.key(seed), PURPOSES.index(purpose))


def rng(seed: int, purpose: str, *numbers: int) -> np.random.Generator:
  """The same on the host: a NumPy generator of a purpose and numbers.

  The last 1 ends the list: NumPy takes zeros at its end for nothing, so that
  without it (0, 0) and () would be one generator.
  """
  return np.random.default_rng([seed, PURPOSES.index(purpose), *numbers, 1])


def fold_each(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """One key per number: int [B] -> keys [B]."""
  return jax.vmap(lambda n: jax.random.fold_in(key, n))(numbers)


def normal_each(keys: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Independent standard normals: keys [B] -> float32 [B, *shape]."""
  return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)
