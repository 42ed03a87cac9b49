"""Decoding many image files on all cores, in order, a few at a time."""

import collections
from collections.abc import Callable, Iterator, Sequence
import concurrent.futures
import itertools
import os

import numpy as np

from jaxdiff import inputs
from jaxdiff.data.readers import decoding

# Images and bytes of images that a thread is given at a time, and how often it
# has them waiting.
_CHUNK, _CHUNK_BYTES, _AHEAD = 16, 2**22, 2
_MOST_THREADS = 32


def decode_all(
  content: Callable[[int], bytes],
  rows: Sequence[int],
  size: int,
  channels: int,
) -> Iterator[np.ndarray | ValueError]:
  """Image files as uint8 [size, size, channels], one after the other.

  However many there are, and however slowly they are taken, threads are a few
  chunks ahead and no more.

  Args:
    content: row -> an image file's bytes; ValueError or OSError if there is
      none. Several threads ask at once.
    rows: which images.
    size: of either side.
    channels: 1 or 3.

  Yields:
    An image, or the error that stands for a broken one.

  Raises:
    InputError: as `content` does.
  """

  def decode(chunk: list[int]) -> list[np.ndarray | ValueError]:
    return [_decode_one(content, row, size, channels) for row in chunk]

  threads = min(os.cpu_count() or 1, _MOST_THREADS)
  number = min(_CHUNK, _CHUNK_BYTES // (size * size * channels))
  # Few images are shared by all threads.
  number = max(1, min(number, len(rows) // threads))
  left = iter(rows)
  chunks = iter(lambda: list(itertools.islice(left, number)), [])
  waiting: collections.deque = collections.deque()
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    try:
      while True:
        lacking = threads * (1 + _AHEAD) - len(waiting)
        for chunk in itertools.islice(chunks, lacking):
          waiting.append(pool.submit(decode, chunk))
        if not waiting:
          return
        yield from waiting.popleft().result()
    finally:
      for future in waiting:
        future.cancel()


def _decode_one(
  content: Callable[[int], bytes], row: int, size: int, channels: int
) -> np.ndarray | ValueError:
  try:
    return decoding.decode(content(row), size, channels)
  except inputs.InputError:
    raise
  except (ValueError, OSError) as error:
    return ValueError(inputs.one_line(error))
