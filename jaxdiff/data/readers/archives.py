"""Image sets in their official files: CIFAR-10, IDX (MNIST), npz, npy.

Nothing that a file says is trusted: sizes are checked before they are
allocated, archives are read member by member without unpacking, and of pickles
only arrays and builtins are admitted. What is wrong is said in one line that
names the file.
"""

import bz2
from collections.abc import Callable, Iterator
import difflib
import gzip
import io
import lzma
import os
import pathlib
import pickle
import pickletools
import tarfile
from typing import Any
import zipfile

from absl import logging
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets

# Debian's dataset-fashion-mnist.
FASHION_MNIST = '/usr/share/datasets/fashion-mnist'
# Labels from here on are names of classes rather than their numbers.
_SPARSE = 1000
_CIFAR_ROWS, _CIFAR_SHAPE = 10_000, (3, 32, 32)
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


def fashion_mnist(path: str) -> datasets.Dataset:
  """The 60,000 training images of Fashion-MNIST (or MNIST), [28, 28, 1].

  Args:
    path: folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, each
      with or without .gz; Debian's package dataset-fashion-mnist if empty.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  folder = inputs.local(path or FASHION_MNIST, 'data.path')
  arrays = []
  for name, dims in (
    ('train-images-idx3-ubyte', 3), ('train-labels-idx1-ubyte', 1),
  ):  # fmt: skip
    files = [folder / f'{name}.gz', folder / name]
    there = [file for file in files if file.exists()]
    if not there:
      raise inputs.InputError(
        f'data.path: no {files[0]}; on Debian: apt-get install '
        'dataset-fashion-mnist'
      )
    arrays.append(read_idx(there[0], dims))
  images, labels = arrays
  if len(images) != len(labels):
    raise inputs.InputError(
      f'{folder}: {len(images)} images but {len(labels)} labels'
    )
  source = [f'train[{i}]' for i in range(len(images))]
  return datasets.make(images[..., None], labels.astype(np.int32), source)


def read_idx(path: pathlib.Path, dims: int) -> np.ndarray:
  """An IDX file of bytes (LeCun), uint8 with `dims` axes.

  Raises:
    InputError: if it is torn, or not of that kind.
  """
  opener = gzip.open if path.suffix == '.gz' else open
  inputs.regular(path)
  with inputs.reading(path), opener(path, 'rb') as file:
    head = file.read(4 + 4 * dims)
    if len(head) < 4 + 4 * dims or head[:4] != bytes((0, 0, 8, dims)):
      raise inputs.InputError(f'{path}: no IDX file of {dims} axes of bytes')
    shape = tuple(
      int.from_bytes(head[4 * i : 4 * i + 4]) for i in range(1, dims + 1)
    )
    size = int(np.prod(shape, dtype=object))
    inputs.check_size(path, size)
    content = file.read(size)
    if len(content) < size or file.read(1):
      raise inputs.InputError(
        f'{path}: its header says {size} bytes, which it does not hold'
      )
  return np.frombuffer(content, np.uint8).reshape(shape)


def npz(path: str) -> datasets.Dataset:
  """An .npz file of arrays.

  Args:
    path: file with `images` uint8 [N, H, W, C] or [N, H, W], and optionally
      `labels` int [N], `group` int [N] and `source` str [N].

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  file = inputs.local(path, 'data.path')
  inputs.regular(file, 'data.path')
  arrays = {}
  with (
    inputs.reading(path, 'no whole npz of arrays'),
    zipfile.ZipFile(file) as archive,
  ):
    inputs.check_size(
      path, sum(member.file_size for member in archive.infolist())
    )
    if len(set(archive.namelist())) < len(archive.namelist()):
      raise ValueError('a member is there twice')
    skipped = _unread(path, archive.namelist())
    for name in ('images', 'labels', 'group', 'source'):
      if f'{name}.npy' in archive.namelist():
        content = archive.read(f'{name}.npy')  # checked by its CRC
        arrays[name] = np.lib.format.read_array(
          io.BytesIO(content), allow_pickle=False
        )
  return _of_arrays(path, file.name, arrays, skipped)


_ARRAYS = ('images', 'labels', 'group', 'source')


def _unread(path: str, members: list[str]) -> tuple[tuple[str, str], ...]:
  """Arrays of an npz that are not read; one that is misspelt is refused."""
  out = []
  for member in members:
    name = member.removesuffix('.npy')
    if name in _ARRAYS:
      continue
    near = difflib.get_close_matches(name.lower(), _ARRAYS, n=1, cutoff=0.7)
    if near:
      raise inputs.InputError(
        f'{path}: array {inputs.one_line(repr(name))} is not read; did you '
        f'mean {near[0]!r}?'
      )
    out.append((inputs.name_of(member), 'arrays that are not read'))
  return tuple(out)


def npy(path: str) -> datasets.Dataset:
  """A folder of .npy files, mapped into memory: for sets larger than it.

  Args:
    path: folder with `images.npy` uint8 [N, H, W, C], and optionally
      `labels.npy` and `group.npy`, int [N].

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  folder = inputs.local(path, 'data.path')
  arrays = {}
  for name in ('images', 'labels', 'group'):
    file = folder / f'{name}.npy'
    if name == 'images' or os.path.lexists(file):
      inputs.regular(file, 'data.path')
      with inputs.reading(file, 'no whole array'):
        arrays[name] = np.load(file, mmap_mode='r', allow_pickle=False)
  return _of_arrays(path, folder.name, arrays)


def _of_arrays(
  path: str,
  name: str,
  arrays: dict[str, np.ndarray],
  skipped: tuple[tuple[str, str], ...] = (),
) -> datasets.Dataset:
  """A set of the arrays that `npz` documents, checked."""
  images = arrays.get('images')
  if images is not None and images.ndim == 3:
    images = images[..., None]
  if images is None or images.dtype != np.uint8 or images.ndim != 4:
    raise inputs.InputError(f'{path}: wants `images` uint8 [N, H, W, C]')
  count, channels = len(images), images.shape[3]
  if channels not in (1, 3):
    raise inputs.InputError(
      f'{path}: images of {channels} channels; grey (1) and colour (3) are read'
    )
  if 0 in images.shape:
    raise inputs.InputError(f'{path}: `images` {images.shape} are none')
  for key in ('labels', 'group'):
    array = arrays.get(key, np.zeros(count, np.int32))
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
      raise inputs.InputError(f'{path}: wants `{key}` int [{count}]')
  labels = np.asarray(arrays.get('labels', np.zeros(count, np.int32)))
  if labels.min() < 0:
    raise inputs.InputError(f'{path}: label {labels.min()} is negative')
  # Classes are numbered as they are, unless that leaves most numbers unused.
  names = np.unique(labels)
  classes: dict[str, Any] = {'num_classes': int(names[-1]) + 1}
  if names[-1] >= max(_SPARSE, 4 * len(names)):
    classes = {
      'num_classes': len(names), 'names': tuple(str(x) for x in names),
    }  # fmt: skip
    labels = np.searchsorted(names, labels)
  group = arrays.get('group')
  if group is not None:
    group = np.unique(np.asarray(group), return_inverse=True)[1]
  source = arrays.get('source', [f'{name}[{i}]' for i in range(count)])
  if np.shape(source) != (count,) or np.asarray(source).dtype.kind not in 'US':
    raise inputs.InputError(f'{path}: wants `source` str [{count}]')
  source = [inputs.name_of(x) for x in np.asarray(source).astype(str)]
  return datasets.make(
    images,
    labels.astype(np.int32),
    source,
    group=group,
    skipped=skipped,
    **classes,
  )
