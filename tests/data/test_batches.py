"""Batches: whole epochs, whatever the batch size; a function of (key, step)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.data import batches


def stream(count, size, steps, largest=None, smallest=None, seed=0):
  smallest, largest = smallest or count, largest or count
  draw = jax.jit(
    lambda step: batches.batch_positions(
      jax.random.key(seed), step, jnp.int32(count),
      size=size, smallest=smallest, largest=largest,
    )
  )  # fmt: skip
  return np.concatenate([draw(jnp.int32(step)) for step in range(steps)])


@pytest.mark.parametrize(
  ('count', 'size'), [(12, 4), (10, 4), (7, 3), (5, 12), (5, 23), (1, 3)]
)
def test_every_epoch_visits_every_row_once(count, size):
  rows = stream(count, size, 30)
  epochs = rows[: len(rows) // count * count].reshape(-1, count)
  np.testing.assert_array_equal(
    np.sort(epochs, axis=1), np.tile(np.arange(count), (len(epochs), 1))
  )
  if count > 4:
    assert len(np.unique(epochs, axis=0)) > 1


def test_sets_of_a_block_may_differ_in_size():
  rows = stream(9, 4, 18, largest=10, smallest=9)
  assert rows.max() == 8
  np.testing.assert_array_equal(np.bincount(rows), np.full(9, 8))


def test_order_depends_on_the_key():
  assert (stream(50, 50, 1) != stream(50, 50, 1, seed=1)).any()


def test_an_epoch_across_2_to_31_is_whole():
  # An epoch of 96 rows in 3 batches, the second of which passes 2^31.
  epoch = 2**31 // 96
  steps = np.arange(3) + 3 * epoch
  assert steps[0] * 32 < 2**31 < (steps[-1] + 1) * 32
  rows = [
    batches.batch_positions(
      jax.random.key(0), jnp.int32(step), jnp.int32(96),
      size=32, smallest=96, largest=96,
    )
    for step in steps
  ]  # fmt: skip
  np.testing.assert_array_equal(np.sort(np.concatenate(rows)), np.arange(96))


def test_a_set_alone_has_the_order_it_has_beside_a_larger_one():
  np.testing.assert_array_equal(
    stream(16, 8, 6), stream(16, 8, 6, largest=17, smallest=16)
  )
