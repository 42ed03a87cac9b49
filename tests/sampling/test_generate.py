"""Samples: equal on 1 and 4 devices, in any batch, and block by block."""

import dataclasses

from etils import epath
import jax
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.sampling import generate
from jaxdiff.training import loop
from tests import tiny


@pytest.fixture(scope='module')
def plans():
  # As far from the data as random weights draw, one level amplifies rounding.
  return tiny.plans(model__class_conditional=True, **tiny.TWO_LEVELS)


@pytest.fixture(scope='module')
def params(plans):
  return tiny.random_params(plans.subject.train, 2)


def draw(plan, params, devices, indices):
  """x0 float32 [2, S, H, W, C] of models 0 and 1 on some devices."""
  mesh = mesh_lib.make(2, jax.devices()[:devices])
  sampler = generate.make_sampler(plan, mesh)
  placed = mesh_lib.put(mesh, params, mesh_lib.PER_MODEL)
  out = np.zeros((2, len(indices), 8, 8, 1), np.float32)
  for slot, one in enumerate(mesh_lib.split_slots(mesh, placed)):
    models = mesh_lib.slot_models(mesh, 2, slot)
    out[models] = sampler(one, models, indices)
  return out


def test_one_and_four_devices_agree_before_quantising(plans, params):
  indices = np.arange(32)
  one = draw(plans.subject.sample, params, 1, indices)
  four = draw(plans.subject.sample, params, 4, indices)
  assert np.abs(one - four).max() <= 1e-4
  assert np.abs(one[0] - one[1]).max() > 1e-2
  assert np.abs(one[:, 0] - one[:, 1]).max() > 1e-2


def test_batch_size_changes_nothing_of_what_is_learned(tmp_path):
  """Random weights would: 0.1 away from fresh ones, rounding grows to 2e-5."""
  plans = tiny.plans(
    model__class_conditional=True, train__num_steps=200,
    train__log_every=200, train__checkpoint_every=200, **tiny.TWO_LEVELS,
  )  # fmt: skip
  block = layout.ModelBlock(epath.Path(tmp_path), 0, 1)
  mesh = mesh_lib.make(2, jax.devices()[:2])
  params = loop.fit_block(plans.subject.train, block, mesh).params
  indices = np.arange(32)
  drawn = [
    draw(
      dataclasses.replace(plans.subject.sample, batch_size=size),
      jax.device_get(params), devices, indices,
    )
    for devices, size in ((1, 32), (1, 8), (4, 32), (4, 8))
  ]  # fmt: skip
  assert np.ptp(drawn, axis=0).max() <= 1e-5
  assert np.abs(drawn[0][:, 0] - drawn[0][:, 1]).max() > 1e-2


def test_blocks_resume_and_grow(plans, params, tmp_path, monkeypatch):
  run = layout.Run(epath.Path(tmp_path))
  plan = dataclasses.replace(
    plans.subject.sample,
    ensemble=tiny.ensemble(
      2, restore=lambda _, mesh: mesh_lib.put(mesh, params, mesh_lib.PER_MODEL)
    ),
  )
  generate.generate(plan, run)
  paths = [run.samples(model, start) for model in (0, 1) for start in (0, 32)]
  first = [path.read_bytes() for path in paths]
  block = files.read_npz(paths[1])
  assert block['images'].shape == (32, 8, 8, 1)
  assert block['images'].dtype == np.uint8
  np.testing.assert_array_equal(block['indices'], np.arange(32, 64))
  np.testing.assert_array_equal(block['labels'], np.arange(32, 64) % 10)

  # A torn and a missing block are made again, to the same bytes.
  paths[0].write_bytes(first[0][:100])
  paths[3].unlink()
  generate.generate(plan, run)
  assert [path.read_bytes() for path in paths] == first

  # A finished stage restores nothing; more samples leave the first alone.
  def refuse(block, mesh):
    raise AssertionError('nothing is missing')

  generate.generate(
    dataclasses.replace(plan, ensemble=tiny.ensemble(2, restore=refuse)), run
  )
  generate.generate(dataclasses.replace(plan, num_samples=96), run)
  assert [path.read_bytes() for path in paths] == first
  assert files.read_npz(run.samples(1, 64)) is not None


def test_rounding_to_bytes():
  x0 = np.array([-1.0, -1.5, 1.0, 2.0, 0.0, 1 / 255 - 1e-4], np.float32)
  np.testing.assert_array_equal(
    datasets.to_uint8(x0), [0, 0, 255, 255, 128, 128]
  )


def test_batch_must_divide_over_data(plans):
  odd = dataclasses.replace(plans.subject.sample, batch_size=9)
  with pytest.raises(inputs.InputError, match='sample.batch_size'):
    generate.make_sampler(odd, mesh_lib.make(1))
