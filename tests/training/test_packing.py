"""States whose small arrays are one: the same states, and the same training."""

import dataclasses

import jax
import numpy as np
import pytest

from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import block_states, input_pipeline, loop, packing
from jaxdiff.training import plan as training_plan
from tests import tiny

# Arrays of 2^14 numbers, too, of which two devices keep a part each.
WIDE = {
  'model__block_out_channels': (32, 64), 'model__norm_num_groups': 8,
  'train__batch_size': 64,
}  # fmt: skip


def make_plan() -> training_plan.TrainPlan:
  return tiny.plans(**tiny.TWO_LEVELS | WIDE).subject.train


def states_of(plan, models, grid):
  """A slot each, all of whose numbers differ."""
  states = block_states.init_states(plan, range(models), grid)
  rng = np.random.default_rng(0)
  moved = jax.tree.map(
    lambda leaf: jax.device_put(
      (rng.uniform(size=leaf.shape) * 100).astype(leaf.dtype), leaf.sharding
    ),
    states,
  )
  return mesh_lib.split_slots(grid, moved)


@pytest.mark.parametrize(
  'models, devices, shards', [(2, 2, 1), (4, 2, 1), (1, 2, 2), (2, 4, 2)]
)
def test_what_is_unpacked_is_what_was_packed(models, devices, shards):
  plan = make_plan()
  grid = mesh_lib.make(models, jax.devices()[:devices], shards=shards)
  packed = packing.Packing(plan, grid)
  slots = states_of(plan, models, grid)
  small = packed.pack_slots(slots)
  assert len(jax.tree.leaves(small)) < len(jax.tree.leaves(slots)) / 3
  for slot in small:
    assert slot.params.large and slot.opt_state[1][0].mu.large
    jax.tree.map(
      lambda leaf, like: _equal_shapes(leaf, like), slot, packed.abstract_slot()
    )
  for one, two in zip(slots, packed.unpack_slots(small), strict=True):
    jax.tree.map(np.testing.assert_array_equal, one, two)
    jax.tree.map(_equal_shapes, one, two)


def _equal_shapes(one, two):
  assert (one.shape, one.dtype) == (two.shape, two.dtype)
  assert one.sharding.is_equivalent_to(two.sharding, one.ndim)


def test_packed_states_train_as_others():
  plan = make_plan()
  grid = mesh_lib.make(2, jax.devices()[:2])
  keep = plan.examples.keep[:2]
  found = []
  for elementwise in (True, False):
    one = dataclasses.replace(plan, elementwise=elementwise)
    packed = packing.Packing(one, grid)
    assert packed.packs == elementwise
    (slot,) = packed.pack_slots(block_states.init_slots(one, range(2), grid))
    (rows,) = input_pipeline.own_rows(one, range(2), keep, grid)
    pixels = input_pipeline.feed(one, range(2), keep, grid, 0)
    step = loop.make_step_fn(one, grid, keep)
    for _ in range(3):
      slot, metrics = step(slot, rows, next(pixels))
    found.append((packed.unpack_slots([slot])[0], metrics))
  (states, metrics), (others, figures) = found
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5),
    metrics, figures,
  )  # fmt: skip
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    states.ema_params, others.ema_params,
  )  # fmt: skip


def test_what_must_not_be_packed_is_not(monkeypatch):
  plan = make_plan()
  grid = mesh_lib.make(1, jax.devices()[:1])
  assert packing.Packing(plan, grid).packs
  other = dataclasses.replace(plan, elementwise=False)
  private = dataclasses.replace(plan, private=training_plan.Private(64, 100))
  alone = dataclasses.replace(plan, init_fn=lambda key: {'w': np.ones(4)})
  for one in (other, private, alone):
    packed = packing.Packing(one, grid)
    assert not packed.packs
    slot = block_states.init_slots(one, range(1), grid)
    assert packed.pack_slots(slot)[0] is slot[0]
  monkeypatch.setattr('jaxdiff.runtime.compiling._LARGE', 8)
  assert not packing.Packing(plan, grid).packs
