"""Surrogate guidance: its gradient, its clusters, training, and the count."""

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.attacks.side import attack as side_attack
from jaxdiff.attacks.side import clusters as side_clusters
from jaxdiff.attacks.side import evaluate as side_evaluate
from jaxdiff.attacks.side import paths as side_paths
from jaxdiff.attacks.side import train as side_train
from jaxdiff.data import datasets, splits
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.models import classifier
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import mesh as mesh_lib
from tests import oracles, tiny

pytestmark = pytest.mark.slow

SCHEDULE = schedules.make()
DIGITS = datasets.digits()
NET = classifier.Surrogate(4, (8, 8))
BLOCK, LEARNED, GUIDED = 32, 64, 32
KEEP = splits.keep_matrix(0, range(4), np.arange(64))


def init_fn(key):
  return NET.init(key, jnp.zeros((1, 8, 8, 1)), jnp.zeros((1,), jnp.int32))


def plan(**overrides):
  settings = {
    'init_fn': init_fn, 'logits_fn': NET.apply, 'schedule': SCHEDULE,
    'examples': tiny.examples(DIGITS.images[:64], KEEP),
    'ensemble': tiny.ensemble(4), 'block_size': BLOCK, 'num_learned': LEARNED,
    'num_samples': GUIDED, 'num_clusters': 4, 'cohesion': 0.5,
    'num_steps': 110, 'batch_size': 32, 'learning_rate': 3e-3,
    'settings': ('chosen',), 'scale': 5.0,
  }  # fmt: skip
  return side_attack.SidePlan(**settings | overrides)


def test_the_gradient_is_that_of_the_log_probability():
  params = init_fn(jax.random.key(0))
  x = jax.random.normal(jax.random.key(1), (3, 8, 8, 1))
  t = jnp.array([20, 300, 800])
  clusters = jnp.array([0, 3, 1])
  with jax.enable_x64(True):
    # In float64, for differences of one pixel at a time.
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    x = jnp.asarray(x, jnp.float64)

    def logits_fn(x, t):
      return NET.apply(params, x, t)

    def plain(x, t, cond):
      return 0.5 * x

    eps_fn = side_attack.guide(plain, logits_fn, SCHEDULE, 2.0)
    got = eps_fn(x, t, (None, clusters)) - 0.5 * x
    step = 1e-5
    for i in range(3):
      for row, column in ((2, 3), (5, 0)):
        moved = jnp.zeros_like(x).at[i, row, column, 0].set(step)
        up, down = (
          jax.nn.log_softmax(logits_fn(x + sign * moved, t))[i, clusters[i]]
          for sign in (1, -1)
        )
        slope = (up - down) / (2 * step)
        want = -2.0 * SCHEDULE.noise_scale(t)[i] * slope
        np.testing.assert_allclose(
          got[i, row, column, 0], want, rtol=1e-4, atol=1e-8
        )
    none = side_attack.guide(plain, logits_fn, SCHEDULE, 0.0)
    np.testing.assert_array_equal(none(x, t, (None, clusters)), 0.5 * x)


def test_a_learned_variance_passes_unchanged():
  def with_variance(x, t, cond):
    return jnp.concatenate([0.5 * x, 7.0 * jnp.ones_like(x)], axis=-1)

  eps_fn = side_attack.guide(
    with_variance, lambda x, t: x.sum(axis=(1, 2)) * jnp.arange(4.0)[None],
    SCHEDULE, 1.0,
  )  # fmt: skip
  x = jnp.ones((2, 8, 8, 1))
  out = eps_fn(x, jnp.array([1, 500]), (None, jnp.array([0, 1])))
  assert out.shape == (2, 8, 8, 2)
  np.testing.assert_array_equal(out[..., 1:], 7.0)
  assert np.abs(out[..., :1] - 0.5).max() > 1e-3


def test_guidance_draws_more_of_what_it_is_asked_for():
  # The exact classifier of two sets of a memoriser's images.
  members, _ = oracles.split(40)
  x0 = np.asarray(datasets.to_model_range(members)).reshape(40, -1)
  first = np.arange(40) < 8

  def logits_fn(x, t):
    a = SCHEDULE.signal_scale(t)[:, None]
    s = SCHEDULE.noise_scale(t)[:, None]
    squared = jnp.square(x.reshape(len(x), 1, -1) - a[..., None] * x0[None])
    log_p = -squared.sum(axis=-1) / (2.0 * s * s)
    both = [
      jax.nn.logsumexp(log_p[:, mask], axis=1) for mask in (first, ~first)
    ]
    return jnp.stack(both, axis=1)

  plain = oracles.memoriser(np.asarray(datasets.to_model_range(members)))
  share = {}
  for scale in (0.0, 1.0):
    drawn = samplers.sample(
      side_attack.guide(plain, logits_fn, SCHEDULE, scale),
      jax.random.key(0), jnp.arange(200), (None, jnp.zeros(200, jnp.int32)),
      schedule=SCHEDULE, image_shape=(8, 8, 1), num_steps=25,
    )  # fmt: skip
    flat = np.asarray(drawn).reshape(200, 1, -1)
    nearest = np.square(flat - x0[None]).sum(-1).argmin(1)
    share[scale] = first[nearest].mean()
  assert share[0.0] < 0.4 and share[1.0] > 0.95


def test_clusters_hold_together_or_are_left_out():
  rng = np.random.default_rng(0)
  centres = rng.integers(0, 256, (3, 8, 8, 1))
  tight = centres.repeat(20, axis=0) + rng.integers(-3, 4, (60, 8, 8, 1))
  noise = rng.integers(0, 256, (60, 8, 8, 1))
  samples = np.concatenate([tight, noise]).clip(0, 255).astype(np.uint8)
  labels, kept = side_clusters.clusters_of(samples, 8, 0.9, seed=0)
  assert set(labels[:60]) <= set(kept)
  for start in range(0, 60, 20):
    assert len(set(labels[start : start + 20])) == 1
  assert len(kept) == 3
  _, every = side_clusters.clusters_of(samples, 8, 0.9999999, seed=0)
  assert len(every) == len(set(labels))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  run = layout.Run(epath.Path(tmp_path_factory.mktemp('guidance')))
  rng = np.random.default_rng(0)
  for model in range(4):
    for start in range(0, LEARNED + GUIDED, BLOCK):
      images = DIGITS.images[rng.integers(0, 200, BLOCK)]
      blocks.write_block(
        run.samples(model, start), '', model,
        indices=np.arange(start, start + BLOCK), images=images,
      )  # fmt: skip
  side_train.train_surrogates(plan(), run)
  return run


def test_surrogates_learn_the_clusters_and_come_back_as_they_were(trained):
  mesh = mesh_lib.make(4)
  block = layout.ModelBlock(trained.path, 0, 3)
  weights = side_train.restore(plan(), trained, lambda *_: None, block, mesh)
  assert weights['kept'].shape == (4, 4) and weights['net'] is None
  right = []
  for model in range(4):
    samples = np.concatenate(
      [np.load(trained.samples(model, s))['images'] for s in (0, 32)]
    )
    labels, kept = side_clusters.clusters_of(samples, 4, 0.5, 0)
    number = int(weights['num_kept'][model])
    assert weights['kept'][model][:number].tolist() == kept.tolist()
    own = jax.tree.map(lambda x, m=model: x[m], weights['surrogate'])
    logits = NET.apply(
      own, datasets.to_model_range(samples), jnp.zeros(64, jnp.int32)
    )
    right.append((logits.argmax(axis=1) == labels).mean())
  assert np.mean(right) > 0.85


def test_only_what_is_missing_is_trained_again(trained):
  path = side_paths.Paths(trained).surrogates(2, 0)
  whole, other = path.read_bytes(), side_paths.Paths(trained).surrogates(1, 0)
  path.write_bytes(whole[:-9])
  stamp = other.stat().mtime
  side_train.train_surrogates(plan(), trained)
  assert path.read_bytes() == whole
  assert other.stat().mtime == stamp


def test_a_surrogate_does_not_depend_on_the_devices(trained, tmp_path):
  again = layout.Run(epath.Path(tmp_path))
  for model in range(4):
    for start in range(0, LEARNED + GUIDED, BLOCK):
      path = again.samples(model, start)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(trained.samples(model, start).read_bytes())
  side_train.train_surrogates(
    plan(ensemble=tiny.ensemble(4, devices_per_model=4)), again
  )
  for model in range(4):
    one, two = (
      np.load(side_paths.Paths(x).surrogates(model, 0))
      for x in (trained, again)
    )
    for name in set(one.files) - {'made_by'}:
      np.testing.assert_allclose(one[name], two[name], atol=1e-5)


def test_budgets_are_equal_and_rates_are_counted(tmp_path):
  run = layout.Run(epath.Path(tmp_path))
  own = plan(examples=tiny.examples(DIGITS.images[:64], KEEP[:2]))
  files.write_csv(
    extraction_paths.Paths(run).summary,
    pd.DataFrame(
      {
        'setting': 'chosen',
        'target': ['model-000', 'model-001'],
        'num_neighbours': 4,
        'alpha': 0.5,
      }
    ),
  )
  rng = np.random.default_rng(0)
  hits = {}
  for folder, count in (
    (run, LEARNED + GUIDED),
    (side_paths.Paths(run).guided, GUIDED),
  ):
    for model in range(2):
      members = np.flatnonzero(KEEP[model])
      others = np.flatnonzero(~KEEP[model])
      near = np.sort(rng.random((count, 4)) + 1.0, axis=1)
      near[rng.random(count) < 0.4, 0] = 0.01
      rows = {
        'training_distance': near.astype(np.float32),
        'training_index': rng.choice(members, (count, 4)),
        'control_distance': np.full((count, 4), 1.0, np.float32),
        'control_index': rng.choice(others, (count, 4)),
      }
      for start in range(0, count, BLOCK):
        part = slice(start, start + BLOCK)
        blocks.write_block(
          extraction_paths.Paths(folder).neighbours(model, start),
          '',
          model,
          indices=np.arange(part.start, part.stop),
          **{name: value[part] for name, value in rows.items()},
        )
      hit = near[:, 0] == 0.01
      hits[folder is run, model] = np.where(
        hit, rows['training_index'][:, 0], -1
      )
  table = (
    side_evaluate.table(own, run, side_paths.Paths(run).guided)
    .set_index(['model', 'budget', 'arm', 'metric'])
    .sort_index()
  )
  for model in range(2):
    plain, guided = hits[True, model], hits[False, model]
    for budget, arm, index in (
      ('equal_samples', 'plain', plain[LEARNED:]),
      ('equal_samples', 'guided', guided),
      ('equal_total', 'plain', plain),
      ('equal_total', 'guided', np.append(plain[:LEARNED], guided)),
    ):
      found = table.loc[(model, budget, arm)]
      assert set(found['num_samples']) == {len(index)}
      value = found['value']
      assert value['hit_rate'] == (index >= 0).mean()
      unique = len(set(index[index >= 0]))
      assert value['unique_rate'] == unique / len(index)
      assert value['control_unique_rate'] == 0.0
  summary = side_evaluate.summarise(table.reset_index())
  one = summary[
    (summary['budget'] == 'equal_samples') & (summary['metric'] == 'hit_rate')
  ].set_index('arm')
  assert one.loc['difference', 'value'] == pytest.approx(
    one.loc['guided', 'value'] - one.loc['plain', 'value']
  )
  assert (one['low'] <= one['value']).all()
