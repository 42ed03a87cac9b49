"""DP-SGD: what it equals without noise, on many devices, and its noise."""

import dataclasses
import functools

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.defences import class_moments
from jaxdiff.plans import privacy
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng
from jaxdiff.training import input_pipeline, loop, private, train_step
from tests import tiny

pytestmark = pytest.mark.slow

COUNT = 16
X0 = np.random.default_rng(0).normal(size=(COUNT, 3, 4, 1)).astype(np.float32)
LABELS = np.arange(COUNT, dtype=np.int32) % 3
REAL = np.arange(COUNT) % 5 != 0
PARAMS = {
  'w': jnp.asarray(
    np.random.default_rng(1).normal(size=(3, 4, 1)), jnp.float32
  ),
  'b': jnp.ones((3,)),
}


def loss_fn(params, batch, keys):
  """Whose noise, label and pixels all matter."""
  noise = jax.vmap(lambda key: jax.random.normal(key, (3, 4, 1)))(keys)
  w = params['w'][None] * (batch.x0 + 0.3 * noise)
  label = 0.0 if batch.labels is None else params['b'][batch.labels]
  return jnp.square(w.sum(axis=(1, 2, 3)) + label)


@functools.lru_cache(maxsize=64)
def jitted(devices, clip_norm, noise, options):
  mesh = mesh_lib.make(1, jax.devices()[:devices])
  grad_fn = private.make_grad_fn(
    loss_fn, clip_norm=clip_norm, noise_multiplier=noise, expected=10,
    **dict(options),
  )  # fmt: skip

  def body(x0, labels, real, key):
    start = jax.lax.axis_index(mesh_lib.DATA) * len(x0)
    number = 100 + start + jnp.arange(len(x0))
    batch = train_step.Batch(x0, labels, number, real)
    return grad_fn(PARAMS, batch, key)

  rows = mesh_lib.PER_EXAMPLE
  return jax.jit(
    jax.shard_map(
      body, mesh=mesh, in_specs=(rows, rows, rows, mesh_lib.REPLICATED),
      out_specs=mesh_lib.REPLICATED,
    )
  )  # fmt: skip


def gradients(
  devices=1, clip_norm=1e6, noise=0.0, seed=7, labels=LABELS, real=REAL,
  **options,
):  # fmt: skip
  run = jitted(devices, clip_norm, noise, tuple(options.items()))
  return run(X0, labels, real, jax.random.key(seed))


def naive(clip_norm, multiplicity=1, flip=False, seed=7, labels=LABELS):
  """Equation (1) and (2) without noise, an example at a time."""
  clip_key, flip_key, _ = jax.random.split(jax.random.key(seed), 3)
  total = jax.tree.map(jnp.zeros_like, PARAMS)
  for n in np.flatnonzero(REAL):
    fold = jax.random.fold_in(clip_key, 100 + n)
    coin = int(jax.random.bernoulli(jax.random.fold_in(flip_key, 100 + n)))

    def loss(params, n=n, fold=fold, coin=coin):
      losses = []
      for k in range(multiplicity):
        x = X0[n : n + 1]
        x = x[:, :, ::-1] if flip and (coin + k) % 2 else x
        one = None if labels is None else labels[n : n + 1]
        key = jax.random.fold_in(fold, k)[None]
        batch = train_step.Batch(jnp.asarray(x), one, jnp.arange(1))
        losses.append(loss_fn(params, batch, key)[0])
      return sum(losses) / multiplicity

    grads = jax.grad(loss)(PARAMS)
    size = np.sqrt(sum(float(jnp.square(g).sum()) for g in grads.values()))
    scale = min(1.0, clip_norm / size)
    total = jax.tree.map(lambda t, g, s=scale: t + s * g, total, grads)
  return jax.tree.map(lambda t: t / 10, total)


def close(one, two, tolerance=1e-6):
  for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
    size = max(float(jnp.abs(b).max()), 1.0)
    np.testing.assert_allclose(a, b, atol=tolerance * size)


@pytest.mark.parametrize(
  ('clip_norm', 'options'),
  [
    (1e6, {}), (2.0, {}), (2.0, {'multiplicity': 3}),
    (2.0, {'multiplicity': 4, 'flip': True}), (2.0, {'flip': True}),
  ],
)  # fmt: skip
def test_gradients_are_those_of_an_example_at_a_time(clip_norm, options):
  grads, _ = gradients(clip_norm=clip_norm, **options)
  close(grads, naive(clip_norm, **options))
  assert tiny.largest_difference(naive(2.0), naive(1e6)) > 0.1
  assert tiny.largest_difference(naive(2.0), naive(2.0, flip=True)) > 1e-3


def test_without_labels():
  grads, _ = gradients(clip_norm=2.0, labels=None)
  close(grads, naive(2.0, labels=None))


def test_microbatches_change_nothing():
  one, _ = gradients(clip_norm=2.0, multiplicity=2)
  two, _ = gradients(clip_norm=2.0, multiplicity=2, at_once=4)
  close(one, two)


@pytest.mark.parametrize('devices', [2, 4])
def test_devices_share_a_batch_and_add_noise_once(devices):
  for noise in (0.0, 3.0):
    alone, figures = gradients(1, 2.0, noise)
    shared, of_shared = gradients(devices, 2.0, noise)
    close(alone, shared)
    close(figures, of_shared)


def test_without_the_cast_gradients_would_be_wrong(monkeypatch):
  """Autodiff would sum over devices before it clips: the test above sees it."""
  monkeypatch.setattr(jax.lax, 'pcast', lambda tree, *args, **options: tree)
  jitted.cache_clear()
  alone, _ = gradients(1, 2.0)
  shared, _ = gradients(4, 2.0)
  jitted.cache_clear()
  assert tiny.largest_difference(alone, shared) > 1e-3


def test_the_noise_has_its_size_and_is_new_every_step():
  clean, _ = gradients(clip_norm=2.0)
  drawn = []
  for seed in range(300):
    grads, _ = gradients(clip_norm=2.0, noise=1.5, seed=seed)
    # The clipped part of each seed has other timesteps: take it away.
    exact, _ = gradients(clip_norm=2.0, seed=seed)
    drawn.append(
      np.concatenate([
        np.ravel(a - b)
        for a, b in zip(
          jax.tree.leaves(grads), jax.tree.leaves(exact), strict=True
        )
      ])
    )  # fmt: skip
  values = 10 * np.stack(drawn) / (1.5 * 2.0)
  assert len(jax.tree.leaves(clean)) == 2 and values.shape == (300, 15)
  # Standard deviation of 4,500 numbers: within 4 of its own deviations.
  assert abs(values.std() - 1.0) < 4 / np.sqrt(2 * values.size)
  assert abs(values.mean()) < 4 / np.sqrt(values.size)
  assert np.abs(np.corrcoef(values.T) - np.eye(15)).max() < 0.3


def test_one_example_more_moves_the_sum_by_the_norm_at_most():
  """Its neighbours' draws stay what they are."""
  before, _ = gradients(clip_norm=2.0)
  real = REAL.copy()
  real[7] = not real[7]
  after, _ = gradients(clip_norm=2.0, real=real)
  moved = sum(
    float(jnp.square(10 * (a - b)).sum())
    for a, b in zip(
      jax.tree.leaves(before), jax.tree.leaves(after), strict=True
    )
  )
  assert 0.1 < np.sqrt(moved) <= 2.0 + 1e-5


def config(**overrides):
  settings = {
    'num_models': 2, 'private__epsilon': 8.0, 'train__batch_size': 8,
    'split': 'bernoulli', 'model__class_conditional': True,
    'private__warm_releases': 3, 'private__warm_steps': 5,
    'private__warm_share': 0.5, 'private__warm_noise': 5.0,
    'private__multiplicity': 2,
  }  # fmt: skip
  return tiny.config(**settings | overrides)


@pytest.fixture(scope='module')
def plan():
  return plans_lib.make(config()).subject.train


def test_batches_are_drawn_by_poissons_law(plan):
  """Each example as often as it should be, and independently of the others."""
  keep = plan.examples.keep[:1]
  mesh = mesh_lib.make(1, jax.devices()[:1])
  rows = input_pipeline.own_rows(plan, range(1), keep, mesh)[0]
  pixels = next(input_pipeline.feed(plan, range(1), keep, mesh, 0))
  count = int(keep.sum())

  def of_step(rows, step):
    def body(rows, pixels, step):
      rows = mesh_lib.own_model(rows)
      batch = input_pipeline.batch_of(
        plan, rows, pixels, step, shards=1, smallest=count, largest=count
      )
      return mesh_lib.add_model_axis(batch)

    return jax.shard_map(
      body, mesh=mesh,
      in_specs=(
        mesh_lib.PER_MODEL, mesh_lib.REPLICATED, mesh_lib.REPLICATED,
      ),
      out_specs=mesh_lib.PER_MODEL_AND_EXAMPLE,
    )(rows, pixels, step)  # fmt: skip

  drawn = np.zeros((400, len(plan.examples)), bool)
  jitted = jax.jit(of_step)
  for step in range(len(drawn)):
    batch = jax.tree.map(lambda x: x[0], jitted(rows, jnp.asarray(step)))
    numbers = np.asarray(batch.position)[np.asarray(batch.real)]
    assert len(set(numbers)) == len(numbers)
    drawn[step, numbers] = True
    if step < 3:
      images = plan.examples.images[numbers] / 127.5 - 1.0
      np.testing.assert_allclose(
        np.asarray(batch.x0)[np.asarray(batch.real)], images, atol=1e-6
      )
  assert not drawn[:, ~keep[0]].any()
  share = drawn[:, keep[0]].mean(axis=0)
  q = 8 / count
  assert np.abs(share - q).max() < 5 * np.sqrt(q * (1 - q) / len(drawn))
  sizes = drawn.sum(axis=1)
  assert abs(sizes.var() / (count * q * (1 - q)) - 1.0) < 0.4


def test_private_training_resumes_streams_and_shares(plan, tmp_path):
  """The same bits after a kill; to rounding, streamed or on more devices."""
  assert plan.private.rows == 64

  def init_fn(key):
    return {'w': jax.random.normal(key, (8, 8, 1)), 'b': jnp.zeros((10,))}

  def of_images(params, batch, keys):
    noise = jax.vmap(lambda key: jax.random.normal(key, (8, 8, 1)))(keys)
    x = batch.x0 + 0.3 * noise
    fit = (params['w'][None] * x).mean(axis=(1, 2, 3))
    return jnp.square(fit + params['b'][batch.labels] - 1.0)

  # A net that compiles in no time.
  plan = dataclasses.replace(
    plan,
    init_fn=init_fn,
    grad_fn=private.make_grad_fn(
      of_images, clip_norm=0.1, noise_multiplier=1.0, expected=8,
      multiplicity=2,
    ),
    private=dataclasses.replace(
      plan.private, warm_grad_fn=private.make_warm_grad_fn(of_images),
    ),
  )  # fmt: skip
  on = lambda count: mesh_lib.make(2, jax.devices()[:count])
  block = layout.ModelBlock(epath.Path(tmp_path / 'a'), 0, 1)
  whole = loop.fit_block(plan, block, on(2))
  (block.checkpoints / 'manifest-20.json').unlink()
  block.metrics_part(20).unlink()
  again = loop.fit_block(plan, block, on(2))
  assert tiny.largest_difference(whole, again) == 0.0
  streamed = dataclasses.replace(plan, device_bytes=0)
  block = layout.ModelBlock(epath.Path(tmp_path / 'b'), 0, 1)
  from_host = loop.fit_block(streamed, block, on(4))
  assert tiny.largest_difference(whole.params, from_host.params) <= 1e-5
  names = set(loop.metrics_parts.read_part(block.metrics_part(20))['name'])
  # No exact loss and no exact norm is written.
  assert names == {'noised_grad_norm', 'param_norm'}


def test_warm_images_are_each_models_own(plan):
  made = [
    plan.private.warm_images(
      plan.examples.images[keep], plan.examples.cond[keep], model
    )
    for model, keep in enumerate(plan.examples.keep)
  ]
  assert made[0].shape == (30, 8, 8, 1) and np.abs(made[0]).max() <= 1.0
  assert plan.private.warm_cond.tolist() == list(range(10)) * 3
  assert np.abs(made[0] - made[1]).max() > 0.1


def test_images_drawn_of_a_class_are_told_as_of_it(monkeypatch):
  drawn = functools.partial(
    config, private__warm_covariance=8.0, private__warm_draws=7
  )
  subject = plans_lib.make(drawn()).subject
  plan, kept_to = subject.train, subject.guarantee
  keep = plan.examples.keep[0]
  own = plan.examples.images[keep], plan.examples.cond[keep], 0
  made = plan.private.warm_images(*own)
  assert made.shape == (plan.private.warm_count, 8, 8, 1) == (70, 8, 8, 1)
  assert np.isfinite(made).all() and np.abs(made).max() <= 1.0
  np.testing.assert_array_equal(made, plan.private.warm_images(*own))
  # The same means, and a part of the same epsilon.
  without = plans_lib.make(config()).subject.guarantee
  assert kept_to.warm_epsilon > without.warm_epsilon + 0.1
  assert kept_to.mechanism.noise_multiplier > without.mechanism.noise_multiplier
  asked = []

  def draws(images, labels, num_classes, means, *, count, **rest):
    asked.append((means.copy(), rest['public'], rest['noise']))
    of_class = np.arange(num_classes).reshape(1, -1, 1, 1, 1) / 10.0
    return np.broadcast_to(of_class, (count, num_classes, *images.shape[1:]))

  monkeypatch.setattr(class_moments, 'draws', draws)
  made = plan.private.warm_images(*own)[:, 0, 0, 0]
  np.testing.assert_allclose(made * 10, plan.private.warm_cond)
  ((means, public, noise),) = asked
  assert np.abs(means).max() <= 1.0
  assert (public, noise) == (plan.private.count, 8.0)
  # Attackers' models, trained on all, draw of all.
  everyone = privacy.of_all(
    drawn(), kept_to, plan.private, plan.examples, seed=9
  )
  everyone.warm_images(plan.examples.images, plan.examples.cond, 0)
  assert asked[1][1] == 2 * public and everyone.count == 2 * public


def test_past_the_first_phase_no_image_of_it_is_made(plan):
  keep = plan.examples.keep[:1]
  mesh = mesh_lib.make(1, jax.devices()[:1])
  for start, made in ((0, True), (4, True), (5, False), (20, False)):
    rows = input_pipeline.own_rows(plan, range(1), keep, mesh, start)[0]
    assert rows['warm'].shape == (1, 30, 8, 8, 1)
    assert bool(np.abs(rows['warm']).max() > 0) == made


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'train__batch_size': 64}, 'train.batch_size: private training'),
    ({'private__warm_steps': 20}, 'must be below train.num_steps'),
    ({'private__warm_steps': 0}, 'both or neither'),
    (
      {
        'private__warm_releases': 0,
        'private__warm_steps': 0,
        'private__warm_covariance': 5.0,
      },
      'needs the means of private.warm_releases',
    ),
    ({'private__warm_covariance': 0.01}, 'is hardly noise: at least 0.1'),
    ({'private__warm_noise': 0.01}, 'is hardly noise: at least 0.1'),
    ({'private__warm_covariance': 0.2}, 'by itself'),
    ({'private__warm_draws': 7}, 'with private.warm_covariance alone'),
    ({'private__warm_noise': 0.1}, 'by itself'),
    ({'split': 'bernouilli'}, "split: no 'bernouilli'"),
  ],
)
def test_bad_configs(changes, said):
  with pytest.raises(inputs.InputError) as error:
    plans_lib.make(config(**changes))
  assert said in str(error.value) and '\n' not in str(error.value)


def test_keys_of_draws_and_of_coins_are_others():
  """fold_in(key, n) is split(key)[n]: none is used twice."""
  key = jax.random.key(7)
  clip, flip, noise = jax.random.split(key, 3)
  folded = prng.fold_each(clip, jnp.arange(4))
  coins = prng.fold_each(flip, jnp.arange(4))
  data = {
    tuple(np.asarray(jax.random.key_data(k)).tolist())
    for k in (clip, flip, noise, *folded, *coins)
  }
  assert len(data) == 11


def test_noise_is_drawn_once_however_many_weights_there_are():
  """A draw for each leaf of a U-Net takes XLA more than a minute."""

  def draws(leaves):
    params = {f'w{n}': jnp.ones((2, n + 1)) for n in range(leaves)}
    grad_fn = private.make_grad_fn(
      lambda params, batch, keys: sum(
        x.sum() * batch.x0.mean(axis=(1, 2, 3)) for x in params.values()
      ),
      clip_norm=1.0, noise_multiplier=1.0, expected=4,
    )  # fmt: skip
    batch = train_step.Batch(X0[:4], None, jnp.arange(4))
    rows = mesh_lib.REPLICATED
    step = jax.shard_map(
      lambda key: grad_fn(params, batch, key),
      mesh=mesh_lib.make(1, jax.devices()[:1]), in_specs=rows, out_specs=rows,
    )  # fmt: skip
    return str(jax.make_jaxpr(step)(jax.random.key(0))).count('erf_inv')

  assert draws(9) == draws(1) == 1
