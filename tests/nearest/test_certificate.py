import jax
import numpy as np
import pytest

from jaxdiff.nearest import certificate, kernels, pca_bound, sizes
from jaxdiff.nearest import index as index_lib
from jaxdiff.runtime import mesh


def sketched(monkeypatch, count=3000, block=256):
  """Queries, references, and the index's view of cells."""
  monkeypatch.setattr(sizes, 'CPU_BLOCK', block)
  monkeypatch.setattr(sizes, '_LEAST_GROUPED', 1)
  rng = np.random.default_rng(0)
  centres = rng.integers(0, 256, (40, 192))
  images = centres[rng.integers(0, 40, count + 50)]
  images = images + rng.normal(0.0, 12.0, images.shape)
  images = np.clip(np.rint(images), 0, 255).astype(np.uint8)
  queries, references = images[:50], images[50:]
  index = index_lib.Index(references)
  index._sketched = pca_bound.Sketch(references, index._centre, 31)
  view = index._view(slice(0, count), 31)
  features, norms = index._features(queries, 31, 'query')
  return queries, references, view, features, norms


def test_no_block_within_reach_is_left_out(monkeypatch):
  queries, references, view, features, norms = sketched(monkeypatch)
  wide = queries.astype(np.float64), references.astype(np.float64)
  squared = np.square(wide[0][:, None] - wide[1][None]).sum(axis=2)
  of = view.order.reshape(-1, view.block)
  for kth in (0, 5, 100):
    asked = np.sort(squared, axis=1)[:, kth]
    visit = view.visited(features, norms, asked)
    for block, rows in enumerate(of):
      rows = rows[rows < view.count]
      within = (squared[:, rows] <= asked[:, None]).any(axis=1)
      assert visit[within, block].all()
  # Nor are all visited.
  assert view.visited(features, norms, squared.min(axis=1)).mean() < 0.5
  home = view.boxes.home(features)
  assert (home.sum(axis=1) == 1).all()


def test_a_block_of_no_row_is_never_home_nor_visited():
  features = np.ones((8, 3), np.float32)
  boxes = certificate.make(features, np.arange(8) < 4, 4)
  assert boxes.home(features).tolist() == [[True, False]] * 8
  assert np.isinf(boxes.bound(features)[:, 1]).all()


@pytest.mark.parametrize('share', [0.0, 0.2, 1.0])
def test_tiles_list_every_visit(share):
  visit = np.random.default_rng(0).random((256, 9)) < share
  of, rows, number = certificate.tiles(visit, 2)
  got = np.zeros_like(visit)
  for shard, (blocks, some, count) in enumerate(
    zip(np.split(of, 2), np.split(rows, 2), number, strict=True)
  ):
    for block, row in zip(blocks[:count], some[:count], strict=True):
      got[128 * shard + row, block] = True
  np.testing.assert_array_equal(got, visit)
  again = certificate.tiles(~visit, 2)
  assert [x.shape for x in again] == [of.shape, rows.shape, number.shape]


def products_of(rng, number):
  """Queries, 2,048 references, their squared norms, and v of all pairs."""
  queries = rng.standard_normal((number, 24), np.float32)
  features = rng.standard_normal((2048, 24), np.float32)
  norms = np.square(features).sum(axis=1)
  return queries, features, norms, 2.0 * queries @ features.T - norms


def test_blocks_visited_propose_as_all_do():
  rng = np.random.default_rng(0)
  queries, features, norms, v = products_of(rng, 256)
  for visit in (np.ones((256, 8), bool), rng.random((256, 8)) < 0.4):
    visit[:, 3] |= ~visit.any(axis=1)
    seen = np.repeat(visit, 256, axis=1)
    best = np.where(seen, v, -np.inf).max(axis=1)
    for devices in (1, 2, 4):
      edge, index, found, maxima = kernels.propose_visited(
        queries, features, norms, *certificate.tiles(visit, devices), count=5,
        mesh=mesh.make(1, jax.devices()[:devices]), block=256, group=16,
      )  # fmt: skip
      top = np.take_along_axis(v, np.asarray(index), axis=1)
      np.testing.assert_allclose(top[:, 0], best, atol=1e-4)
      np.testing.assert_allclose(found, top, atol=1e-4)
      members = kernels.member_rows(np.arange(128), 256, 16)
      want = np.where(seen, v, -np.inf)[:, members].max(axis=2)
      np.testing.assert_allclose(maxima, want, atol=1e-4)
      rest = np.where(seen, v, -np.inf)
      np.put_along_axis(rest, np.asarray(index), -np.inf, axis=1)
      assert (np.asarray(edge) >= rest.max(axis=1) - 1e-4).all()


def test_a_single_block_proposes_its_own():
  rng = np.random.default_rng(0)
  queries, features, norms, v = products_of(rng, 64)
  home = rng.integers(0, 8, 64)
  visit = np.arange(8)[None, :] == home[:, None]
  inside = np.where(np.repeat(visit, 256, axis=1), v, -np.inf)
  best = np.argsort(-inside, axis=1)[:, :5]
  for devices in (1, 2, 4):
    edge, index, found, maxima = kernels.propose_visited(
      queries, features, norms, *certificate.tiles(visit, devices), count=5,
      mesh=mesh.make(1, jax.devices()[:devices]), block=256, group=16,
      single=True,
    )  # fmt: skip
    np.testing.assert_array_equal(index, best)
    top = np.take_along_axis(v, best, axis=1)
    np.testing.assert_allclose(found, top, atol=1e-4)
    assert maxima.shape == (64, 16)
    assert (np.asarray(edge) >= np.sort(inside, axis=1)[:, -6] - 1e-4).all()
