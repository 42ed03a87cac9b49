"""A set of images: their names, and decoding some of them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import dataclasses
import hashlib

import numpy as np

from jaxdiff import inputs
from jaxdiff.data.readers import decode_pool, decoding
from jaxdiff.runtime import progress

# (rows, size, channels) -> images in turn; errors stand for broken ones.
ReadFn = Callable[
  [Sequence[int], int, int], Iterable[np.ndarray | ValueError]
]  # fmt: skip


# Images whose digests are asked for at a time.
_HASHED = 4096


@dataclasses.dataclass(frozen=True)
class ImageSet:
  """A set whose images are not yet decoded.

  Attributes:
    key: of the config that named it, for errors.
    names: [N] of the images, for people.
    labels: [N] names of classes.
    skipped: (file, why) of what is not read.
    read: rows -> their images, or errors that stand for broken ones.
    first_shape: () -> the shorter side of the first image, and its channels.
    content: row -> the bytes that identify an image.
    named: whether names say anything: rows of an array have none of their own.
    mend: what may be done about a broken image.
    sharded: whether names begin with the file of several that holds them.
  """

  key: str
  names: tuple[str, ...]
  labels: tuple[str, ...]
  skipped: tuple[tuple[str, str], ...]
  read: ReadFn
  first_shape: Callable[[], tuple[int, int]]
  content: Callable[[int], bytes]
  named: bool = True
  mend: str = ''
  sharded: bool = False

  def __len__(self) -> int:
    return len(self.names)

  def digest(self) -> str:
    """SHA-256 over names and content of all images."""
    whole = hashlib.sha256()

    def digest_of(row: int) -> bytes:
      try:
        return hashlib.sha256(self.content(row)).digest()
      except (ValueError, OSError) as error:
        raise inputs.InputError(
          f'{self.key}: {self.names[row]}: {inputs.one_line(error)}'
        ) from error

    with concurrent.futures.ThreadPoolExecutor() as pool:
      # What waits in the pool takes a kilobyte each: not all at once.
      for start in range(0, len(self), _HASHED):
        rows = range(start, min(start + _HASHED, len(self)))
        for row, found in zip(rows, pool.map(digest_of, rows), strict=True):
          if self.named:
            whole.update(self.names[row].encode('utf-8', 'backslashreplace'))
          whole.update(found)
    return whole.hexdigest()

  def decoded(
    self, rows: Sequence[int], size: int, channels: int
  ) -> Iterator[np.ndarray]:
    """Some images, one by one; InputError names the first that is broken."""
    for row, image in zip(rows, self.read(rows, size, channels), strict=True):
      if isinstance(image, ValueError):
        raise inputs.InputError(
          f'{self.key}: {self.names[row]}: {image}{self.mend}'
        )
      yield image

  def whole(self) -> 'ImageSet':
    """The set without what cannot be read, which is listed: decodes it all.

    Raises:
      InputError: if nothing is left.
    """
    broken: dict[int, str] = {}
    with progress.track(f'check {self.key}', len(self), 'images', 0) as advance:
      for row, image in enumerate(self.read(range(len(self)), 8, 3)):
        if isinstance(image, ValueError):
          broken[row] = str(image)
        advance(1)
    kept = [row for row in range(len(self)) if row not in broken]
    if not kept:
      raise inputs.InputError(f'{self.key}: every image of it is broken')
    return dataclasses.replace(
      self,
      names=tuple(self.names[row] for row in kept),
      labels=tuple(self.labels[row] for row in kept),
      skipped=self.skipped
      + tuple((self.names[row], why) for row, why in broken.items()),
      read=lambda rows, *how: self.read([kept[row] for row in rows], *how),
      content=lambda row: self.content(kept[row]),
    )


def of_contents(
  key: str,
  names: Sequence[str],
  labels: Sequence[str],
  skipped: Sequence[tuple[str, str]],
  content: Callable[[int], bytes],
  sharded: bool = False,
) -> ImageSet:
  """A set of image files, wherever their bytes come from.

  Args:
    key: of the config, for errors.
    names: [N] of the images.
    labels: [N] names of classes.
    skipped: (file, why) of what is not read.
    content: row -> an image file's bytes; ValueError or OSError if there is
      none. Several threads ask at once.
    sharded: as of `ImageSet`.
  """

  def first_shape() -> tuple[int, int]:
    problem = 'no image'
    for row, name in enumerate(names):
      try:
        return decoding.shape_of(content(row))
      except (ValueError, OSError) as error:
        problem = f'{inputs.name_of(name)}: {inputs.one_line(error)}'
    raise inputs.InputError(f'{key}: {problem}')

  return ImageSet(
    key=key,
    names=tuple(inputs.name_of(name) for name in names),
    labels=tuple(labels),
    skipped=tuple((inputs.name_of(name), why) for name, why in skipped),
    read=lambda rows, size, channels: decode_pool.decode_all(
      content, rows, size, channels
    ),
    first_shape=first_shape,
    content=content,
    sharded=sharded,
  )
