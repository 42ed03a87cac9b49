"""The join of deduplication, in blocks that lie on disk."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import hashlib
from typing import Protocol

from etils import epath
import numpy as np

from jaxdiff import inputs
from jaxdiff.nearest import range_join
from jaxdiff.runs import files
from jaxdiff.runtime import progress

# Images a block, whole cells; pairs that are held.
_BLOCK = 64 * range_join.CELL
_MOST_PAIRS = 2**27
# Pieces whose nearest are merged at a time.
_MERGED = 256
# Of a block: pairs within the threshold, and the nearest of each image.
PAIR = ('first', 'second', 'distance')
_NEAREST = ('near', 'near_distance', 'near_row')

_Pieces = Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]


class Joiner(Protocol):
  """References that are searched: `range_join.RangeJoin`, or like it."""

  order: np.ndarray

  def order_of(self, queries: np.ndarray) -> np.ndarray: ...

  def pairs(self, queries: np.ndarray) -> _Pieces: ...

  def own_pairs(self, first: int, last: int) -> _Pieces: ...


@dataclasses.dataclass(frozen=True)
class JoinPlan:
  """What is joined.

  Attributes:
    joiner: an order that was kept, or None -> the references.
    versions: rows, or a slice of them -> how these are compared, one for each
      version.
    count: of the rows.
    alone: the rows are the references, and the first version is they.
    threshold: of pairs.
    flag: that it comes from.
  """

  joiner: Callable[[np.ndarray | None], Joiner]
  versions: Sequence[Callable[[np.ndarray | slice], np.ndarray]]
  count: int
  alone: bool
  threshold: float
  flag: str


def join(plan: JoinPlan, folder: epath.Path) -> dict[str, np.ndarray]:
  """first, second, distance of pairs; nearest and nearest_row of all rows.

  Raises:
    InputError: if there are more pairs than are held.
  """
  # Of a join that was stopped: cells of other rounding would be others.
  kept = files.read_npz(folder / 'order.npz', 'others', 'asked')
  joiner = plan.joiner(None if kept is None else kept['others'])
  if kept is None:
    order = joiner.order
    if not plan.alone:
      order = joiner.order_of(plan.versions[0](slice(None)))
    files.write_npz(folder / 'order.npz', others=joiner.order, asked=order)
  else:
    order = kept['asked']
  # Blocks of another order hold other rows.
  made_by = hashlib.blake2b(order.tobytes(), digest_size=4).hexdigest()
  blocks: list[dict[str, np.ndarray]] = []
  num_pairs = 0
  with progress.track(
    'dedup', plan.count * len(plan.versions), 'images', 0
  ) as advance:
    for number, version in enumerate(plan.versions):
      for start in range(0, plan.count, _BLOCK):
        rows = order[start : start + _BLOCK]
        name = f'{number:03d}-{start:010d}-{made_by}.npz'
        path = folder / 'blocks' / name
        block = files.read_npz(path, *PAIR, *_NEAREST)
        if block is None:
          if plan.alone and number == 0:
            last = -(-(start + len(rows)) // range_join.CELL)
            pieces = joiner.own_pairs(start // range_join.CELL, last)
          else:
            pieces = _of(rows, joiner.pairs(version(rows)))
          block = _block(plan, pieces)
          files.write_npz(path, **block)
        blocks.append(block)
        # Of the image itself alone: other versions find the same pairs again.
        num_pairs += len(block['first']) if number == 0 else 0
        if num_pairs > _MOST_PAIRS:
          raise _too_many(plan)
        advance(len(rows))
  # Where there are no rows, nothing is known.
  blocks.append(_block(plan, []))
  out = {
    name: np.concatenate([block[name] for block in blocks])
    for name in (*PAIR, *_NEAREST)
  }
  nearest = np.full(plan.count, np.inf, np.float32)
  nearest_row = np.full(plan.count, -1)
  row, distance, other = _nearest_of(*(out[name] for name in _NEAREST))
  nearest[row], nearest_row[row] = distance, other
  first, distance, second = _once(
    *(out[name] for name in ('first', 'distance', 'second'))
  )
  return {
    'first': first, 'second': second, 'distance': distance,
    'nearest': nearest, 'nearest_row': nearest_row,
  }  # fmt: skip


def _of(rows: np.ndarray, pieces: _Pieces) -> _Pieces:
  """Pieces of rows by their place, by their number."""
  for row, column, distance in pieces:
    yield rows[row], column, distance


def _block(
  plan: JoinPlan, pieces: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
  """What a block's pairs, some beyond the threshold, make of it.

  Returns:
    Those within the threshold, the first before the second in a set that is
    compared with itself, and the nearest of each row that has one.
  """
  close, near = [], []
  num_pairs = 0
  for piece in pieces:
    first, second, distance = piece
    if plan.alone:
      # An image is no copy of itself, nor of its own mirror image.
      other = first != second
      first, second, distance = first[other], second[other], distance[other]
      first, second = np.minimum(first, second), np.maximum(first, second)
      near.append(_nearest_of(second, distance, first))
    near.append(_nearest_of(first, distance, second))
    inside = distance <= np.float32(plan.threshold)
    close.append((first[inside], distance[inside], second[inside]))
    num_pairs += np.count_nonzero(inside)
    if num_pairs > _MOST_PAIRS:
      raise _too_many(plan)
    if len(near) > _MERGED:
      merged = zip(*near, strict=True)
      near = [_nearest_of(*(np.concatenate(x) for x in merged))]
  none = np.empty(0, int), np.empty(0, np.float32), np.empty(0, int)
  row, far, other = _nearest_of(
    *(np.concatenate(x) for x in zip(none, *near, strict=True))
  )
  first, distance, second = _once(
    *(np.concatenate(x) for x in zip(none, *close, strict=True))
  )
  return {
    'first': first, 'second': second, 'distance': distance,
    'near': row, 'near_distance': far, 'near_row': other,
  }  # fmt: skip


def _too_many(plan: JoinPlan) -> inputs.InputError:
  return inputs.InputError(
    f'{plan.flag}: {plan.threshold:g} is too large: more than {_MOST_PAIRS:,} '
    'pairs are within'
  )


def _nearest_of(
  row: np.ndarray, distance: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """The least distance of each row, of equals the first other: [n] each."""
  order = np.lexsort((other, distance, row))
  row, distance, other = row[order], distance[order], other[order]
  new = np.append(True, np.diff(row) != 0)[: len(row)]
  return row[new], distance[new], other[new]


def _once(
  first: np.ndarray, distance: np.ndarray, second: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Pairs that were found several times, by their least distance: [n] each."""
  order = np.lexsort((distance, second, first))
  first, distance, second = first[order], distance[order], second[order]
  new = (np.diff(first) != 0) | (np.diff(second) != 0)
  new = np.append(True, new)[: len(first)]
  return first[new], distance[new], second[new]
