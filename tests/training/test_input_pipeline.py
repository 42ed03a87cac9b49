"""Streamed batches are those of a set that lies on the devices."""

import dataclasses
import itertools

from etils import epath
import jax
import numpy as np
import pytest

from jaxdiff.data import batches
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh, prng
from jaxdiff.training import input_pipeline, loop
from tests import tiny

pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def plan():
  plan = tiny.plans(
    flip=True, data__num_examples=33, model__class_conditional=True
  ).subject.train
  return dataclasses.replace(plan, device_bytes=0)


def rows_on_device(plan, model, members, step, largest):
  """Which rows of the set a model's batch holds."""
  key = jax.random.fold_in(prng.root(plan.ensemble.seed, 'data'), model)
  place = batches.batch_positions(
    jax.random.split(key)[0], np.int32(step), np.int32(len(members)),
    size=plan.batch_size, smallest=len(members), largest=largest,
  )  # fmt: skip
  return members[np.asarray(place)]


@pytest.mark.parametrize(('devices', 'models'), [(1, 1), (2, 4), (4, 2)])
def test_batches_are_those_of_the_device(plan, devices, models):
  grid = mesh.make(models, jax.devices()[:devices])
  keep = plan.examples.keep[:models]
  largest = keep.sum(axis=1).max()
  slots = mesh.num_slots(grid, models)
  fed = input_pipeline.feed(plan, range(models), keep, grid, 3)
  for step, slot in itertools.product(range(3, plan.num_steps), range(slots)):
    batch = next(fed)
    of = mesh.slot_models(grid, models, slot)
    for place, model in enumerate(of):
      rows = rows_on_device(
        plan, model, np.flatnonzero(keep[model]), step, largest
      )
      np.testing.assert_array_equal(
        batch['images'][place],
        plan.examples.images[rows].reshape(len(rows), -1),
      )
      np.testing.assert_array_equal(
        batch['labels'][place], plan.examples.cond[rows]
      )
    assert batch['images'].sharding.spec == mesh.PER_MODEL_AND_EXAMPLE
  assert next(fed, None) is None  # nothing after the last step


def test_training_on_streamed_images_is_the_same(plan, tmp_path):
  block = layout.ModelBlock(epath.Path(tmp_path / 'streamed'), 0, 1)
  grid = mesh.make(2, jax.devices()[:2])
  step_fns = loop.StepFns(plan)
  streamed = loop.fit_block(plan, block, grid, step_fns)
  resident = dataclasses.replace(plan, device_bytes=plan.examples.images.nbytes)
  there = loop.fit_block(
    resident, layout.ModelBlock(epath.Path(tmp_path / 'there'), 0, 1), grid
  )
  assert tiny.largest_difference(streamed.params, there.params) <= 1e-6
  # As if killed before the last checkpoint was whole.
  (block.checkpoints / 'manifest-20.json').unlink()
  again = loop.fit_block(plan, block, grid, step_fns)
  assert tiny.largest_difference(streamed, again) == 0.0
