"""The range join against all pairs in float64."""

import jax
import numpy as np
import pytest

from jaxdiff.nearest import range_join
from jaxdiff.runtime import mesh


def images(seed: int, count: int, shape=(6, 6, 3), flat=False):
  """Smooth ones of several kinds, with copies at all distances below 0.1."""
  rng = np.random.default_rng(seed)
  coarse = rng.normal(size=(5, *shape))
  x = 128 + 30 * rng.normal(size=(count, 5)) @ coarse.reshape(5, -1)
  near = rng.permutation(count)[: count // 2]
  half = len(near) // 2
  noise = rng.normal(size=(half, x.shape[1]))
  x[near[half : 2 * half]] = x[near[:half]] + noise * np.linspace(
    0, 25, half
  )[:, None]  # fmt: skip
  if flat:
    x[: count // 4] = 255 * (np.arange(count // 4) % 2)[:, None]
  return np.clip(x, 0, 255).astype(np.uint8).reshape(count, *shape)


def naive(queries, references, radius):
  a, b = (x.reshape(len(x), -1) / 255.0 for x in (queries, references))
  far = np.sqrt(
    np.stack([np.square(row - b).mean(axis=1) for row in a])
  ).astype(np.float32)
  return {
    (i, j): far[i, j]
    for i, j in np.argwhere(far <= np.float32(radius)).tolist()
  }


def collected(pieces):
  out = {}
  for rows, columns, distances in pieces:
    for i, j, d in zip(rows, columns, distances, strict=True):
      assert (i, j) not in out  # each once
      out[int(i), int(j)] = d
  return out


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize('cell', [16, 64])
@pytest.mark.parametrize(
  ('shape', 'radius', 'flat'),
  [
    ((6, 6, 3), 0.03, False),
    ((6, 6, 3), 0.0, True),
    ((4, 4, 1), 0.05, True),
    ((12, 12, 1), 0.2, False),
    ((6, 6, 3), 2.0, False),
  ],
)
def test_every_pair_and_no_other(
  monkeypatch, shape, radius, flat, cell, devices
):
  monkeypatch.setattr(range_join, 'CELL', cell)
  monkeypatch.setattr(range_join, '_HITS', 37)
  monkeypatch.setattr(range_join, '_AT_ONCE', 3)
  grid = mesh.make(1, jax.devices()[:devices])
  references, queries = images(0, 203, shape, flat), images(1, 91, shape, flat)
  queries[:20] = references[50:70]
  join = range_join.RangeJoin(references, radius, mesh=grid)
  assert sorted(join.order) == list(range(203))
  got = collected(join.pairs(queries))
  want = naive(queries, references, radius)
  assert got.keys() == want.keys()
  for pair, distance in got.items():
    assert distance == pytest.approx(want[pair], abs=1e-6)
  middle = join.num_cells // 2
  own = collected(join.own_pairs(0, middle)) | collected(
    join.own_pairs(middle, join.num_cells)
  )
  both = {pair for i, j in own for pair in ((i, j), (j, i))}
  assert len(both) == 2 * len(own)
  want = naive(references, references, radius)
  assert both == {(i, j) for i, j in want if i != j}


def test_far_cells_are_not_multiplied(monkeypatch):
  monkeypatch.setattr(range_join, 'CELL', 16)
  join = range_join.RangeJoin(images(0, 640), 0.005)
  collected(join.own_pairs(0, join.num_cells))
  assert join.visited < join.num_cells * (join.num_cells + 1) / 8


def test_queries_in_their_own_order_visit_less(monkeypatch):
  monkeypatch.setattr(range_join, 'CELL', 16)
  queries = images(1, 320)
  visited = []
  for ordered in (False, True):
    join = range_join.RangeJoin(images(0, 640), 0.005)
    order = join.order_of(queries) if ordered else np.arange(len(queries))
    collected(join.pairs(queries[order]))
    visited.append(join.visited)
  assert visited[1] < visited[0] / 2


def test_an_order_that_was_kept_is_taken():
  references = images(0, 50)
  order = np.random.default_rng(0).permutation(50)
  join = range_join.RangeJoin(references, 0.05, order=order)
  got = collected(join.own_pairs(0, join.num_cells))
  want = naive(references, references, 0.05)
  assert len(got) == (len(want) - 50) / 2


@pytest.mark.parametrize('count', [1, 15, 16, 17, 100])
def test_cells_hold_near_rows(count):
  features = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
  order = range_join.cells(features, 16)
  assert sorted(order) == list(range(count))
  if count == 100:
    spread = [
      features[order[start : start + 16]].std(axis=0).prod()
      for start in range(0, 96, 16)
    ]
    assert np.mean(spread) < features.std(axis=0).prod() / 2
