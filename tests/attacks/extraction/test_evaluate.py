"""Extraction: rules by hand, flips, duplicates, intervals, the oracles."""

import dataclasses

from etils import epath
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates, gallery, hits
from jaxdiff.attacks.extraction import evaluate as extraction_evaluate
from jaxdiff.attacks.extraction import neighbours as extraction_neighbours
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.data import datasets, splits
from jaxdiff.diffusion import samplers
from jaxdiff.nearest import index
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runs import samples as samples_lib
from tests import oracles, tiny
from tests.attacks.extraction.test_hits import neighbours

pytestmark = pytest.mark.slow


def plan_for(images, keep, image=None, **changes):
  plan = extraction_neighbours.ExtractionPlan(
    examples=tiny.examples(
      images, keep, image=np.arange(len(images)) if image is None else image
    ),
    samples=samples_lib.Samples(num_samples=64, block_size=32),
    target_precision=0.95,
  )
  return dataclasses.replace(plan, **changes)


def naive_nearest(queries, images, chosen, k, flip):
  q = queries.astype(np.float64).reshape(len(queries), -1)
  distances = []
  for version in (images, images[:, :, ::-1])[: 2 if flip else 1]:
    r = version[chosen].astype(np.float64).reshape(len(chosen), -1)
    distances.append(np.sqrt(((q[:, None] - r[None]) ** 2).mean(2)) / 255)
  best = np.min(distances, axis=0)
  order = np.argsort(best, axis=1, kind='stable')[:, :k]
  return np.take_along_axis(best, order, axis=1), chosen[order]


@pytest.mark.parametrize('flip', [False, True])
def test_neighbours_equal_the_naive_twin(flip):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 6, 6, 1), np.uint8)
  queries = rng.integers(0, 256, (15, 6, 6, 1), np.uint8)
  queries[0] = images[3, :, ::-1]
  chosen = np.arange(3, 37)
  got = extraction_neighbours.nearest_images(
    queries, index.Index(images[chosen]), chosen, 9, flip
  )
  want = naive_nearest(queries, images, chosen, 9, flip)
  np.testing.assert_allclose(got[0], want[0], rtol=2e-6, atol=1e-7)
  np.testing.assert_array_equal(got[1], want[1])
  assert (got[0][0, 0] == 0.0) == flip


@pytest.mark.parametrize('flip', [False, True])
def test_moved_neighbours_equal_the_naive_twin(flip):
  rng = np.random.default_rng(2)
  images = rng.integers(0, 256, (30, 6, 7, 1), np.uint8)
  queries = rng.integers(0, 256, (10, 6, 7, 1), np.uint8)
  # Moved up by two and to the left by one, with an edge that repeats.
  queries[1] = np.pad(images[4], ((0, 2), (0, 1), (0, 0)), 'edge')[2:, 1:]
  chosen = np.arange(2, 30)
  got = extraction_neighbours.nearest_images(
    queries, index.Index(images[chosen]), chosen, 5, flip, None, 2
  )
  best = np.full((10, 28), np.inf)
  for version in (queries, queries[:, :, ::-1])[: 2 if flip else 1]:
    for down in range(-2, 3):
      for right in range(-2, 3):
        rows = np.clip(np.arange(6) + down, 0, 5)
        columns = np.clip(np.arange(7) + right, 0, 6)
        moved = version[:, rows][:, :, columns].astype(float)
        difference = (moved[:, None] - images[chosen]) / 255.0
        distance = np.sqrt(np.square(difference).mean(axis=(2, 3, 4)))
        best = np.minimum(best, distance)
  order = np.argsort(best, axis=1, kind='stable')[:, :5]
  want = np.take_along_axis(best, order, axis=1)
  np.testing.assert_allclose(got[0], want, rtol=2e-6, atol=1e-7)
  np.testing.assert_array_equal(got[1], chosen[order])
  assert got[1][1, 0] == 4


@pytest.mark.parametrize('flip', [False, True])
def test_neighbours_are_distinct_images(flip):
  rng = np.random.default_rng(1)
  base = rng.integers(0, 250, (12, 6, 6, 1), np.uint8)
  # Image i has i near-copies; some are mirror images.
  images = np.repeat(base, np.arange(12) + 1, axis=0)
  images += rng.integers(0, 5, images.shape, np.uint8)
  if flip:
    images[::3] = images[::3, :, ::-1]
  groups = np.repeat(np.arange(12), np.arange(12) + 1)
  queries = np.concatenate([base, rng.integers(0, 256, (9, 6, 6, 1), np.uint8)])
  chosen = np.flatnonzero(groups != 4)
  got = extraction_neighbours.nearest_images(
    queries, index.Index(images[chosen]), chosen, 7, flip, groups
  )
  every = naive_nearest(queries, images, chosen, len(chosen), flip)
  for q in range(len(queries)):
    _, first = np.unique(groups[every[1][q]], return_index=True)
    first = np.sort(first)[:7]
    np.testing.assert_array_equal(got[1][q], every[1][q, first])
    np.testing.assert_allclose(got[0][q], every[0][q, first], atol=1e-6)


def test_the_most_duplicated_images_can_be_hit(tmp_path):
  """Copies of one image at least n times over, and one pixel off."""
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (120, 6, 6, 1), np.uint8)
  keep = np.stack([np.arange(120) < 60, np.arange(120) >= 60])
  images[:40] = images[0]
  samples = rng.integers(0, 256, (2, 64, 6, 6, 1), np.uint8)
  samples[0, 0] = images[0]
  samples[0, 0, 0, 0] ^= 1
  image = np.where(np.arange(120) < 40, 0, np.arange(120))
  found = {}
  for rule in extraction_neighbours.NEIGHBOURS:
    _, summary = run_on(
      tmp_path / rule, images, keep, samples,
      image=image, neighbours=rule,
    )  # fmt: skip
    found[rule] = value_of(summary, 'paper', 'model-000', 'extracted')
  assert found == {'distinct': 1, 'images': 0}


def test_matches_list_each_image_with_its_best_sample():
  found = neighbours(
    [(0, 0.2), (0, 0.1), (1, 0.1), (2, 1.0), (3, 0.2)],
    [(5, 1.0)] * 3 + [(6, 0.1), (7, 1.0)],
  )
  groups = np.array([0, 1, 2, 1, 4, 5, 6, 7])  # 3 duplicates 1
  keep = np.arange(8) < 4
  table = gallery.matches(found, groups, 2, 0.5)
  assert table['half'].tolist() == ['training', 'training', 'control']
  assert table['index'].tolist() == [0, 1, 6]
  assert table['sample'].tolist() == [1, 2, 3]
  assert table['hits'].tolist() == [2, 2, 1]
  # As many rows as are counted.
  one = hits.tally(hits.collect_hits(found, groups, keep, 2), 0.5)
  assert (one.extracted, one.control) == (2, 1)


def run_on(tmp_path, images, keep, samples, **changes):
  """The whole stage on samples [K, S, H, W, C]; returns the summary."""
  run = layout.Run(epath.Path(tmp_path))
  plan = plan_for(
    images,
    keep,
    samples=samples_lib.Samples(num_samples=samples.shape[1], block_size=32),
    **changes,
  )
  for model, own in enumerate(samples):
    for start in range(0, len(own), plan.block_size):
      rows = np.arange(start, min(start + plan.block_size, len(own)))
      blocks.write_block(
        run.samples(model, start), '', model, images=own[rows], indices=rows
      )
  extraction_neighbours.find_neighbours(plan, run)
  extraction_evaluate.analyse(plan, run)
  return run, files.read_csv(extraction_paths.Paths(run).summary)


def value_of(summary, setting, target, metric):
  row = summary[
    (summary['setting'] == setting)
    & (summary['target'] == target)
    & (summary['metric'] == metric)
  ]
  return float(row['value'].iloc[0])


def test_stage_on_samples_that_copy_training_images(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (48, 8, 8, 1), np.uint8)
  keep = splits.keep_matrix(0, range(4), np.arange(48))
  samples = rng.integers(0, 256, (4, 64, 8, 8, 1), np.uint8)
  for model in range(4):
    samples[model, :12] = images[np.flatnonzero(keep[model])[:12]]
  # Two dozen hits a target cannot prove a precision of 0.95.
  run, summary = run_on(tmp_path, images, keep, samples, target_precision=0.8)
  for setting in ('chosen', 'paper'):
    # `chosen` may let a false one in: that is what it is allowed.
    most = 1 if setting == 'paper' else 1.25
    held = [set(np.flatnonzero(k)[:12]) for k in keep]
    for target, true in (
      ('model-002', 12), ('pooled', 48), ('union', len(set.union(*held))),
    ):  # fmt: skip
      found = value_of(summary, setting, target, 'extracted')
      assert true <= found <= most * true, target
    lowest = 1.0 if setting == 'paper' else 0.8
    assert value_of(summary, setting, 'pooled', 'precision') >= lowest
  assert value_of(summary, 'paper', 'median', 'extracted_fraction') == 0.5
  matches = files.read_csv(extraction_paths.Paths(run).matches)
  copied = matches[matches['setting'] == 'paper']
  assert (copied['distance'] == 0.0).all() and len(copied) == 48
  # A torn block is made again; a finished stage changes nothing.
  path = extraction_paths.Paths(run).neighbours(1, 32)
  whole = path.read_bytes()
  path.write_bytes(whole[:50])
  plan = plan_for(images, keep)
  extraction_neighbours.find_neighbours(plan, run)
  assert path.read_bytes() == whole


def test_one_pair_has_no_other_models_to_choose_alpha_on(tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (24, 8, 8, 1), np.uint8)
  keep = splits.keep_matrix(0, range(2), np.arange(24))
  samples = rng.integers(0, 256, (2, 32, 8, 8, 1), np.uint8)
  _, summary = run_on(tmp_path, images, keep, samples)
  # Noise is no copy: what is chosen on the target itself hits nothing.
  assert set(summary['setting']) == {'controlled', 'paper'}
  assert set(summary[summary['setting'] == 'controlled']['alpha']) == {0.0}
  # Nothing was hit: no precision rather than a made-up one.
  assert value_of(summary, 'paper', 'pooled', 'extracted') == 0
  assert np.isnan(value_of(summary, 'paper', 'median', 'precision'))


def test_missing_samples_name_the_stage(tmp_path):
  images = np.zeros((24, 4, 4, 1), np.uint8)
  keep = splits.keep_matrix(0, range(2), np.arange(24))
  with pytest.raises(inputs.InputError, match='sample stage'):
    extraction_neighbours.find_neighbours(
      plan_for(images, keep), layout.Run(epath.Path(tmp_path))
    )


@pytest.mark.parametrize('name', oracles.SIZES)
def test_oracles_give_their_pinned_hits(name):
  n = oracles.SIZES[name]
  members, others = oracles.split(n)
  images = np.concatenate([members, others])
  keep = np.arange(2 * n) < n
  x0 = samplers.sample(
    oracles.make(name), jax.random.key(0), jnp.arange(2000), None,
    schedule=oracles.SCHEDULE, image_shape=(8, 8, 1), num_steps=50,
  )  # fmt: skip
  made = datasets.to_uint8(np.asarray(x0))
  found = {}
  for half, mask in (('training', keep), ('control', ~keep)):
    found[f'{half}_distance'], found[f'{half}_index'] = (
      extraction_neighbours.nearest_images(
        made, index.Index(images[mask]), np.flatnonzero(mask), 50, False
      )
    )
  pinned = oracles.PINNED[name]
  near = [
    len(np.unique(
      found[f'{half}_index'][:, 0][found[f'{half}_distance'][:, 0] < 0.02]
    ))
    for half in hits.HALVES
  ]  # fmt: skip
  # Other noise than the pinned run's: a handful of images may differ.
  assert abs(near[0] - pinned['training_hits']) <= 8, near
  assert near[1] == pinned['control_hits'] == 0
  groups = duplicates.groups(images, 0.02, False)
  one = hits.tally(hits.collect_hits(found, groups, keep, 25), alpha=0.3)
  if name == 'memoriser':
    assert one.extracted >= 0.98 * n
    # A digit can lie that near another's copy: few, next to all members.
    assert hits.with_intervals(one)['precision'][1] > 0.9
  else:
    # Nothing above control: as many hits as on images never seen.
    both = one.extracted + one.control
    assert abs(one.extracted - one.control) <= 3 * np.sqrt(both + 1)
