"""Deduplication: every pair of images within a distance, and what to keep.

The distance is that of the whole library, RMSE of pixels in [0, 1]. With r the
threshold, the join is complete:

(1)  pairs   all i < j with l2(v(i), j) <= r or l2(v(j), i) <= r, of some
             version v
(2)  groups  connected components of (1): what is near a copy is one of it

Versions are the image, its mirror image if asked for, and shifts by some pixels
either way, of which the part that both have in common is compared. Exact copies
are joined by their bytes first. Of files the middle square is compared. The
join is exact (`nearest.range_join`), its blocks lie on disk and are not made
again, and what is held in memory are the images and the pairs. The nearest
other image is looked for up to twice r: what is farther is no candidate.

Carlini et al. (2023), section 7.1, deduplicate by CLIP's embeddings; what
pixels cannot see, crops and other renderings, is not found here.
"""

from collections.abc import Iterable, Iterator
import dataclasses
import hashlib
from typing import Any

from absl import logging
from etils import epath, epy
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import image_sets
from jaxdiff.data.readers import decoding
from jaxdiff.nearest import range_join
from jaxdiff.runs import files
from jaxdiff.runtime import progress

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import sparse

KEEP = ('first', 'largest', 'order')

# Images a block, whole cells; pairs that are held.
_BLOCK = 64 * range_join.CELL
_MOST_PAIRS = 2**27
# Pieces whose nearest are merged at a time.
_MERGED = 256
# Sides of images that are compared, unless more are asked for.
_MOST_SIZE = 64
# Version of what blocks hold.
_FORMAT = 2
# Of a block: pairs within the threshold, and the nearest of each image.
_PAIR = ('first', 'second', 'distance')
_NEAREST = ('near', 'near_distance', 'near_row')
# How far the nearest others are looked for, in thresholds; and of copies alone.
_LOOK, _LEAST_LOOK = 2.0, 0.04


@dataclasses.dataclass(frozen=True, kw_only=True)
class DedupPlan:
  """What is joined, and how.

  Attributes:
    images: the set.
    against: another set, whose near-duplicates are taken out of `images`; None:
      the set is compared with itself.
    threshold: r.
    flip: mirror images count.
    shift: pixels that an image may be moved by.
    size: sides that are compared; 0 takes the first image's, at most 64.
    keep: one of KEEP.
    order: names of images that are kept before others, the first first.
  """

  images: image_sets.ImageSet
  against: image_sets.ImageSet | None
  threshold: float
  flip: bool
  shift: int
  size: int
  keep: str
  order: tuple[str, ...] = ()

  @property
  def look(self) -> float:
    """How far the nearest other image is looked for."""
    return _LOOK * self.threshold or _LEAST_LOOK


@dataclasses.dataclass(frozen=True)
class Found:
  """What the join found.

  Attributes:
    pairs: first, second and distance; rows of the set, or of the set and of the
      other one.
    nearest: float32 [N], the distance to the nearest other image; infinite
      where none is within `look`.
    nearest_row: int [N], which that is; -1 where none is.
    images: uint8 [N, s, s, C], as they were compared.
    others: uint8 [M, s, s, C], those they were compared with.
  """

  pairs: pd.DataFrame
  nearest: np.ndarray
  nearest_row: np.ndarray
  images: np.ndarray
  others: np.ndarray


def find(plan: DedupPlan, folder: epath.Path) -> Found:
  """Equation (1), in blocks that lie in the folder.

  Raises:
    InputError: if the folder is of another join, or images are too small.
  """
  made_of = _check(plan, folder)
  own = plan.images
  size, channels = compared(plan)
  if size <= 2 * plan.shift:
    raise inputs.InputError(
      f'--shift: {plan.shift} leaves nothing of images of {size} pixels'
    )
  held = size * size * channels * (len(own) + len(plan.against or ()))
  inputs.check_size('--images', held)
  images = _decoded(own, size, channels)
  others = images
  if plan.against is not None:
    others = _decoded(plan.against, size, channels)
  if plan.against is None and len(images) < 2:
    raise inputs.InputError('--images: there are fewer than two')
  asked = images
  if plan.against is None:
    first, copy_of = duplicates.copies(images, plan.flip)
    if len(first) < len(images):
      asked = images[first]
    others = asked
  # Only now: what fails before leaves the folder for another try.
  files.write_json(folder / 'dedup.json', made_of)
  joined = _join(plan, asked, others, folder)
  if plan.against is None:
    return _with_copies(joined, first, copy_of, images)
  pairs = pd.DataFrame({k: joined[k] for k in _PAIR})
  return Found(pairs, joined['nearest'], joined['nearest_row'], images, others)


def _join(
  plan: DedupPlan,
  asked: np.ndarray,
  others: np.ndarray,
  folder: epath.Path,
) -> dict[str, np.ndarray]:
  """first, second, distance of pairs; nearest and nearest_row of all asked."""
  alone = plan.against is None
  centre = np.ascontiguousarray(_moved(others, plan.shift, 0, 0))
  # Of a join that was stopped: cells of other rounding would be others.
  kept = files.read_npz(folder / 'order.npz', 'others', 'asked')
  join = range_join.RangeJoin(
    centre,
    plan.threshold,
    plan.look,
    order=None if kept is None else kept['others'],
  )
  if kept is None:
    order = join.order
    if not alone:
      order = join.order_of(_moved(asked, plan.shift, 0, 0))
    files.write_npz(folder / 'order.npz', others=join.order, asked=order)
  else:
    order = kept['asked']
  # Blocks of another order hold other rows.
  made_by = hashlib.blake2b(order.tobytes(), digest_size=4).hexdigest()
  versions = list(_moves(plan))
  blocks: list[dict[str, np.ndarray]] = []
  num_pairs = 0
  with progress.track(
    'dedup', len(asked) * len(versions), 'images', 0
  ) as advance:
    for number, move in enumerate(versions):
      for start in range(0, len(asked), _BLOCK):
        rows = order[start : start + _BLOCK]
        name = f'{number:03d}-{start:010d}-{made_by}.npz'
        path = folder / 'blocks' / name
        block = files.read_npz(path, *_PAIR, *_NEAREST)
        if block is None:
          if alone and number == 0:
            last = -(-(start + len(rows)) // range_join.CELL)
            pieces = join.own_pairs(start // range_join.CELL, last)
          else:
            pieces = (
              (rows[row], column, distance)
              for row, column, distance in join.pairs(
                _version(asked[rows], move)
              )
            )
          block = _block(plan, pieces)
          files.write_npz(path, **block)
        blocks.append(block)
        # Of the image itself alone: other versions find the same pairs again.
        num_pairs += len(block['first']) if number == 0 else 0
        if num_pairs > _MOST_PAIRS:
          raise _too_many(plan)
        advance(len(rows))
  out = {
    name: np.concatenate([block[name] for block in blocks])
    for name in (*_PAIR, *_NEAREST)
  }
  nearest = np.full(len(asked), np.inf, np.float32)
  nearest_row = np.full(len(asked), -1)
  row, distance, other = _nearest_of(*(out[name] for name in _NEAREST))
  nearest[row], nearest_row[row] = distance, other
  first, distance, second = _once(
    *(out[name] for name in ('first', 'distance', 'second'))
  )
  return {
    'first': first, 'second': second, 'distance': distance,
    'nearest': nearest, 'nearest_row': nearest_row,
  }  # fmt: skip


def _block(
  plan: DedupPlan, pieces: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> dict[str, np.ndarray]:
  """What pairs within plan.look make of a block.

  Returns:
    Those within the threshold, the first before the second in a set that is
    compared with itself, and the nearest of each row that has one.
  """
  alone = plan.against is None
  close, near = [], []
  num_pairs = 0
  for piece in pieces:
    first, second, distance = piece
    if alone:
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


def _too_many(plan: DedupPlan) -> inputs.InputError:
  return inputs.InputError(
    f'--threshold: {plan.threshold:g} is too large: more than {_MOST_PAIRS:,} '
    'pairs are within'
  )


def _with_copies(
  joined: dict[str, np.ndarray],
  first: np.ndarray,
  copy_of: np.ndarray,
  images: np.ndarray,
) -> Found:
  """Rows of the whole set: a copy is at distance 0 from the first of its like.

  Args:
    joined: of distinct images.
    first: int [U], the row of each distinct image.
    copy_of: int [N], which distinct image each is.
    images: [N, ...].
  """
  rows = np.arange(len(copy_of))
  copies = rows[first[copy_of] != rows]
  pairs = pd.DataFrame(
    {
      'first': np.concatenate([first[joined['first']], first[copy_of[copies]]]),
      'second': np.concatenate([first[joined['second']], copies]),
      'distance': np.concatenate(
        [joined['distance'], np.zeros(len(copies), np.float32)]
      ),
    }
  )
  low, high = np.sort(pairs[['first', 'second']].to_numpy(), axis=1).T
  pairs = pairs.assign(first=low, second=high)
  pairs = pairs.sort_values(['first', 'second'], ignore_index=True)
  nearest = joined['nearest'][copy_of]
  nearest_row = np.append(first, -1)[joined['nearest_row']][copy_of]
  nearest[copies], nearest_row[copies] = 0.0, first[copy_of[copies]]
  # The first of several copies is as near to the next.
  of_first, place = np.unique(first[copy_of[copies]], return_index=True)
  nearest[of_first], nearest_row[of_first] = 0.0, copies[place]
  return Found(pairs, nearest, nearest_row, images, images)


def compared(plan: DedupPlan) -> tuple[int, int]:
  """Sides and colours of what is compared, whichever image comes first.

  Files, of many sizes, as squares of 64 pixels in colour; arrays as they are,
  up to that.
  """
  side, channels = plan.images.first_shape()
  if plan.images.named:
    side, channels = _MOST_SIZE, 3
  return plan.size or min(side, _MOST_SIZE), channels


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


def _moved(
  images: np.ndarray, shift: int, down: int, across: int
) -> np.ndarray:
  """The part that images moved by up to `shift` have in common."""
  height, width = images.shape[1:3]
  return images[
    :,
    shift + down : height - shift + down,
    shift + across : width - shift + across,
  ]


def _moves(plan: DedupPlan) -> Iterator[tuple[bool, int, int, int]]:
  """Versions that are compared, the image itself first."""
  moves = sorted(range(-plan.shift, plan.shift + 1), key=abs)
  for mirror in (False, True)[: 2 if plan.flip else 1]:
    for down in moves:
      for across in moves:
        yield mirror, plan.shift, down, across


def _version(
  images: np.ndarray, move: tuple[bool, int, int, int]
) -> np.ndarray:
  mirror, *moved = move
  return _moved(images[:, :, ::-1] if mirror else images, *moved)


def _decoded(of: image_sets.ImageSet, size: int, channels: int) -> np.ndarray:
  """uint8 [N, size, size, channels]."""
  images = np.empty((len(of), size, size, channels), np.uint8)
  with progress.track(f'read {of.key}', len(of), 'images', 0) as advance:
    for row, image in enumerate(of.decoded(range(len(of)), size, channels)):
      images[row] = image
      advance(1)
  return images


def _check(plan: DedupPlan, folder: epath.Path) -> dict[str, Any]:
  """What a folder of this join says of it; refuses one of another."""
  made_of = {
    'format': _FORMAT,
    'images': plan.images.digest(),
    'against': plan.against.digest() if plan.against else '',
    'threshold': plan.threshold,
    'flip': plan.flip,
    'shift': plan.shift,
    'size': plan.size,
  }
  path = folder / 'dedup.json'
  if path.exists():
    with inputs.reading(path, 'is damaged: give --out a new folder'):
      before = files.read_json(path)
      differ = [key for key in made_of if before[key] != made_of[key]]
    if differ:
      raise inputs.InputError(
        f'--out: {inputs.name_of(str(folder))} is of another '
        f'{", ".join(differ)}: give it a new folder'
      )
    return made_of
  if folder.exists() and any(x.name != 'run.lock' for x in folder.iterdir()):
    raise inputs.InputError(
      f'--out: {inputs.name_of(str(folder))} holds something else'
    )
  return made_of


def groups(count: int, pairs: pd.DataFrame) -> np.ndarray:
  """Equation (2): int [N], numbered by their first image."""
  rows, columns = pairs['first'].to_numpy(int), pairs['second'].to_numpy(int)
  edges = sparse.coo_array(
    (np.ones(len(rows), bool), (rows, columns)), shape=(count, count)
  )
  return duplicates.renumber(
    sparse.csgraph.connected_components(edges, directed=False)[1]
  )


def kept(plan: DedupPlan, group: np.ndarray) -> np.ndarray:
  """The image of each group that stays: bool [N].

  `first` is the first by name or row; `largest` that with the longest shorter
  side, of these the file with the most bytes; `order` that which `order` names
  first. Ties go to the first.
  """
  count = len(group)
  _, sizes = np.unique(group, return_counts=True)
  several = np.flatnonzero(sizes[group] > 1)
  rank = np.zeros((count, 2))
  if plan.keep == 'largest':
    for row in several.tolist():
      content = plan.images.content(row)
      # Of an array, all images are as large.
      side = decoding.shape_of(content)[0] if plan.images.named else 0
      rank[row] = -side, -len(content)
  elif plan.keep == 'order':
    place = {name: number for number, name in enumerate(plan.order)}
    for row in several.tolist():
      rank[row, 0] = place.get(plan.images.names[row], len(place))
  order = np.lexsort((np.arange(count), rank[:, 1], rank[:, 0], group))
  out = np.zeros(count, bool)
  _, first = np.unique(group[order], return_index=True)
  out[order[first]] = True
  return out


def table(plan: DedupPlan, found: Found) -> pd.DataFrame:
  """dedup.csv: a row an image, in the order of the set.

  Columns index, source, group, copies (images of its group), kept,
  nearest_distance, nearest_source. Of a set that was compared with another,
  group and copies are left out, and kept are images without a near-duplicate
  there.
  """
  names = np.array(plan.images.names, dtype=object)
  others = names
  if plan.against is not None:
    others = np.array(plan.against.names, dtype=object)
  out = pd.DataFrame({'index': np.arange(len(names)), 'source': names})
  if plan.against is None:
    group = groups(len(names), found.pairs)
    _, sizes = np.unique(group, return_counts=True)
    out = out.assign(
      group=group, copies=sizes[group], kept=kept(plan, group).astype(int)
    )
  else:
    out = out.assign(kept=(found.nearest > plan.threshold).astype(int))
  known = found.nearest_row >= 0
  return out.assign(
    nearest_distance=np.where(known, found.nearest, np.float32(np.nan)),
    nearest_source=np.where(known, others[found.nearest_row], ''),
  )


def write(plan: DedupPlan, folder: epath.Path) -> tuple[Found, pd.DataFrame]:
  """Finds, and writes dedup.csv, pairs.parquet and kept.txt.

  Returns:
    What was found, and dedup.csv.
  """
  found = find(plan, folder)
  rows = table(plan, found)
  files.write_csv(folder / 'dedup.csv', rows)
  files.write_parquet_of(folder / 'dedup.parquet', rows)
  files.write_parquet_of(folder / 'pairs.parquet', found.pairs)
  names = rows['source'][rows['kept'] == 1]
  files.write(
    folder / 'kept.txt',
    ''.join(f'{name}\n' for name in names).encode('utf-8', 'backslashreplace'),
  )
  logging.info(
    'dedup: %d pairs, %d of %d images kept', len(found.pairs),
    int(rows['kept'].sum()), len(rows),
  )  # fmt: skip
  return found, rows


def operations(plan: DedupPlan) -> float:
  """Of the products that a join takes if no cell is proven far."""
  size, channels = compared(plan)
  pixels = (size - 2 * plan.shift) ** 2 * channels
  width = range_join.width(pixels)
  versions = len(list(_moves(plan)))
  own = len(plan.images)
  others = own if plan.against is None else len(plan.against)
  pairs = own * others * versions
  if plan.against is None:
    pairs -= own * others // 2
  return 2.0 * width * (pairs + pixels * (own * versions + others))
