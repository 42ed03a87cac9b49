"""Image sets in their official files: CIFAR-10, IDX (MNIST), npz, npy.

Nothing that a file says is trusted: sizes are checked before they are
allocated, archives are read member by member without unpacking, and of pickles
only arrays and builtins are admitted. What is wrong is said in one line that
names the file.
"""

from collections.abc import Iterator
import gzip
import io
import pathlib
import pickle
import tarfile
import zipfile
import zlib

import numpy as np

from jaxdiff import runs
from jaxdiff.data import datasets

# Debian's dataset-fashion-mnist.
FASHION_MNIST = '/usr/share/datasets/fashion-mnist'
# Pixels that are held in memory at most, bytes.
_MOST_BYTES = 2**35
_CIFAR_ROWS, _CIFAR_SHAPE = 10_000, (3, 32, 32)
_CIFAR_ROW = 3 * 32 * 32
_CIFAR_BIN = [f'data_batch_{i}.bin' for i in range(1, 6)]
_CIFAR_PY = [f'data_batch_{i}' for i in range(1, 6)]
# Of a python batch: 30.7 MB of pixels and some file names.
_CIFAR_MOST = 40_000_000


def cifar10(path: str) -> datasets.Dataset:
  """The 50,000 training images of CIFAR-10 (Krizhevsky 2009).

  Args:
    path: cifar-10-binary.tar.gz or cifar-10-python.tar.gz, or the folder that
      either unpacks to.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  if not path:
    raise runs.InputError(
      'data.path: name cifar-10-binary.tar.gz, cifar-10-python.tar.gz or the '
      'folder that either unpacks to (www.cs.toronto.edu/~kriz/cifar.html)'
    )
  images, labels, source = [], [], []
  for batch, content in _cifar_batches(pathlib.Path(path)):
    name = f'{path}: {batch}'
    if batch.endswith('.bin'):
      pixels, numbers = _cifar_binary(name, content)
    else:
      pixels, numbers = _cifar_python(name, content)
    images.append(pixels.reshape(-1, *_CIFAR_SHAPE).transpose(0, 2, 3, 1))
    labels.append(numbers)
    batch = batch.removesuffix('.bin')
    source += [f'{batch}[{i}]' for i in range(len(pixels))]
  return datasets.make(
    np.concatenate(images), np.concatenate(labels), source, num_classes=10
  )


def _cifar_batches(path: pathlib.Path) -> Iterator[tuple[str, bytes]]:
  """(name, content) of the five training batches."""
  if path.is_dir():
    inner = [path, path / 'cifar-10-batches-bin', path / 'cifar-10-batches-py']
    for folder in inner:
      for names in (_CIFAR_BIN, _CIFAR_PY):
        if all((folder / name).is_file() for name in names):
          for name in names:
            if (folder / name).stat().st_size > _CIFAR_MOST:
              raise runs.InputError(f'{folder / name}: too large')
            yield name, (folder / name).read_bytes()
          return
    raise runs.InputError(
      f'data.path: {path} holds neither {_CIFAR_BIN[0]} nor {_CIFAR_PY[0]} and '
      'the four after it'
    )
  if not path.is_file():
    raise runs.InputError(f'data.path: no file {path}')
  found = {}
  try:
    with tarfile.open(path, 'r:*') as archive:
      for member in archive:
        name = pathlib.PurePosixPath(member.name).name
        if name not in (*_CIFAR_BIN, *_CIFAR_PY):
          continue
        if not member.isfile() or member.size > _CIFAR_MOST:
          raise runs.InputError(
            f'{path}: {member.name} is no batch of CIFAR-10'
          )
        found[name] = archive.extractfile(member).read()
  except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
    raise runs.InputError(f'{path}: no whole tar archive: {error}') from error
  for names in (_CIFAR_BIN, _CIFAR_PY):
    if set(names) <= set(found):
      yield from ((name, found[name]) for name in names)
      return
  missing = [name for name in _CIFAR_BIN if name not in found]
  raise runs.InputError(f'{path}: no {missing[0]} in the archive')


def _cifar_binary(name: str, content: bytes) -> tuple[np.ndarray, np.ndarray]:
  """Rows of a label and 3,072 pixels."""
  if len(content) % (_CIFAR_ROW + 1) or not content:
    raise runs.InputError(
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
  try:
    batch = _ArrayUnpickler(io.BytesIO(content), encoding='bytes').load()
  except Exception as error:  # a pickle may fail in any way
    raise runs.InputError(f'{name}: no batch of CIFAR-10: {error}') from error
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
    raise runs.InputError(
      f'{name}: wants data uint8 [n, {_CIFAR_ROW}] and as many labels'
    )
  return data, _cifar_labels(name, np.array(labels))


def _cifar_labels(name: str, labels: np.ndarray) -> np.ndarray:
  if labels.size and (labels.min() < 0 or labels.max() > 9):
    raise runs.InputError(f'{name}: label {labels.max()} is not within 0 .. 9')
  return labels.astype(np.int32)


def fashion_mnist(path: str) -> datasets.Dataset:
  """The 60,000 training images of Fashion-MNIST (or MNIST), [28, 28, 1].

  Args:
    path: folder with train-images-idx3-ubyte and train-labels-idx1-ubyte, each
      with or without .gz; Debian's package dataset-fashion-mnist if empty.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  folder = pathlib.Path(path or FASHION_MNIST)
  arrays = []
  for name, dims in (
    ('train-images-idx3-ubyte', 3), ('train-labels-idx1-ubyte', 1),
  ):  # fmt: skip
    files = [folder / f'{name}.gz', folder / name]
    there = [file for file in files if file.is_file()]
    if not there:
      raise runs.InputError(
        f'data.path: no {files[0]}; on Debian: apt-get install '
        'dataset-fashion-mnist'
      )
    arrays.append(read_idx(there[0], dims))
  images, labels = arrays
  if len(images) != len(labels):
    raise runs.InputError(
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
  try:
    with opener(path, 'rb') as file:
      head = file.read(4 + 4 * dims)
      if len(head) < 4 + 4 * dims or head[:4] != bytes((0, 0, 8, dims)):
        raise runs.InputError(f'{path}: no IDX file of {dims} axes of bytes')
      shape = tuple(
        int.from_bytes(head[4 * i : 4 * i + 4]) for i in range(1, dims + 1)
      )
      size = int(np.prod(shape, dtype=object))
      if size > _MOST_BYTES:
        raise runs.InputError(f'{path}: says it holds {size} bytes: too many')
      content = file.read(size)
      if len(content) < size or file.read(1):
        raise runs.InputError(
          f'{path}: its header says {size} bytes, which it does not hold'
        )
  except (EOFError, OSError, zlib.error) as error:
    raise runs.InputError(f'{path}: cannot be read: {error}') from error
  return np.frombuffer(content, np.uint8).reshape(shape)


def npz(path: str) -> datasets.Dataset:
  """An .npz file of arrays.

  Args:
    path: file with `images` uint8 [N, H, W, C] or [N, H, W], and optionally
      `labels` int [N], `group` int [N] and `source` str [N].

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  file = pathlib.Path(path)
  if not file.is_file():
    raise runs.InputError(f'data.path: no file {path!r} (an .npz of images)')
  try:
    with zipfile.ZipFile(file) as archive:
      total = sum(member.file_size for member in archive.infolist())
    if total > _MOST_BYTES:
      raise runs.InputError(f'{path}: unpacks to {total} bytes: too many')
    with np.load(file, allow_pickle=False) as content:
      arrays = {name: content[name] for name in content.files}
  except (
    zipfile.BadZipFile,
    ValueError,
    OSError,
    EOFError,
    zlib.error,
  ) as error:
    raise runs.InputError(f'{path}: no whole npz of arrays: {error}') from error
  return _of_arrays(path, file.name, arrays)


def npy(path: str) -> datasets.Dataset:
  """A folder of .npy files, mapped into memory: for sets larger than it.

  Args:
    path: folder with `images.npy` uint8 [N, H, W, C], and optionally
      `labels.npy` and `group.npy`, int [N].

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  arrays = {}
  for name in ('images', 'labels', 'group'):
    file = pathlib.Path(path) / f'{name}.npy'
    if name == 'images' and not file.is_file():
      raise runs.InputError(f'data.path: no file {str(file)!r}')
    if file.is_file():
      try:
        arrays[name] = np.load(file, mmap_mode='r', allow_pickle=False)
      except (ValueError, OSError, EOFError) as error:
        raise runs.InputError(f'{file}: no whole array: {error}') from error
  return _of_arrays(path, pathlib.Path(path).name, arrays)


def _of_arrays(
  path: str, name: str, arrays: dict[str, np.ndarray]
) -> datasets.Dataset:
  """A set of the arrays that `npz` documents, checked."""
  images = arrays.get('images')
  if images is not None and images.ndim == 3:
    images = images[..., None]
  if images is None or images.dtype != np.uint8 or images.ndim != 4:
    raise runs.InputError(f'{path}: wants `images` uint8 [N, H, W, C]')
  count = len(images)
  for key in ('labels', 'group'):
    array = arrays.get(key, np.zeros(count, np.int32))
    if array.shape != (count,) or not np.issubdtype(array.dtype, np.integer):
      raise runs.InputError(f'{path}: wants `{key}` int [{count}]')
  labels = arrays.get('labels', np.zeros(count, np.int32))
  if count and labels.min() < 0:
    raise runs.InputError(f'{path}: label {labels.min()} is negative')
  source = arrays.get('source', [f'{name}[{i}]' for i in range(count)])
  if len(source) != count:
    raise runs.InputError(f'{path}: wants `source` str [{count}]')
  return datasets.make(
    images, labels.astype(np.int32), source, group=arrays.get('group')
  )
