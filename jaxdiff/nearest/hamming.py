"""Every pair of bit strings that differ in few places: exactly, by products.

With bits as +1 and -1, D of them, the product of two is D less twice the number
of places in which they differ. On matrix units of int8 that is the fastest way
to compare all with all: sums of integers, without rounding.

(1)  pairs   all (i, j) with |a_i xor b_j| <= look

Hashes of unlike images differ in half of their bits: no bound tells cells of
them apart, so none is used.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.nearest import kernels, range_join
from jaxdiff.runtime import mesh as mesh_lib

# Rows beside a group that are looked at together.
_HITS = 2**14


class HammingJoin:
  """References, prepared for joins within one distance.

  It is asked as a `range_join.RangeJoin` is, which `order`, `pairs` and
  `own_pairs` are described at; distances are bits, float32.
  """

  def __init__(
    self,
    references: np.ndarray,
    look: int,
    *,
    order: np.ndarray | None = None,
    mesh: jax.sharding.Mesh | None = None,
  ):
    """Prepares references.

    Args:
      references: uint8 [N, D / 8], as np.packbits makes them.
      look: bits.
      order: of the references, int [N]; None takes them as they come.
      mesh: its axis 'data' shares the work; all local devices if None.
    """
    self._mesh = mesh or mesh_lib.make(1, jax.local_devices())
    self.order = np.arange(len(references)) if order is None else order
    self._look, self._bits = look, 8 * references.shape[1]
    self._references = references[self.order]
    self._features, self._norms = self._prepared(self._references)

  @property
  def num_cells(self) -> int:
    """Cells of the references."""
    return len(self._features) // range_join.CELL

  def order_of(self, queries: np.ndarray) -> np.ndarray:
    """As they come: int [S]."""
    return np.arange(len(queries))

  def pairs(
    self, queries: np.ndarray
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Equation (1) of uint8 [S, D / 8], by pieces: row, column, distance."""
    yield from self._joined(queries, None)

  def own_pairs(
    self, first: int, last: int
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of the references in cells first to last - 1 and of later rows, once."""
    cell = range_join.CELL
    rows = slice(first * cell, min(last * cell, len(self.order)))
    for row, column, distance in self._joined(self._references[rows], first):
      yield self.order[rows.start + row], column, distance

  def _prepared(self, packed: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """int8 [M, D] of 1 and -1, and int32 [M] for |b|^2 of `kernels.values`.

    M is a multiple of a cell; of rows that fill up, the second is so large that
    no query is near them, and of others 0.
    """
    fill = -len(packed) % range_join.CELL
    signs = 2 * np.unpackbits(packed, axis=1).astype(np.int8) - 1
    signs = np.pad(signs, ((0, fill), (0, 0)))
    norms = np.zeros(len(signs), np.int32)
    norms[len(packed) :] = 4 * self._bits
    put = lambda x: mesh_lib.put(self._mesh, x, mesh_lib.REPLICATED)
    return put(signs), put(norms)

  def _joined(
    self, queries: np.ndarray, own: int | None
  ) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    cell, group = range_join.CELL, range_join.GROUP
    signs, unreal = self._prepared(queries)
    # The product of two that differ in `look` places, twice.
    cut = jnp.where(unreal > 0, jnp.iinfo(jnp.int32).max, 0) + jnp.where(
      unreal > 0, 0, 2 * (self._bits - 2 * self._look)
    )
    one, other = np.divmod(
      np.arange(len(signs) // cell * self.num_cells), self.num_cells
    )
    if own is not None:
      later = other >= own + one
      one, other = one[later], other[later]
    for hits, here, there in range_join.surviving(
      self._mesh, signs, cut, self._features, self._norms, one, other
    ):
      pair, row, of = np.nonzero(hits)
      row = here[pair] * cell + row
      of = there[pair] * (cell // group) + of
      # Where all are near each other, a call holds many.
      for part in range(0, len(row), _HITS):
        some = slice(part, part + _HITS)
        yield self._compared(queries, row[some], of[some], own)

  def _compared(
    self,
    queries: np.ndarray,
    row: np.ndarray,
    group: np.ndarray,
    own: int | None,
  ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equation (1) of rows of queries and the members of groups."""
    members = kernels.member_rows(group, range_join.CELL, range_join.GROUP)
    real = members < len(self.order)
    if own is not None:
      real &= members > own * range_join.CELL + row[:, None]
    place, member = np.nonzero(real)
    row, column = row[place], members[place, member]
    differ = np.bitwise_xor(queries[row], self._references[column])
    distance = np.bitwise_count(differ).sum(axis=1, dtype=np.int32)
    found = distance <= self._look
    return (
      row[found],
      self.order[column[found]],
      distance[found].astype(np.float32),
    )
