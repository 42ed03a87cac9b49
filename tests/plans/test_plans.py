"""Plans: config keys arrive where they belong; bad ones are named."""

import jax
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.data import datasets
from jaxdiff.diffusion import ambient, schedules
from jaxdiff.plans import model as plans_model
from jaxdiff.plans import training
from jaxdiff.runtime import prng
from jaxdiff.training import train_step
from tests import tiny

pytestmark = pytest.mark.slow


def test_one_flip_is_shared_by_all_stages():
  for flip in (False, True):
    plans = tiny.plans(flip=flip)
    assert plans.subject.train.examples.flip == flip
    assert plans.plan('extraction').examples.flip == flip
    queries = plans.plan('membership').signals.queries
    assert set(queries['flip']) == ({0, 1} if flip else {0})


def test_plans_agree_on_the_split():
  plans = tiny.plans()
  keep = plans.subject.train.examples.keep[:8]
  for plan in (plans.plan('extraction'), plans.plan('membership').scores):
    np.testing.assert_array_equal(keep, plan.examples.keep)
  assert (keep.sum(axis=1) == 32).all()


def test_the_split_knows_nothing_but_seed_model_and_examples():
  few, more = (tiny.plans(num_models=n).subject.examples for n in (2, 8))
  np.testing.assert_array_equal(few.keep, more.keep[:2])


def test_a_null_label_is_one_class_more():
  c = tiny.config(model__class_conditional=True, train__label_dropout=0.1)
  assert plans_model.make_net(c, (8, 8, 1), 10).num_class_embeds == 11
  c = tiny.config(model__class_conditional=True)
  assert plans_model.make_net(c, (8, 8, 1), 10).num_class_embeds == 10
  assert (
    plans_model.make_net(tiny.config(), (8, 8, 1), 10).num_class_embeds is None
  )


def test_guided_sampling_of_a_net_with_dropped_labels():
  plans = tiny.plans(
    model__class_conditional=True,
    train__label_dropout=0.1,
    sample__guidance_scale=2.0,
  )
  params = jax.tree.map(
    lambda leaf: leaf[0], tiny.random_params(plans.subject.train, 1)
  )
  args = (jax.random.key(0), np.arange(2))
  one = plans.subject.sample.sample_fn(
    params, *args, np.array([1, 2], np.int32)
  )
  two = plans.subject.sample.sample_fn(
    params, *args, np.array([3, 2], np.int32)
  )
  assert one.shape == (2, 8, 8, 1)
  assert np.abs(one[0] - two[0]).max() > 1e-4
  np.testing.assert_allclose(one[1], two[1], atol=1e-5)


def test_training_draws_every_timestep_and_standard_noise():
  seen = {}

  class Net:
    @staticmethod
    def apply(params, x_t, t, labels, dropout_keys):
      seen['t'], seen['x_t'] = np.asarray(t), np.asarray(x_t)
      return x_t

  schedule = schedules.make()
  loss_fn = plans_model.make_loss_fn(
    Net.apply, schedule, prediction_type='epsilon', weighting='uniform',
    label_dropout=0.0, null_label=None,
  )  # fmt: skip
  position = np.arange(4000)
  x0 = np.zeros((4000, 2, 2, 1), np.float32)
  loss_fn(
    None,
    train_step.Batch(x0, None, position),
    prng.fold_each(prng.root(0, 'noise'), position),
  )
  t = seen['t']
  assert t.min() < 5 and t.max() > 994 and abs(t.mean() - 499.5) < 20
  # x0 is zero, so x_t / noise_scale is the noise itself.
  eps = seen['x_t'] / np.asarray(schedule.noise_scale(t))[:, None, None, None]
  assert abs(eps.mean()) < 0.03 and abs(eps.std() - 1.0) < 0.03
  assert abs(np.corrcoef(eps[:, 0, 0, 0], t)[0, 1]) < 0.06
  assert len(np.unique(eps)) > 0.99 * eps.size


def test_a_share_of_the_labels_is_any_class():
  seen = {}

  class Net:
    @staticmethod
    def apply(params, x_t, t, labels, dropout_keys):
      seen['labels'] = np.asarray(labels)
      return x_t

  def drawn(**options):
    loss_fn = plans_model.make_loss_fn(
      Net.apply, schedules.make(), prediction_type='epsilon',
      weighting='uniform', label_dropout=0.0, null_label=None, **options,
    )  # fmt: skip
    position = np.arange(8000)
    batch = train_step.Batch(
      np.zeros((8000, 1, 1, 1), np.float32), np.full(8000, 3), position
    )
    loss = loss_fn(None, batch, prng.fold_each(prng.root(0, 'noise'), position))
    return np.asarray(loss), seen['labels']

  plain, labels = drawn()
  assert (labels == 3).all()
  loss, labels = drawn(label_noise=0.4, num_classes=5)
  # Neither noise nor timesteps are drawn otherwise.
  np.testing.assert_array_equal(plain, loss)
  shares = np.bincount(labels, minlength=5) / 8000
  np.testing.assert_allclose(shares, [0.08, 0.08, 0.08, 0.68, 0.08], atol=0.015)


def test_ambient_noise_is_what_the_net_is_shown():
  seen = {}

  class Net:
    @staticmethod
    def apply(params, x_t, t, labels, dropout_keys):
      seen['x_t'], seen['t'] = np.asarray(x_t), np.asarray(t)
      return x_t

  schedule, key = schedules.make(), prng.root(0, 'ambient')
  loss_fn = plans_model.make_loss_fn(
    Net.apply, schedule, prediction_type='epsilon', weighting='uniform',
    label_dropout=0.0, null_label=None, ambient_timestep=300, ambient_key=key,
  )  # fmt: skip
  position = np.arange(4000)
  # One image for ever: its mean shows the noise that it carries.
  x0 = np.full((4000, 2, 2, 1), 1 / 127.5 - 1.0, np.float32)
  loss_fn(
    None,
    train_step.Batch(x0, None, position),
    prng.fold_each(prng.root(0, 'noise'), position),
  )
  t = seen['t'][:, None, None, None]
  a = np.asarray(schedule.signal_scale(t))
  rest = seen['x_t'] / a - x0
  near = seen['t'] > 300
  far = ~near & (seen['t'] > 50)
  carried = np.asarray(ambient.fixed_noise(key, x0[:1])[0])
  table = schedule.alphas_cumprod[300]
  want = np.sqrt((1 - table) / table) * carried
  # Means over t of about 1 to 100 times the noise's scale: weigh them.
  weight = a / np.asarray(schedule.noise_scale(t))
  for rows, mean in ((near, want), (far, 0.0 * want)):
    w = np.square(weight[rows])
    got = (w * rest[rows]).sum(axis=0) / w.sum(axis=0)
    np.testing.assert_allclose(got, mean, atol=6 / np.sqrt(w.sum()))


@pytest.mark.parametrize('decay', ['constant', 'cosine'])
def test_warm_up_never_outlasts_the_run(decay):
  c = tiny.config(
    train__decay=decay, train__warmup_steps=1000, train__num_steps=1
  )
  training.make_tx(c.train).init({'w': np.zeros(2)})


@pytest.mark.parametrize(
  ('key', 'value'),
  [
    ('split', 'nope'),
    ('data__name', 'nope'),
    ('data__num_examples', 4),
    ('data__num_examples', 5000),
    ('num_models', 0),
    ('num_samples', 33),
    ('diffusion__beta_schedule', 'nope'),
    ('diffusion__prediction_type', 'nope'),
    ('train__weighting', 'nope'),
    ('train__decay', 'nope'),
    ('train__checkpoint_every', 7),
    ('train__label_dropout', 0.1),
    ('train__label_noise', 0.1),
    ('train__ambient_timestep', 1000),
    ('train__stop_at', 10_000_000),
    ('sample__guidance_scale', 2.0),
    ('sample__sampler', 'nope'),
    ('sample__num_steps', 1001),
    ('sample__timestep_spacing', 'nope'),
    ('sample__batch_size', 5),
    ('signals__timesteps', (50, 1000)),
    ('signals__timesteps', ()),
    ('model__block_out_channels', ('abc',)),
    ('membership__timestep', 51),
    ('membership__variance', 'nope'),
    ('membership__transform', 'nope'),
    ('extraction__target_precision', 1.5),
    ('membership__num_resamples', 0),
    ('sample__eta', 1.5),
    ('model__dropout', 1.0),
    ('train__warmup_steps', -5),
    ('train__ema_decay', 1.5),
    ('train__max_to_keep', 1),
    ('train__max_to_keep', -1),
    ('seed', -1),
    ('model__norm_num_groups', 3),
    ('model__attention_head_dim', 3),
    ('model__down_block_types', ('DownBlock2D', 'DownBlock2D')),
    ('model__up_block_types', ('Nope', 'UpBlock2D')),
    ('model__dtype', 'float16'),
  ],
)
def test_bad_values_name_their_key(key, value):
  with pytest.raises(inputs.InputError, match=key.replace('__', '.')):
    plans_lib.make(tiny.config(**{key: value}))


def test_images_must_halve_often_enough():
  c = tiny.config(
    model__block_out_channels=(8,) * 5,
    model__down_block_types=('DownBlock2D',) * 5,
    model__up_block_types=('UpBlock2D',) * 5,
  )
  with pytest.raises(inputs.InputError, match='5 levels.*8 x 8'):
    plans_lib.make(c)


def test_examples_table_names_every_image():
  table = tiny.plans().examples()
  assert list(table.columns) == ['index', 'source', 'label', 'group', 'image']
  assert len(table) == 64
  want = datasets.choose(datasets.digits(), 64, 0)
  assert table['source'].tolist() == want.source.tolist()


def test_a_learned_variance_goes_through_training_and_sampling():
  plans = tiny.plans(
    model__learned_variance=True,
    sample__sampler='ddpm',
    sample__variance='learned_range',
  )
  params = jax.tree.map(
    lambda leaf: leaf[0], tiny.random_params(plans.subject.train, 1)
  )
  assert params['params']['conv_out']['bias'].shape == (2,)
  images = plans.subject.sample.sample_fn(
    params, jax.random.key(0), np.arange(2), None
  )
  assert images.shape == (2, 8, 8, 1) and np.isfinite(images).all()
  with pytest.raises(inputs.InputError, match='learned_variance'):
    tiny.plans(sample__variance='learned_range')


def test_training_starts_from_a_diffusers_folder(tmp_path):
  first = tiny.plans()
  params = jax.tree.map(
    lambda leaf: leaf[0], tiny.random_params(first.subject.train, 1)
  )
  first.export(params, str(tmp_path / 'net'))
  again = tiny.plans(model__init_from=str(tmp_path / 'net'))
  got = again.subject.train.init_fn(jax.random.key(0))
  assert tiny.largest_difference(got, params) == 0.0
  for override, message in (
    ({'model__norm_num_groups': 8}, 'norm_num_groups is 4'),
    ({'model__block_out_channels': (16,)}, 'block_out_channels'),
    ({'data__name': 'npz', 'data__path': str(tmp_path / 'x.npz')}, 'images'),
  ):
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 4, 3), np.uint8)
    np.savez(tmp_path / 'x.npz', images=images)
    with pytest.raises(inputs.InputError, match=message):
      tiny.plans(model__init_from=str(tmp_path / 'net'), **override)


def test_a_bad_value_is_said_before_images_are_read(monkeypatch):
  def read(source):
    raise AssertionError('images were read first')

  monkeypatch.setattr(plans_lib.images.registry, 'load', read)
  with pytest.raises(inputs.InputError, match='block_size'):
    tiny.plans(num_samples=33)
