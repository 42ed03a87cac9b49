"""Image sets in one file: IDX (MNIST), npz, npy.

Nothing that a file says is trusted: sizes are checked before they are
allocated, and nothing is unpickled. What is wrong is said in one line that
names the file.
"""

import difflib
import gzip
import os
import pathlib
from typing import Any

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.readers import npz as npz_lib

# Debian's dataset-fashion-mnist.
FASHION_MNIST = '/usr/share/datasets/fashion-mnist'

# Labels from here on are names of classes rather than their numbers.
_SPARSE = 1000


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


def npz(path: str, key: str = 'data.path') -> datasets.Dataset:
  """An .npz file of arrays.

  Args:
    path: file with `images` uint8 [N, H, W, C] or [N, H, W], and optionally
      `labels` int [N], `group` int [N] and `source` str [N]. Images and labels
      may also be called arr_0 and arr_1, or x and y.
    key: of the config, named in errors.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  file = inputs.local(path, key)
  inputs.regular(file, key)
  called: dict[str, str] = {}
  skipped: list[tuple[str, str]] = []

  def choose(members: list[str]) -> list[str]:
    called.update(_called(path, members))
    skipped.extend(_unread(path, members, set(called.values())))
    wanted = [f'{there}.npy' for there in called.values()]
    return [member for member in wanted if member in members]

  found = npz_lib.arrays(file, path, choose)
  arrays = {
    name: found[there] for name, there in called.items() if there in found
  }
  return _of_arrays(path, file.name, arrays, tuple(skipped))


_ARRAYS = ('images', 'labels', 'group', 'source')


# What other programs call them: guided-diffusion, Keras.
_ALSO = ({'images': 'arr_0', 'labels': 'arr_1'}, {'images': 'x', 'labels': 'y'})


def _called(path: str, members: list[str]) -> dict[str, str]:
  """Array -> what an npz calls it."""
  there = {member.removesuffix('.npy') for member in members}
  out = {name: name for name in _ARRAYS}
  also = [names for names in _ALSO if names['images'] in there]
  if 'images' in there or not also:
    return out
  if len(also) > 1:
    raise inputs.InputError(
      f'{path}: holds arr_0 and x; call the images `images`'
    )
  return out | also[0]


def _unread(
  path: str, members: list[str], known: set[str]
) -> tuple[tuple[str, str], ...]:
  """Arrays of an npz that are not read; one that is misspelt is refused."""
  out = []
  for member in members:
    name = member.removesuffix('.npy')
    if name in known:
      continue
    near = difflib.get_close_matches(name.lower(), _ARRAYS, n=1, cutoff=0.7)
    if near:
      raise inputs.InputError(
        f'{path}: array {inputs.one_line(repr(name))} is not read; did you '
        f'mean {near[0]!r}?'
      )
    out.append((inputs.name_of(member), 'arrays that are not read'))
  return tuple(out)


def npy(path: str, key: str = 'data.path') -> datasets.Dataset:
  """A folder of .npy files, mapped into memory: for sets larger than it.

  Args:
    path: folder with `images.npy` uint8 [N, H, W, C], and optionally
      `labels.npy` and `group.npy`, int [N].
    key: of the config, named in errors.

  Raises:
    InputError: naming the file and what is wrong with it.
  """
  folder = inputs.local(path, key)
  arrays = {}
  for name in ('images', 'labels', 'group'):
    file = folder / f'{name}.npy'
    if name == 'images' or os.path.lexists(file):
      inputs.regular(file, key)
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
