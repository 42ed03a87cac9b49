"""Deduplication: every pair of images within a distance, and what to keep.

The distance is that of the whole library, RMSE of pixels in [0, 1]; or, of
images above 64 pixels, the bits in which PDQ hashes differ. With r the
threshold, the join is complete:

(1)  pairs   all i < j with d(v(i), j) <= r or d(v(j), i) <= r, of some
             version v; of two sets, all i and j with d(v(i), j) <= r
(2)  groups  connected components of (1): what is near a copy is one of it

Versions are the image, its mirror image if asked for, and shifts by some pixels
either way, of which the part that both have in common is compared. Exact copies
are joined by their bytes first. Of files the middle square is compared. The
join is exact (`nearest.range_join`, `nearest.hamming`), its blocks lie on disk
and are not made again (`dedup_join`), and what is held in memory are images or
hashes, and the pairs. The nearest other image is looked for up to some way
beyond r: what is farther is no candidate. A hash of a plain picture says
nothing, and joins nothing.

Carlini et al. (2023), section 7.1, deduplicate by CLIP's embeddings; what
pixels cannot see, crops and other renderings, is not found here.
"""

from collections.abc import Iterator
import dataclasses
import functools
from typing import Any

from absl import logging
from etils import epath, epy
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import descriptors, image_sets
from jaxdiff.data.readers import decoding
from jaxdiff.defences import dedup_hashes, dedup_join
from jaxdiff.nearest import hamming, range_join
from jaxdiff.runs import files
from jaxdiff.runtime import progress

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import sparse

KEEP = ('first', 'largest', 'order')

# Sides of images that are compared, unless more are asked for.
_MOST_SIZE = 64
# Version of what blocks hold.
_FORMAT = 2
# How far the nearest others are looked for, in thresholds; and of copies alone.
_LOOK, _LEAST_LOOK = 2.0, 0.04
# Bits: hashes of unlike images differ in 128, and hardly ever in half of that.
_LOOK_BITS = 64


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
    pdq: r in bits of PDQ hashes, which are compared then, not pixels.
  """

  images: image_sets.ImageSet
  against: image_sets.ImageSet | None
  threshold: float
  flip: bool
  shift: int
  size: int
  keep: str
  order: tuple[str, ...] = ()
  pdq: int | None = None

  @property
  def limit(self) -> float:
    """r, in bits or in RMSE."""
    return self.threshold if self.pdq is None else float(self.pdq)

  @property
  def look(self) -> float:
    """How far the nearest other image is looked for."""
    if self.pdq is not None:
      return float(max(self.pdq, _LOOK_BITS))
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
    images: uint8 [N, s, s, C], as they were compared or as one would show them.
    others: uint8 [M, s, s, C], those they were compared with.
    plain: images whose hash says nothing; 0 where pixels are compared.
    plain_others: of the other set.
  """

  pairs: pd.DataFrame
  nearest: np.ndarray
  nearest_row: np.ndarray
  images: np.ndarray | dedup_hashes.Thumbnails
  others: np.ndarray | dedup_hashes.Thumbnails
  plain: int = 0
  plain_others: int = 0


def find(plan: DedupPlan, folder: epath.Path) -> Found:
  """Equation (1), in blocks that lie in the folder.

  Raises:
    InputError: if the folder is of another join, or images are too small.
  """
  made_of = _check(plan, folder)
  if plan.against is None and len(plan.images) < 2:
    raise inputs.InputError('--images: there are fewer than two')
  if plan.pdq is not None:
    return _by_hashes(plan, plan.pdq, folder, made_of)
  return _by_pixels(plan, folder, made_of)


def _by_pixels(
  plan: DedupPlan, folder: epath.Path, made_of: dict[str, Any]
) -> Found:
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
  asked = images
  if plan.against is None:
    first, copy_of = duplicates.copies(images, plan.flip)
    if len(first) < len(images):
      asked = images[first]
    others = asked
  centre = np.ascontiguousarray(_moved(others, plan.shift, 0, 0))
  # Only now: what fails before leaves the folder for another try.
  files.write_json(folder / 'dedup.json', made_of)
  joined = dedup_join.join(
    dedup_join.JoinPlan(
      joiner=lambda order: range_join.RangeJoin(
        centre, plan.threshold, plan.look, order=order
      ),
      versions=[
        functools.partial(_version, asked, move) for move in _moves(plan)
      ],
      count=len(asked),
      alone=plan.against is None,
      threshold=plan.threshold,
      flag='--threshold',
    ),
    folder,
  )
  if plan.against is None:
    joined, others = _with_copies(joined, first, copy_of), images
  pairs = pd.DataFrame({name: joined[name] for name in dedup_join.PAIR})
  return Found(pairs, joined['nearest'], joined['nearest_row'], images, others)


def _by_hashes(
  plan: DedupPlan, most: int, folder: epath.Path, made_of: dict[str, Any]
) -> Found:
  sets = [plan.images] if plan.against is None else [plan.images, plan.against]
  try:
    descriptors.check_pdq(sets, '--pdq')
  except ValueError as error:
    raise inputs.InputError(str(error)) from error
  # Of each image, twice with its mirror image, and once more to find copies.
  held = 2 * descriptors.PDQ_BITS // 8 * (1 + plan.flip)
  inputs.check_size('--images', held * sum(map(len, sets)))
  hashes, says = dedup_hashes.of_set(plan.images, plan.flip, folder, made_of)
  alone = plan.against is None
  rows = other_rows = np.flatnonzero(says)
  plain_others = 0
  if plan.against is None:
    # Equal hashes may be of images whose mirror images have other ones.
    both = hashes[rows].reshape(len(rows), hashes[0].size, 1, 1)
    first, copy_of = duplicates.copies(both, False)
    asked = hashes[rows[first]]
    references = asked[:, 0]
  else:
    asked = hashes[rows]
    of_others, others_say = dedup_hashes.of_set(
      plan.against, False, folder, made_of
    )
    other_rows = np.flatnonzero(others_say)
    plain_others = len(others_say) - len(other_rows)
    references = of_others[other_rows, 0]
  joined = dedup_join.join(
    dedup_join.JoinPlan(
      joiner=lambda order: hamming.HammingJoin(
        references, int(plan.look), order=order
      ),
      versions=[
        asked[:, version].__getitem__ for version in range(1 + plan.flip)
      ],
      count=len(asked),
      alone=alone,
      threshold=most,
      flag='--pdq',
    ),
    folder,
  )
  if alone:
    joined = _with_copies(joined, first, copy_of)
  nearest = np.full(len(says), np.inf, np.float32)
  nearest_row = np.full(len(says), -1)
  nearest[rows] = joined['nearest']
  nearest_row[rows] = np.append(other_rows, -1)[joined['nearest_row']]
  pairs = pd.DataFrame(
    {
      'first': rows[joined['first']],
      'second': other_rows[joined['second']],
      'distance': joined['distance'],
    }
  )
  shown = [dedup_hashes.Thumbnails(of) for of in sets]
  return Found(
    pairs,
    nearest,
    nearest_row,
    shown[0],
    shown[-1],
    len(says) - len(rows),
    plain_others,
  )


def _with_copies(
  joined: dict[str, np.ndarray], first: np.ndarray, copy_of: np.ndarray
) -> dict[str, np.ndarray]:
  """Rows of the whole set: a copy is at distance 0 from the first of its like.

  Args:
    joined: of distinct images.
    first: int [U], the row of each distinct image.
    copy_of: int [N], which distinct image each is.
  """
  rows = np.arange(len(copy_of))
  copies = rows[first[copy_of] != rows]
  one = np.concatenate([first[joined['first']], first[copy_of[copies]]])
  other = np.concatenate([first[joined['second']], copies])
  none = np.zeros(len(copies), np.float32)
  distance = np.concatenate([joined['distance'], none])
  low, high = np.minimum(one, other), np.maximum(one, other)
  order = np.lexsort((high, low))
  nearest = joined['nearest'][copy_of]
  nearest_row = np.append(first, -1)[joined['nearest_row']][copy_of]
  nearest[copies], nearest_row[copies] = 0.0, first[copy_of[copies]]
  # The first of several copies is as near to the next.
  of_first, place = np.unique(first[copy_of[copies]], return_index=True)
  nearest[of_first], nearest_row[of_first] = 0.0, copies[place]
  return {
    'first': low[order], 'second': high[order], 'distance': distance[order],
    'nearest': nearest, 'nearest_row': nearest_row,
  }  # fmt: skip


def compared(plan: DedupPlan) -> tuple[int, int]:
  """Sides and colours of what is compared, whichever image comes first.

  Files, of many sizes, as squares of 64 pixels in colour; arrays as they are,
  up to that.
  """
  side, channels = plan.images.first_shape()
  if plan.images.named:
    side, channels = _MOST_SIZE, 3
  return plan.size or min(side, _MOST_SIZE), channels


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
  of: np.ndarray, move: tuple[bool, int, int, int], rows: np.ndarray | slice
) -> np.ndarray:
  mirror, *moved = move
  images = of[rows]
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
    # Not in folders of before.
    **({} if plan.pdq is None else {'pdq': plan.pdq}),
  }
  path = folder / 'dedup.json'
  if path.exists():
    with inputs.reading(path, 'is damaged: give --out a new folder'):
      before = files.read_json(path)
      differ = [
        key for key in sorted({*made_of, *before})
        if before.get(key) != made_of.get(key)
      ]  # fmt: skip
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
    out = out.assign(kept=(found.nearest > plan.limit).astype(int))
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
  own = len(plan.images)
  others = own if plan.against is None else len(plan.against)
  if plan.pdq is not None:
    pairs = own * others * (1 + plan.flip)
    if plan.against is None:
      pairs -= own * others // 2
    return 2.0 * descriptors.PDQ_BITS * pairs
  size, channels = compared(plan)
  pixels = (size - 2 * plan.shift) ** 2 * channels
  width = range_join.width(pixels)
  versions = len(list(_moves(plan)))
  pairs = own * others * versions
  if plan.against is None:
    pairs -= own * others // 2
  return 2.0 * width * (pairs + pixels * (own * versions + others))
