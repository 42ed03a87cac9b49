"""Inpainting: masks, choice of images, judgement, and the whole on oracles."""

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import attack as inpainting_attack
from jaxdiff.attacks.inpainting import draw as inpainting_draw
from jaxdiff.attacks.inpainting import evaluate as inpainting_evaluate
from jaxdiff.attacks.inpainting import masks
from jaxdiff.attacks.inpainting import paths as inpainting_paths
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.data import datasets, splits
from jaxdiff.diffusion import repaint
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh as mesh_lib
from tests import oracles, tiny

pytestmark = pytest.mark.slow

MODELS, COUNT = 4, 64
IMAGES = datasets.digits().images[:COUNT]
KEEP = splits.keep_matrix(0, range(MODELS), np.arange(COUNT))


def memorisers(params):
  """A net whose weights are its training images: [n, 64]."""
  flat = params['images']

  def eps_fn(x_t, t, cond):
    del cond
    x = x_t.reshape(len(x_t), -1)
    a = oracles.SCHEDULE.signal_scale(t)[:, None]
    s = oracles.SCHEDULE.noise_scale(t)[:, None]
    squared = jnp.square(x[:, None] - a[..., None] * flat[None]).sum(-1)
    x0_hat = jax.nn.softmax(-squared / (2.0 * s * s), axis=1) @ flat
    return ((x - a * x0_hat) / s).reshape(x_t.shape)

  return eps_fn


def restore(block, mesh):
  x0 = np.asarray(datasets.to_model_range(IMAGES)).reshape(COUNT, -1)
  stacked = np.stack([x0[KEEP[model]] for model in block.models])
  return mesh_lib.put(mesh, {'images': stacked}, mesh_lib.PER_MODEL)


def plan(**overrides):
  judged = base.Settings((100,), draws=3)

  def loss_fn(params, x0, labels, keys):
    judge = loss.make(memorisers(params), oracles.SCHEDULE, judged)
    return judge(x0, labels, keys).mean(axis=1)

  def inpaint_fn(params, x0, known, labels, keys):
    return repaint.inpaint(
      memorisers(params), keys, x0, known, labels, schedule=oracles.SCHEDULE,
      num_steps=10, jump_length=2, jump_n_sample=2,
    )  # fmt: skip

  settings = {
    'inpaint_fn': inpaint_fn, 'loss_fn': loss_fn,
    'examples': tiny.examples(IMAGES, KEEP),
    'ensemble': tiny.ensemble(MODELS, restore=restore), 'num_images': 12,
    'masks': ('left', 'random'), 'draws': 4, 'kept': 2, 'batch_size': 24,
    'settings': {'t': 100},
  }  # fmt: skip
  return inpainting_attack.InpaintingPlan(**settings | overrides)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  run = layout.Run(epath.Path(tmp_path_factory.mktemp('inpainting')))
  inpainting_draw.measure(plan(), run)
  inpainting_evaluate.analyse(plan(), run)
  return run


def test_members_come_back_and_others_do_not(finished):
  rows = files.read_csv(inpainting_paths.Paths(finished).images)
  assert len(rows) == 2 * MODELS * 12
  median = rows.groupby(['mask', 'member'])['distance'].median()
  for mask in ('left', 'random'):
    assert median[mask, 1] < 0.02 < 0.05 < median[mask, 0]
  summary = files.read_csv(inpainting_paths.Paths(finished).summary)
  kept = summary[summary['selection'] == 'kept'].set_index(['mask', 'metric'])
  for mask in ('left', 'random'):
    assert kept.loc[(mask, 'p_value'), 'value'] < 1e-4
    assert kept.loc[(mask, 'share_below'), 'low'] > 0.5
    assert kept.loc[(mask, 'difference'), 'low'] > 0.0
  assert set(summary['draws']) == {4} and set(summary['num_images']) == {24}


def test_the_table_equals_a_loop_over_stored_evidence(finished):
  own = plan()
  chosen = inpainting_attack.attacked(own)
  rows = files.read_csv(inpainting_paths.Paths(finished).images)
  losses = {
    model: np.concatenate([
      np.load(inpainting_paths.Paths(finished).losses(model, start))['loss']
      for start in range(0, MODELS * own.rows, own.block_size)
    ])
    for model in range(MODELS)
  }  # fmt: skip
  drawn = {
    model: np.concatenate([
      np.load(inpainting_paths.Paths(finished).drawn(model, start))['images']
      for start in range(0, own.rows, own.block_size)
    ])
    for model in range(MODELS)
  }  # fmt: skip
  for row in rows.to_dict('records')[::5]:
    place = list(chosen[row['pair']]).index(row['index'])
    mask = own.masks.index(row['mask'])
    ratios, distances = [], []
    for draw in range(own.draws):
      number = (place * 2 + mask) * own.draws + draw
      at = row['target'] * own.rows + number
      others = [
        losses[model][at]
        for model in range(MODELS)
        if model // 2 != row['pair'] and not KEEP[model, row['index']]
      ]
      ratios.append(losses[row['target']][at] / np.mean(others))
      image = drawn[row['target']][number].astype(float)
      error = (image - IMAGES[row['index']]) / 255.0
      distances.append(np.sqrt((error**2).mean()))
    best = np.argsort(ratios, kind='stable')[:2]
    assert row['best_draw'] == best[0]
    assert row['ratio'] == pytest.approx(np.mean(np.array(ratios)[best]))
    assert row['distance'] == pytest.approx(np.mean(np.array(distances)[best]))
    assert row['distance_all'] == pytest.approx(np.mean(distances))
    assert row['distance_nearest'] == pytest.approx(min(distances))


def test_neither_batch_nor_devices_change_an_image(finished, tmp_path):
  one = layout.Run(epath.Path(tmp_path))
  inpainting_draw.measure(
    plan(
      batch_size=5,
      ensemble=tiny.ensemble(MODELS, restore=restore, devices_per_model=4),
    ),
    one,
  )
  for model in range(MODELS):
    for start in range(0, plan().rows, plan().block_size):
      got, want = (
        np.load(inpainting_paths.Paths(run).drawn(model, start))[
          'images'
        ].astype(int)
        for run in (one, finished)
      )
      assert np.abs(got - want).max() <= 1  # of 255 levels, by rounding


def test_what_stands_is_not_made_again_and_what_is_torn_is(finished):
  whole = inpainting_paths.Paths(finished).drawn(1, 0).read_bytes()
  inpainting_paths.Paths(finished).drawn(1, 0).write_bytes(whole[:-20])
  inpainting_paths.Paths(finished).losses(2, 0).unlink()
  stamp = inpainting_paths.Paths(finished).drawn(0, 0).stat().mtime
  inpainting_draw.measure(plan(), finished)
  assert inpainting_paths.Paths(finished).drawn(1, 0).read_bytes() == whole
  assert inpainting_paths.Paths(finished).losses(2, 0).exists()
  assert inpainting_paths.Paths(finished).drawn(0, 0).stat().mtime == stamp


def test_known_pixels_are_those_of_the_image(finished):
  own = plan()
  for mask in range(2):
    index = inpainting_attack.attacked(own)[0][3]
    known = inpainting_attack.known_pixels(own, mask, index)[..., 0]
    drawn = inpainting_draw.inpaintings_of(own, finished, 0, 3, mask)
    assert known.mean() == 0.5
    for image in drawn:
      np.testing.assert_array_equal(image[known], IMAGES[index][known])


def test_masks():
  rng = np.random.default_rng(0)
  left = masks.MASKS['left']((6, 8, 3), rng)
  assert not left[:, :4].any() and left[:, 4:].all()
  box = masks.MASKS['centre']((8, 8, 1), rng)
  assert (~box).sum() == 16 and not box[2:6, 2:6].any()
  random = masks.MASKS['random']((8, 8, 1), rng)
  assert random.sum() == 32
  assert (random != masks.MASKS['random']((8, 8, 1), rng)).any()


def test_pairs_are_attacked_on_images_of_their_own_that_one_trained_on():
  chosen = inpainting_attack.attacked(plan())
  assert chosen.shape == (2, 12) and len(np.unique(chosen)) == 24
  for pair, own in enumerate(chosen):
    assert (KEEP[2 * pair, own] != KEEP[2 * pair + 1, own]).all()
  # More models leave what is there as it is.
  more = splits.keep_matrix(0, range(6), np.arange(COUNT))
  again = inpainting_attack.attacked(plan(examples=tiny.examples(IMAGES, more)))
  np.testing.assert_array_equal(again[:2], chosen)


def test_shadow_models_are_of_other_pairs_and_did_not_train_on_it():
  for model in range(MODELS):
    for index in range(8):
      for other in inpainting_attack.shadows(plan(), model, index):
        assert other // 2 != model // 2 and not KEEP[other, index]


@pytest.mark.parametrize(
  ('keep', 'words'),
  [(KEEP[:2], 'at least 4'), (KEEP[[0, 1, 2]], 'even num_models'),
   (KEEP[[0, 1, 2, 2]], 'differ in 0'), (KEEP | (np.arange(4) > 1)[:, None],
   'differ in 0')],
)  # fmt: skip
def test_runs_that_cannot_be_attacked_are_told_so(keep, words):
  with pytest.raises(inputs.InputError, match=words):
    inpainting_attack.check(plan(examples=tiny.examples(IMAGES, keep)))


def test_an_image_without_a_shadow_model_is_named():
  keep = KEEP.copy()
  own = plan(examples=tiny.examples(IMAGES, keep), num_images=1)
  index = inpainting_attack.attacked(own)[0][0]
  keep[2:, index] = True
  with pytest.raises(inputs.InputError, match=f'trained on image {index},'):
    inpainting_attack.check(own)


def test_equal_models_are_not_told_apart():
  rng = np.random.default_rng(0)
  false = 0
  for _ in range(100):
    rows = pd.DataFrame(
      {
        'index': np.repeat(np.arange(20), 2),
        'member': np.tile([0, 1], 20),
        'distance': rng.random(40),
      }
    )
    told = inpainting_evaluate.compare(rows, 'distance')
    false += told['p_value'][0] < 0.05
  assert false <= 11
  same = rows.assign(distance=0.5)
  assert inpainting_evaluate.compare(same, 'distance')['p_value'][0] == 1.0
