"""The file of the guard's index: whole, or refused.

Magic, version, length and SHA-256 of a header; the header, JSON, which says of
every array its type, shape and place, and has the SHA-256 of all; the arrays.
"""

from collections.abc import Iterator
import contextlib
import hashlib
import json
import math
import os
import pathlib
import secrets
from typing import Any, BinaryIO

import numpy as np

from jaxdiff import inputs

_MAGIC = b'JAXDIFFG'
VERSION = 2

# Bytes of the header.
_MOST_HEADER = 2**31


@contextlib.contextmanager
def new_file(place: pathlib.Path) -> Iterator[BinaryIO]:
  """A file that is there whole, or not at all."""
  temporary = place.parent / f'.{place.name}.{secrets.token_hex(8)}.tmp'
  try:
    with inputs.reading(place, 'index: cannot be written'):
      # Training images are nobody else's to read.
      descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600
      )
      with open(descriptor, 'wb') as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
      if os.path.lexists(place):
        raise FileExistsError(f'{place} was made meanwhile')
      os.rename(temporary, place)
  finally:
    temporary.unlink(missing_ok=True)


def write(
  file: BinaryIO, header: dict[str, Any], arrays: dict[str, np.ndarray]
) -> None:
  """Magic, version, length and SHA-256 of the header; header; arrays."""
  offset, described = 0, {}
  digest = hashlib.sha256()
  for name, array in arrays.items():
    described[name] = (array.dtype.str, array.shape, offset)
    digest.update(np.ascontiguousarray(array).data)
    offset += -(-array.nbytes // 64) * 64
  text = json.dumps(
    header | {'arrays': described, 'sha256': digest.hexdigest()}
  ).encode()
  text += b' ' * (-(len(text) + 56) % 64)
  file.write(_MAGIC + VERSION.to_bytes(8) + len(text).to_bytes(8))
  file.write(hashlib.sha256(text).digest())
  file.write(text)
  for array in arrays.values():
    file.write(np.ascontiguousarray(array).data)
    file.write(b'\0' * (-array.nbytes % 64))


def read(place: pathlib.Path) -> tuple[dict[str, Any], int]:
  """The header of a file, and where its arrays start; every byte is checked.

  Raises:
    InputError: if it is no index, damaged, or of another version.
  """
  size = inputs.regular(place, 'index')
  with (
    inputs.reading(place, 'index: is damaged; build it again'),
    open(place, 'rb') as file,
  ):
    start = file.read(56)
    if len(start) < 56 or start[:8] != _MAGIC:
      raise inputs.InputError(
        f'index: {inputs.name_of(place)} is none: jaxdiff guard --build '
        'makes one'
      )
    version = int.from_bytes(start[8:16])
    if version != VERSION:
      raise inputs.InputError(
        f'index: {inputs.name_of(place)} is of version {version}, this '
        f'program reads {VERSION}: build it again'
      )
    length = int.from_bytes(start[16:24])
    if length > min(size, _MOST_HEADER):
      raise ValueError('its header is longer than the file')
    text = file.read(length)
    if hashlib.sha256(text).digest() != start[24:56]:
      raise ValueError('the checksum of its header differs')
    header = json.loads(text)
    digest = hashlib.sha256()
    for kind, shape, offset in header['arrays'].values():
      file.seek(56 + length + offset)
      left = math.prod(shape) * np.dtype(kind).itemsize
      while left:
        piece = file.read(min(left, 2**24))
        if not piece:
          raise ValueError('it is cut short')
        digest.update(piece)
        left -= len(piece)
    if digest.hexdigest() != header['sha256']:
      raise ValueError('the checksum of its arrays differs')
    return header, 56 + length
