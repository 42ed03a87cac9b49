"""What a model makes of rows, batch by batch."""

import jax
import numpy as np
import pytest

from jaxdiff.runs import blocks
from jaxdiff.runtime import mesh, multihost


@pytest.mark.parametrize('devices', [1, 2])
def test_batches_are_joined_and_none_is_ahead_where_devices_share(
  devices, monkeypatch
):
  grid = mesh.make(1, jax.devices()[:devices])
  fetched, fetch = [], multihost.fetch

  def watched(tree):
    fetched.append(len(jax.tree.leaves(tree)))
    return fetch(tree)

  monkeypatch.setattr(multihost, 'fetch', watched)
  mapped = blocks.MapRows(
    lambda params, model, rows: params + model + 2.0 * rows,
    grid, batch_size=4, most=10,
  )  # fmt: skip
  rows = np.arange(10, dtype=np.float32)
  params = mesh.put(grid, np.ones((1, 1), np.float32), mesh.PER_MODEL)
  got = mapped(params, np.array([3]), rows)
  np.testing.assert_array_equal(got, 4.0 + 2.0 * rows[None])
  # The last batch is still at work when all others were fetched, unless
  # programs must alternate (`mesh.must_alternate`).
  assert fetched == ([1, 1, 1, 0] if devices > 1 else [1, 1, 1])
