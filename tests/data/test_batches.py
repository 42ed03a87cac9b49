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


def test_late_steps_do_not_overflow():
  step = jnp.int32(2**31 // 128 + 5)
  rows = batches.batch_positions(
    jax.random.key(0), step, jnp.int32(100),
    size=128, smallest=100, largest=100,
  )  # fmt: skip
  assert rows.min() >= 0 and rows.max() < 100
  assert np.bincount(np.asarray(rows), minlength=100).max() <= 2 + 1
