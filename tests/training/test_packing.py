"""States whose small arrays are one: the same states, and the same training."""

import dataclasses

from etils import epath
import jax
import numpy as np
import pytest

from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.training import block_states, loop, packing
from jaxdiff.training import plan as training_plan
from tests import tiny


@pytest.fixture(autouse=True)
def cut(monkeypatch):
  """Kernels [3, 3, 8, 8] are large, and cut where a model has two devices."""
  monkeypatch.setattr(mesh_lib, 'LEAST_CUT', 512)


def make_plan() -> training_plan.TrainPlan:
  return tiny.plans(**tiny.TWO_LEVELS).subject.train


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
  for slot in states_of(plan, models, grid):
    small = packed.pack_placed(slot)
    assert len(jax.tree.leaves(small)) < len(jax.tree.leaves(slot)) / 3
    assert small.params.large and small.opt_state[1][0].mu.large
    jax.tree.map(_assert_placed_alike, small, packed.abstract_slot())
    jax.tree.map(np.testing.assert_array_equal, small, packed.pack(slot))
    for back in (packed.unpack_placed(small), packed.unpack(small)):
      jax.tree.map(np.testing.assert_array_equal, slot, back)
    jax.tree.map(_assert_placed_alike, slot, packed.unpack_placed(small))


def _assert_placed_alike(one, two):
  assert (one.shape, one.dtype) == (two.shape, two.dtype)
  assert one.sharding.is_equivalent_to(two.sharding, one.ndim)


def test_packed_states_train_as_others(tmp_path):
  """From checkpoints of others, too."""
  plan = make_plan()
  other = dataclasses.replace(plan, elementwise=False)
  found = []
  for name, plans in {
    'packed': [plan],
    'other': [other],
    'other, then packed': [dataclasses.replace(other, num_steps=10), plan],
  }.items():
    block = layout.ModelBlock(epath.Path(tmp_path / name), 0, 1)
    for one in plans:
      states = loop.fit_block(one, block)
    found.append(states)
  for states in found[1:]:
    jax.tree.map(_assert_placed_alike, states, found[0])
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
      states.ema_params, found[0].ema_params,
    )  # fmt: skip


@pytest.mark.parametrize('known', [True, False])
def test_only_what_the_older_emitters_compile_is_not_donated(
  known, monkeypatch
):
  how = {'xla_cpu_use_fusion_emitters': False} if known else None
  monkeypatch.setattr('jaxdiff.runtime.compiling.older_emitters', lambda: how)
  plan = make_plan()
  grid = mesh_lib.make(1, jax.devices()[:1])
  for one in (plan, dataclasses.replace(plan, elementwise=False)):
    keep = one.examples.keep[:1]
    step = loop.make_step_fn(one, grid, keep)
    text = step.lower(*loop.step_args(one, grid, keep)).as_text()
    donated = 'tf.aliasing_output' in text or 'jax.buffer_donor' in text
    assert donated != (known and one is plan)


def test_what_must_not_be_packed_is_not(monkeypatch):
  plan = make_plan()
  grid = mesh_lib.make(1, jax.devices()[:1])
  assert packing.Packing(plan, grid).packs

  def mixed(key):
    del key
    return {'w': np.ones(4, np.float32), 'b': np.ones(4, np.float16)}

  for change in (
    {'elementwise': False},
    {'private': training_plan.Private(64, 100)},
    {'init_fn': lambda key: {'w': np.ones(4)}},
    {'init_fn': mixed},
  ):
    one = dataclasses.replace(plan, **change)
    packed = packing.Packing(one, grid)
    assert not packed.packs
    (slot,) = block_states.init_slots(one, range(1), grid)
    same = packed.pack_placed(slot)
    assert all(map(lambda a, b: a is b, *map(jax.tree.leaves, (slot, same))))
  monkeypatch.setattr('jaxdiff.runtime.compiling._LARGE', 8)
  assert not packing.Packing(plan, grid).packs
