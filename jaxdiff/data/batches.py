"""Batches as a function of (key, step): shuffled, or drawn by Poisson's law."""

import jax
import jax.numpy as jnp

from jaxdiff.runtime import prng


def batch_positions(
  key: jax.Array,
  step: jax.Array,
  count: jax.Array,
  *,
  size: int,
  smallest: int,
  largest: int,
) -> jax.Array:
  """Which rows of a training set make up one batch.

  Epochs are shuffles without replacement and follow each other without a gap:
  a batch may straddle two, or many when it is larger than the set. The answer
  depends on nothing but the arguments, so training resumes anywhere.

  Args:
    key: of the model's data order.
    step: scalar, 0-based; (step + 1) * size must stay below 2^32.
    count: scalar, rows in this model's training set.
    size: batch size B.
    smallest: static lower bound of `count`, at least 1.
    largest: static upper bound of `count`.

  Returns:
    int32 [B], each below `count`.
  """
  count = count.astype(jnp.uint32)
  stream = step.astype(jnp.uint32) * size + jnp.arange(size, dtype=jnp.uint32)
  epoch, offset = stream // count, stream % count
  touched = -(-size // smallest) + 1

  first = epoch[0]
  shuffles = jax.vmap(
    lambda number: shuffle(key, number, count, largest=largest)
  )(first + jnp.arange(touched, dtype=jnp.uint32))
  return shuffles[epoch - first, offset].astype(jnp.int32)


def poisson_positions(
  key: jax.Array,
  step: jax.Array,
  count: jax.Array,
  threshold: jax.Array,
  *,
  size: int,
  largest: int,
) -> jax.Array:
  """Every row by itself is in a batch or not, as DP-SGD's accounting has it.

  Args:
    key: of the model's data order.
    step: scalar, 0-based.
    count: scalar, rows in this model's training set.
    threshold: uint32 scalar; a row is in with probability threshold / 2^32.
    size: rows that there is room for; those beyond it are left out.
    largest: static upper bound of `count`.

  Returns:
    int32 [size], each below `count`, or -1 where there is none.
  """
  rows = jnp.arange(largest, dtype=jnp.uint32)
  row_keys = prng.fold_each(
    jax.random.fold_in(key, step.astype(jnp.uint32)), rows
  )
  bits = jax.vmap(lambda key: jax.random.bits(key, dtype=jnp.uint32))(row_keys)
  drawn = bits < threshold
  (chosen,) = jnp.nonzero(
    drawn & (rows < count.astype(jnp.uint32)), size=size, fill_value=-1
  )
  return chosen.astype(jnp.int32)


def shuffle(
  key: jax.Array, epoch: jax.Array, count: jax.Array, *, largest: int
) -> jax.Array:
  """The order of one epoch.

  Args:
    key: of the model's data order.
    epoch: uint32 scalar.
    count: uint32 scalar, rows in this model's training set.
    largest: static upper bound of `count`.

  Returns:
    int32 [largest]; the first `count` are a permutation.
  """
  # Ranks drawn row by row do not depend on `largest`, which the other models
  # of a block decide.
  rows = jnp.arange(largest, dtype=jnp.uint32)
  row_keys = prng.fold_each(jax.random.fold_in(key, epoch), rows)
  rank = jax.vmap(jax.random.bits)(row_keys) >> 1
  return jnp.argsort(jnp.where(rows < count, rank, jnp.uint32(2**32 - 1)))
