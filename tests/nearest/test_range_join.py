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


@pytest.mark.parametrize('own', [False, True])
def test_beyond_the_radius_the_nearest_are_found(monkeypatch, own):
  monkeypatch.setattr(range_join, 'CELL', 16)
  monkeypatch.setattr(range_join, '_HITS', 37)
  references = images(0, 203)
  queries = references if own else images(1, 91)
  if not own:
    queries[:20] = references[50:70]
  radius, look = 0.02, 0.2
  join = range_join.RangeJoin(references, radius, look)
  if own:
    found = collected(join.own_pairs(0, join.num_cells))
    found |= {(j, i): d for (i, j), d in found.items()}
  else:
    found = collected(join.pairs(queries))
  want = naive(queries, references, look)
  if own:
    want = {(i, j): d for (i, j), d in want.items() if i != j}
  within = {pair for pair, d in want.items() if d <= radius}
  assert within and within <= found.keys() <= want.keys()
  # Nearest, and of equally near ones all.
  for row in range(len(queries)):
    near = {j: d for (i, j), d in want.items() if i == row}
    if near:
      least = min(near.values())
      nearest = {(row, j) for j, d in near.items() if d == least}
      assert nearest <= found.keys()
  assert len(found) < len(want) / 2


def test_many_at_the_same_distance_are_not_all_compared(monkeypatch):
  rng = np.random.default_rng(0)
  references = rng.integers(110, 130, (600, 8, 8, 1)).astype(np.uint8)
  compared = []
  rmse = range_join.rmse
  monkeypatch.setattr(
    range_join, 'rmse',
    lambda *args: compared.append(len(args[2])) or rmse(*args),
  )  # fmt: skip
  join = range_join.RangeJoin(references, 0.001, 0.06)
  found = collected(join.own_pairs(0, join.num_cells))
  want = naive(references, references, 0.06)
  assert len(want) > 50_000 and sum(compared) < 6_000
  first = {i for pair in found for i in pair}
  assert first == {i for i, j in want if i != j}


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


@pytest.mark.parametrize('narrow', [3, 7])
def test_few_coordinates_in_the_product_lose_no_pair(monkeypatch, narrow):
  monkeypatch.setattr(range_join, 'CELL', 16)
  monkeypatch.setattr(
    range_join.RangeJoin, '_narrowest', lambda self, features: narrow
  )
  references, queries = images(0, 203), images(1, 91)
  queries[:20] = references[50:70]
  join = range_join.RangeJoin(references, 0.05)
  assert collected(join.pairs(queries)).keys() == (
    naive(queries, references, 0.05).keys()
  )
  own = collected(join.own_pairs(0, join.num_cells))
  want = naive(references, references, 0.05)
  assert {(min(p), max(p)) for p in own} == {(i, j) for i, j in want if i < j}


def test_the_product_takes_as_many_coordinates_as_pay():
  """Few where they tell all apart; all where few would leave too much."""
  rng = np.random.default_rng(0)
  far = rng.integers(0, 256, (3000, 12, 12, 1)).astype(np.uint8)
  assert range_join.RangeJoin(far, 0.02).narrow == 15
  # Of equal variance in all directions: fifteen of 144 hold a tenth of it.
  alike = rng.integers(118, 138, (3000, 12, 12, 1)).astype(np.uint8)
  assert range_join.RangeJoin(alike, 0.02).narrow > 15
  small = rng.integers(0, 256, (100, 3, 3, 1)).astype(np.uint8)
  assert range_join.RangeJoin(small, 0.02).narrow == 9
