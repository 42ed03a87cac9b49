"""Training: alone or in an ensemble, on few or many devices, killed or not."""

import dataclasses
import shutil

from etils import epath
import jax
import numpy as np
import optax
import pandas as pd
import pytest
from tensorboardX.proto import event_pb2

from jaxdiff import inputs
from jaxdiff.runs import files as runs_files
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh
from jaxdiff.training import block_states, loop, metrics_parts
from tests import tiny

pytestmark = pytest.mark.slow


def block(path, first, last):
  return layout.ModelBlock(epath.Path(path), first, last)


def on(count, num_models):
  return mesh.make(num_models, jax.devices()[:count])


@pytest.fixture(scope='module')
def plan():
  return tiny.plans().subject.train


@pytest.fixture(scope='module')
def step_fns(plan):
  """Steps of the plan, compiled once for every mesh."""
  return loop.StepFns(plan)


@pytest.fixture(scope='module')
def ensemble(plan, step_fns, tmp_path_factory):
  """Models 0 to 3 on 4 devices, one each."""
  folder = tmp_path_factory.mktemp('ensemble')
  states = loop.fit_block(plan, block(folder, 0, 3), on(4, 4), step_fns)
  return states, folder


def test_a_model_of_an_ensemble_equals_the_model_alone(
  plan, step_fns, ensemble, tmp_path
):
  states, _ = ensemble
  alone = loop.fit_block(plan, block(tmp_path, 2, 2), on(1, 1), step_fns)
  mine = jax.tree.map(lambda leaf: leaf[2:3], states)
  assert int(alone.step[0]) == 20
  assert tiny.largest_difference(mine.params, alone.params) <= 1e-5
  assert tiny.largest_difference(mine.ema_params, alone.ema_params) <= 1e-5
  others = jax.tree.map(lambda leaf: leaf[1:2], states)
  assert tiny.largest_difference(others.params, alone.params) > 1e-2


def test_slots_and_data_sharding_change_nothing_at_step_20(
  plan, ensemble, tmp_path
):
  states, _ = ensemble
  # 2 rows of 1 device, two models each; then one model over 4 devices.
  slots = loop.fit_block(plan, block(tmp_path / 'slots', 0, 3), on(2, 4))
  assert tiny.largest_difference(states.params, slots.params) <= 1e-5
  spread = loop.fit_block(plan, block(tmp_path / 'data', 2, 2), on(4, 1))
  mine = jax.tree.map(lambda leaf: leaf[2:3], states)
  assert tiny.largest_difference(mine.params, spread.params) <= 1e-5


def test_devices_of_a_model_keep_a_part_of_its_state_each(
  plan, ensemble, tmp_path, monkeypatch
):
  """In slots too; and a checkpoint goes on where parts are others."""
  monkeypatch.setattr(mesh, 'LEAST_CUT', 1)
  states, _ = ensemble
  four, two = block(tmp_path / 'four', 0, 3), block(tmp_path / 'two', 2, 2)
  slots = loop.fit_block(plan, four, mesh.make(4, jax.devices()[:4], 2))
  assert tiny.largest_difference(states, slots) <= 1e-5
  mine = jax.tree.map(lambda leaf: leaf[2:3], states)
  loop.fit_block(plan, two, on(2, 1))
  (two.checkpoints / 'manifest-20.json').unlink()
  again = loop.fit_block(plan, two, on(4, 1))
  assert tiny.largest_difference(mine, again) <= 1e-5
  for whole, name in ((True, 'params'), (False, 'ema_params'), (False, 'mu')):
    tree = getattr(again, name, None) or optax.tree.get(again.opt_state, name)
    kernel = tree['params']['conv_in']['kernel']
    share = kernel.addressable_shards[0].data.size / kernel.size
    assert share == (1.0 if whole else 0.25)


def test_a_killed_run_resumes_to_the_same_bits(plan, step_fns, ensemble):
  states, folder = ensemble
  before = metrics_parts.read_part(block(folder, 0, 3).metrics_part(20))
  one = block(folder, 0, 3)
  # As if killed before the last checkpoint was whole.
  (one.checkpoints / 'manifest-20.json').unlink()
  one.metrics_part(20).unlink()
  again = loop.fit_block(plan, one, on(4, 4), step_fns)
  assert tiny.largest_difference(states, again) == 0.0
  assert before.equals(metrics_parts.read_part(one.metrics_part(20)))


def test_metrics_and_keep_are_written(plan, ensemble):
  _, folder = ensemble
  one = block(folder, 0, 3)
  np.testing.assert_array_equal(
    runs_files.read_npy(one.keep), plan.examples.keep[:4]
  )
  table = metrics_parts.read_part(one.metrics_part(10))
  assert set(table['step']) == {5, 10}
  assert set(table['name']) == {'loss', 'grad_norm', 'param_norm'}
  assert set(table['model']) == {0, 1, 2, 3}
  assert np.isfinite(table['value']).all()


def test_figures_that_were_lost_are_missed(plan, ensemble, tmp_path):
  _, folder = ensemble
  one = block(folder, 0, 3)
  copy = layout.ModelBlock(epath.Path(tmp_path) / 'copy', 0, 3)
  shutil.copytree(one.metrics, copy.metrics)
  assert len(metrics_parts.read_all(copy, {5, 10, 15, 20})) == 4 * 4 * 3
  copy.metrics_part(10).unlink()
  with pytest.raises(inputs.InputError, match='no figures of step 5'):
    metrics_parts.read_all(copy, {5, 10, 15, 20})
  copy.metrics_part(20).unlink()
  with pytest.raises(inputs.InputError, match='no figures of step 5'):
    metrics_parts.read_all(copy, {5, 10, 15, 20})


def test_tensorboard_has_the_same_figures(ensemble):
  _, folder = ensemble
  one = block(folder, 0, 3)
  files = sorted((one.tensorboard / 'model-002').glob('events*'))
  assert {file.name.rsplit('.', 1)[1] for file in files} == {
    '00000010', '00000020',
  }  # fmt: skip
  seen = {}
  for file in files:
    data = file.read_bytes()
    while data:
      size = int.from_bytes(data[:8], 'little')
      event = event_pb2.Event.FromString(data[12 : 12 + size])
      data = data[16 + size :]
      for value in event.summary.value:
        seen[event.step, value.tag] = value.simple_value
  table = pd.concat(
    [metrics_parts.read_part(one.metrics_part(step)) for step in (10, 20)]
  )
  table = table[table['model'] == 2]
  want = {
    (row.step, f'train/{row.name}'): row.value for row in table.itertuples()
  }
  assert seen.keys() == want.keys() and len(want) == 12
  for name, value in want.items():
    np.testing.assert_allclose(seen[name], value, rtol=1e-6)


def test_ema_parameters_come_back(plan, ensemble):
  states, folder = ensemble
  restored = block_states.restore_ema(plan, block(folder, 0, 3), on(2, 4))
  assert tiny.largest_difference(states.ema_params, restored) == 0.0
  longer = dataclasses.replace(plan, num_steps=30)
  with pytest.raises(inputs.InputError, match='step 30'):
    block_states.restore_ema(longer, block(folder, 0, 3), on(2, 4))


def test_a_loss_that_is_not_finite_stops_naming_model_and_step(tmp_path):
  plan = dataclasses.replace(tiny.plans().subject.train, tx=optax.adam(1e30))
  message = r'model 0 is .* at step \d+; .*learning_rate'
  with pytest.raises(FloatingPointError, match=message):
    loop.fit_block(plan, block(tmp_path, 0, 0), on(1, 1))
  assert not list((tmp_path / 'checkpoints').glob('manifest-*'))


def test_images_outside_the_training_set_are_never_seen(
  plan, ensemble, tmp_path
):
  def changed(images):
    examples = dataclasses.replace(plan.examples, images=images)
    return dataclasses.replace(plan, examples=examples)

  states, _ = ensemble
  mine = jax.tree.map(lambda leaf: leaf[2:3], states)
  keep = plan.examples.keep[2]
  images = plan.examples.images.copy()
  images[~keep] = 255 - images[~keep]
  same = loop.fit_block(
    changed(images), block(tmp_path / 'a', 2, 2), on(1, 1)
  )  # fmt: skip
  assert tiny.largest_difference(mine.params, same.params) <= 1e-5
  images = plan.examples.images.copy()
  member = np.flatnonzero(keep)[0]
  images[member] = 255 - images[member]
  other = loop.fit_block(
    changed(images), block(tmp_path / 'b', 2, 2), on(1, 1)
  )  # fmt: skip
  assert tiny.largest_difference(mine.params, other.params) > 1e-3


def test_odd_halves_labels_flips_dropout_and_noise_ignore_the_layout(tmp_path):
  plan = tiny.plans(
    flip=True,
    data__num_examples=33,
    model__class_conditional=True,
    model__dropout=0.2,
    train__label_dropout=0.2,
    train__label_noise=0.3,
    train__ambient_timestep=200,
  ).subject.train
  # Sets of 16 and 17 in one block; the smaller one alone; spread over data.
  both = loop.fit_block(plan, block(tmp_path / 'both', 0, 1), on(2, 2))
  alone = loop.fit_block(plan, block(tmp_path / 'alone', 0, 0), on(1, 1))
  spread = loop.fit_block(plan, block(tmp_path / 'spread', 0, 0), on(2, 1))
  mine = jax.tree.map(lambda leaf: leaf[:1], both)
  assert tiny.largest_difference(mine.params, alone.params) <= 1e-5
  assert tiny.largest_difference(spread.params, alone.params) <= 1e-5


def test_batch_must_divide_over_data(plan, tmp_path):
  odd = dataclasses.replace(plan, batch_size=10)
  with pytest.raises(inputs.InputError, match='train.batch_size'):
    loop.fit_block(odd, block(tmp_path, 0, 0), on(4, 1))


@pytest.mark.parametrize(('devices', 'alone'), [(2, True), (1, False)])
def test_steps_that_wait_for_other_cpu_devices_do_not_overlap(
  plan, step_fns, tmp_path, monkeypatch, devices, alone
):
  """Two under way may each hold threads that the other needs: a deadlock."""
  grid = on(devices, 1)
  assert mesh.must_alternate(grid) == alone
  waited, block_until_ready = [], jax.block_until_ready

  def wait(tree):
    waited.append(tree)
    return block_until_ready(tree)

  monkeypatch.setattr(jax, 'block_until_ready', wait)
  short = dataclasses.replace(plan, num_steps=4)
  loop.fit_block(short, block(tmp_path, 0, 1), grid, step_fns)
  # Of two models in turn, each step.
  assert (len(waited) >= 8) == alone


def test_blocks_of_like_shape_share_a_compiled_step(tmp_path, monkeypatch):
  plan = tiny.plans(
    num_models=4, train__models_per_block=2, train__num_steps=5,
    train__checkpoint_every=5,
  ).subject.train  # fmt: skip
  made, make = [], loop.make_step_fn
  monkeypatch.setattr(
    loop, 'make_step_fn', lambda *args: made.append(args) or make(*args)
  )
  run = layout.Run(epath.Path(tmp_path / 'together'))
  loop.fit(plan, run)
  assert len(made) == 1
  blocks = plan.ensemble.blocks(run)
  assert len(blocks) == 2
  # The second is what it is by itself.
  grid = mesh.make(2, shards=plan.ensemble.devices_per_model)
  alone = loop.fit_block(plan, block(tmp_path / 'alone', 2, 3))
  both = block_states.restore_ema(plan, blocks[1], grid)
  assert tiny.largest_difference(both, alone.ema_params) == 0.0
