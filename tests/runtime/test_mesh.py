"""The mesh: placement from counts, slots there and back."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff.runtime import mesh as mesh_lib


@pytest.mark.parametrize(
  ('num_models', 'devices', 'rows'),
  [(8, 4, 4), (1, 4, 1), (2, 4, 2), (6, 4, 2), (3, 4, 1), (4, 1, 1)],
)
def test_rows_divide_models_and_devices(num_models, devices, rows):
  mesh = mesh_lib.make(num_models, jax.devices()[:devices])
  assert dict(mesh.shape) == {'ensemble': rows, 'data': devices // rows}


@pytest.mark.parametrize(('num_models', 'devices'), [(8, 4), (4, 4), (6, 2)])
def test_slots_split_and_join(num_models, devices):
  mesh = mesh_lib.make(num_models, jax.devices()[:devices])
  tree = {'a': np.arange(num_models * 3).reshape(num_models, 3)}
  placed = mesh_lib.put(mesh, tree, mesh_lib.PER_MODEL)
  slots = mesh_lib.split_slots(mesh, placed)
  assert len(slots) == mesh_lib.num_slots(mesh, num_models)
  for slot, part in enumerate(slots):
    models = mesh_lib.slot_models(mesh, num_models, slot)
    np.testing.assert_array_equal(part['a'], tree['a'][models])
  joined = mesh_lib.join_slots(mesh, slots)
  np.testing.assert_array_equal(joined['a'], tree['a'])
  assert joined['a'].sharding == placed['a'].sharding


def test_model_axis_comes_and_goes():
  tree = {'a': jnp.ones((1, 2))}
  own = mesh_lib.own_model(tree)
  assert own['a'].shape == (2,)
  assert mesh_lib.add_model_axis(own)['a'].shape == (1, 2)


def test_cpu_devices_divide_models_and_batches(monkeypatch):
  monkeypatch.setattr(mesh_lib.os, 'sched_getaffinity', lambda _: range(6))
  number = mesh_lib.default_cpu_devices
  assert number(12, [64]) == 6  # a model or two each
  assert number(4, [64, 512]) == 4
  assert number(4, [66]) == 6  # pairs of models, each shared by three
  assert number(1, [64]) == 4  # one model shared: 6 does not divide 64
  assert number(1, [24]) == 3  # at least 8 examples each
  assert number(1, [7]) == 1


def test_devices_a_model_can_be_given():
  four = jax.devices()[:4]
  shape = lambda *args: tuple(mesh_lib.make(*args).shape.values())
  assert shape(8, four) == (4, 1)
  assert shape(8, four, 2) == (2, 2)
  assert shape(8, four, 4) == (1, 4)
  for models, shards in ((8, 3), (3, 2), (8, 8)):
    with pytest.raises(ValueError, match='devices_per_model'):
      mesh_lib.make(models, four, shards)
