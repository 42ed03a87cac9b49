"""CIFAR-10 from its archive or its batches.

Nothing that a file says is trusted: sizes are checked before they are
allocated, archives are read member by member without unpacking, and of pickles
only arrays and builtins are admitted. What is wrong is said in one line that
names the file.
"""

import bz2
from collections.abc import Callable, Iterator
import gzip
import io
import lzma
import pathlib
import pickle
import pickletools
import tarfile
from typing import Any

from absl import logging
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets

_CIFAR_ROW = 3 * 32 * 32

_CIFAR_NAMES = (
  'airplane', 'automobile', 'bird', 'cat', 'deer', 'dog', 'frog', 'horse',
  'ship', 'truck',
)  # fmt: skip

_CIFAR_BIN = [f'data_batch_{i}.bin' for i in range(1, 6)]

_CIFAR_PY = [f'data_batch_{i}' for i in range(1, 6)]

# Of a python batch: 30.7 MB of pixels and some file names; of an archive.
_CIFAR_MOST, _CIFAR_ARCHIVE = 40_000_000, 2**28

# Members of a pickle's memo; the official ones have some thousands.
_MOST_MEMO = 10**6

# Images, and the shape of each.
_CIFAR_ROWS, _CIFAR_SHAPE = 10_000, (3, 32, 32)


def cifar10(path: str) -> datasets.Dataset:
  """The 50,000 training images of CIFAR-10 (Krizhevsky 2009).

  Args:
    path: cifar-10-binary.tar.gz or cifar-10-python.tar.gz, or the folder that
      either unpacks to.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  if not path:
    raise inputs.InputError(
      'data.path: name cifar-10-binary.tar.gz, cifar-10-python.tar.gz or the '
      'folder that either unpacks to (www.cs.toronto.edu/~kriz/cifar.html)'
    )
  images, labels, source = [], [], []
  for batch, content in _cifar_batches(inputs.local(path, 'data.path')):
    name = f'{path}: {batch}'
    if batch.endswith('.bin'):
      pixels, numbers = _cifar_binary(name, content)
    else:
      pixels, numbers = _cifar_python(name, content)
    images.append(pixels.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
    labels.append(numbers)
    batch = batch.removesuffix('.bin')
    source += [f'{batch}[{i}]' for i in range(len(pixels))]
  rows = [len(part) for part in images]
  if len(set(rows)) > 1:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: its batches have {min(rows)} to {max(rows)} '
      'rows: one is cut short'
    )
  if rows[0] != _CIFAR_ROWS:
    logging.warning(
      '%s is not the official CIFAR-10: %d rows a batch, not %d',
      inputs.name_of(path), rows[0], _CIFAR_ROWS,
    )  # fmt: skip
  return datasets.make(
    np.concatenate(images),
    np.concatenate(labels),
    source,
    num_classes=10,
    names=_CIFAR_NAMES,
  )


class _Limited:
  """Reads a stream up to so many bytes, and no further."""

  def __init__(self, stream, most: int):
    self._stream, self._left = stream, most

  def read(self, size: int = -1) -> bytes:
    """As a file; raises ValueError beyond the limit."""
    if size < 0 or size > self._left:
      size = self._left + 1
    content = self._stream.read(size)
    self._left -= len(content)
    if self._left < 0:
      raise ValueError('unpacks to more than CIFAR-10 ever has')
    return content


# Of what an archive may be packed with, by its first bytes.
_OPENERS: dict[bytes, Callable[..., Any]] = {
  b'\x1f\x8b': gzip.open,
  b'BZ': bz2.open,
  b'\xfd7': lzma.open,
}


def _cifar_batches(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """(name, content) of the five training batches."""
  if path.is_dir():
    inner = [path, path / 'cifar-10-batches-bin', path / 'cifar-10-batches-py']
    for folder in inner:
      for names in (_CIFAR_BIN, _CIFAR_PY):
        if all((folder / name).exists() for name in names):
          for name in names:
            yield name, inputs.read_bytes(folder / name, _CIFAR_MOST)
          return
    raise inputs.InputError(
      f'data.path: {inputs.name_of(path)} holds neither {_CIFAR_BIN[0]} nor '
      f'{_CIFAR_PY[0]} and the four after it'
    )
  inputs.regular(path, 'data.path')
  found = {}
  with inputs.reading(path, 'no whole tar archive'):
    with path.open('rb') as file:
      opener = _OPENERS.get(file.read(2), open)
    with opener(path, 'rb') as packed:
      # As a stream: nothing is read twice, and no header can lead backwards.
      stream: Any = _Limited(packed, _CIFAR_ARCHIVE)
      with tarfile.open(fileobj=stream, mode='r|') as archive:
        for member in archive:
          name = pathlib.PurePosixPath(member.name).name
          if member.size < 0:
            raise ValueError(f'a member of {member.size} bytes')
          if name not in (*_CIFAR_BIN, *_CIFAR_PY):
            continue
          if not member.isreg() or member.size > _CIFAR_MOST or name in found:
            raise ValueError(
              f'{inputs.one_line(member.name)} is no batch of CIFAR-10'
            )
          file_in = archive.extractfile(member)
          assert file_in is not None  # a regular file has content
          content = file_in.read()
          if len(content) != member.size:
            raise EOFError(f'{name} is cut short')
          found[name] = content
      # To the very end, where the checksum is.
      while stream.read(2**20):
        pass
  for names in (_CIFAR_BIN, _CIFAR_PY):
    if set(names) <= set(found):
      yield from ((name, found[name]) for name in names)
      return
  missing = [name for name in _CIFAR_BIN if name not in found]
  raise inputs.InputError(
    f'{inputs.name_of(path)}: no {missing[0]} in the archive'
  )


def _cifar_binary(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Rows of a label and 3,072 pixels."""
  if len(content) % (_CIFAR_ROW + 1) or not content:
    raise inputs.InputError(
      f'{name}: {len(content)} bytes are no whole rows of {_CIFAR_ROW + 1}'
    )
  rows = np.frombuffer(content, np.uint8).reshape(-1, _CIFAR_ROW + 1)
  return rows[:, 1:], _cifar_labels(name, rows[:, 0])


# Stands for the class, which a pickle could call with any shape.
_NDARRAY = 'numpy.ndarray'


class _ArrayUnpickler(pickle.Unpickler):
  """Builds containers, strings, numbers and NumPy arrays; nothing else."""

  def find_class(self, module: str, name: str):
    module = module.replace('numpy._core', 'numpy.core')
    if (module, name) == ('numpy.core.multiarray', '_reconstruct'):
      return _reconstruct
    if (module, name) == ('numpy', 'ndarray'):
      return _NDARRAY
    if (module, name) == ('numpy', 'dtype'):
      return _dtype
    if (module, name) == ('_codecs', 'encode'):
      return _encode
    raise pickle.UnpicklingError(f'{module}.{name} is not admitted')


def _reconstruct(kind, shape, code) -> np.ndarray:
  # The state that follows says shape and type; this is an empty vessel.
  del shape, code
  if kind is not _NDARRAY:
    raise pickle.UnpicklingError('arrays alone are admitted')
  return np.ndarray.__new__(np.ndarray, (0,), 'b')


def _dtype(code, *_) -> np.dtype:
  code = code.decode() if isinstance(code, bytes) else code
  if code not in ('u1', 'i1', 'i2', 'i4', 'i8', '|u1'):
    raise pickle.UnpicklingError(f'arrays of {code!r} are not admitted')
  return np.dtype(code)


def _encode(text: str, encoding: str = 'latin1') -> bytes:
  # How Python 3 writes bytes in the protocols of Python 2.
  if encoding != 'latin1':
    raise pickle.UnpicklingError(f'encoding {encoding!r} is not admitted')
  return text.encode('latin1')


def _cifar_python(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """A pickled dict with b'data' [n, 3072] and b'labels' [n]."""
  with inputs.reading(name, 'no batch of CIFAR-10'):
    for operation, argument, _ in pickletools.genops(content):
      # A memo is a list as long as its largest number says.
      if operation.name in ('PUT', 'LONG_BINPUT') and (
        argument is not None and argument > _MOST_MEMO
      ):
        raise ValueError(f'a memo of {argument} places')
    batch = _ArrayUnpickler(io.BytesIO(content), encoding='bytes').load()
  batch = {
    key.decode() if isinstance(key, bytes) else key: value
    for key, value in (batch.items() if isinstance(batch, dict) else ())
  }
  data, labels = batch.get('data'), batch.get('labels')
  if (
    not isinstance(data, np.ndarray)
    or data.dtype != np.uint8
    or data.shape[1:] != (_CIFAR_ROW,)
    or not isinstance(labels, list)
    or len(labels) != len(data)
    or not all(type(label) is int for label in labels)
  ):
    raise inputs.InputError(
      f'{name}: wants data uint8 [n, {_CIFAR_ROW}] and as many labels'
    )
  return data, _cifar_labels(name, np.array(labels))


def _cifar_labels(name: str, labels: np.ndarray) -> np.ndarray:
  if labels.size and (labels.min() < 0 or labels.max() > 9):
    raise inputs.InputError(
      f'{name}: label {labels.max()} is not within 0 .. 9'
    )
  return labels.astype(np.int32)
