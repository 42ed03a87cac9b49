"""The join of bit strings against counting all pairs."""

import jax
import numpy as np
import pytest

from jaxdiff.nearest import hamming, range_join
from jaxdiff.runtime import mesh
from tests.nearest.test_range_join import collected


def bits(seed, count, size):
  """Random ones; every other one differs from the one before in few places."""
  rng = np.random.default_rng(seed)
  out = rng.random((count, size)) < 0.5
  for row in range(1, count, 2):
    places = rng.permutation(size)[: row % 11]
    out[row] = out[row - 1]
    out[row, places] ^= True
  return out[rng.permutation(count)]


def packed(strings):
  return np.packbits(strings, axis=1)


def naive(queries, references, look):
  far = (queries[:, None] != references[None]).sum(axis=2)
  return {(i, j): far[i, j] for i, j in np.argwhere(far <= look).tolist()}


@pytest.mark.parametrize('devices', [1, 4])
@pytest.mark.parametrize(
  ('size', 'look'), [(256, 9), (256, 0), (104, 6), (40, 40)]
)
def test_every_pair_and_no_other(monkeypatch, size, look, devices):
  monkeypatch.setattr(range_join, 'CELL', 16)
  monkeypatch.setattr(range_join, '_AT_ONCE', 3)
  monkeypatch.setattr(hamming, '_HITS', 37)
  grid = mesh.make(1, jax.devices()[:devices])
  references, queries = bits(0, 203, size), bits(1, 91, size)
  queries[:20] = references[50:70]
  join = hamming.HammingJoin(packed(references), look, mesh=grid)
  assert collected(join.pairs(packed(queries))) == naive(
    queries, references, look
  )
  middle = join.num_cells // 2
  own = collected(join.own_pairs(0, middle)) | collected(
    join.own_pairs(middle, join.num_cells)
  )
  want = naive(references, references, look)
  assert own == {pair: d for pair, d in want.items() if pair[0] < pair[1]}
  assert len(own) > 4


def test_rows_are_those_of_the_order_that_is_given(monkeypatch):
  monkeypatch.setattr(range_join, 'CELL', 16)
  references = bits(0, 50, 256)
  order = np.random.default_rng(0).permutation(50)
  join = hamming.HammingJoin(packed(references), 12, order=order)
  found = collected(join.own_pairs(0, join.num_cells))
  both = found | {(j, i): d for (i, j), d in found.items()}
  want = naive(references, references, 12)
  assert both == {pair: d for pair, d in want.items() if pair[0] != pair[1]}
  assert collected(join.pairs(packed(references[:7]))) == naive(
    references[:7], references, 12
  )
