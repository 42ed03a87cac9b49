"""Official archives, whole and otherwise."""

import gzip
import io
import os
import pickle
import tarfile

import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.data import datasets, registry
from jaxdiff.data.readers import archives, cifar

ROWS = 3


def cifar_batches():
  """Five small batches: pixels [n, 3072] and labels [n] each."""
  rng = np.random.default_rng(0)
  return [
    (rng.integers(0, 256, (ROWS, 3072), np.uint8), rng.integers(0, 10, ROWS))
    for _ in range(5)
  ]


def binary(batch):
  pixels, labels = batch
  rows = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
  return rows.tobytes()


def pickled(batch, protocol=2):
  pixels, labels = batch
  content = {
    b'batch_label': b'training batch 1 of 5', b'labels': labels.tolist(),
    b'data': pixels, b'filenames': [b'a.png'] * ROWS,
  }  # fmt: skip
  return pickle.dumps(content, protocol=protocol)


def tar(path, members):
  with tarfile.open(path, 'w:gz') as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(f'cifar-10-batches/{name}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))


def members(kind):
  batches = cifar_batches()
  if kind == 'binary':
    return {f'data_batch_{i + 1}.bin': binary(b) for i, b in enumerate(batches)}
  return {f'data_batch_{i + 1}': pickled(b) for i, b in enumerate(batches)}


@pytest.mark.parametrize('kind', ['binary', 'python'])
@pytest.mark.parametrize('packed', [True, False])
def test_cifar10(kind, packed, tmp_path):
  path = tmp_path / 'archive.tar.gz' if packed else tmp_path
  files = members(kind) | {'test_batch.bin': b'x', 'readme.html': b'x'}
  if packed:
    tar(path, files)
  else:
    for name, content in files.items():
      (tmp_path / name).write_bytes(content)
  got = registry.load(registry.Source('cifar10', path=str(path)))
  pixels = np.concatenate([p for p, _ in cifar_batches()])
  want = pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
  np.testing.assert_array_equal(got.images, want)
  labels = np.concatenate([label for _, label in cifar_batches()])
  np.testing.assert_array_equal(got.labels, labels)
  assert got.num_classes == 10
  assert len(set(got.source)) == 5 * ROWS


def test_python_2_pickles_of_arrays_are_read():
  # As the official archive: protocol 2, bytes for str, numpy.core.
  batch = cifar_batches()[0]
  old = pickled(batch).replace(b'numpy._core', b'numpy.core')
  pixels, labels = cifar._cifar_python('a', old)
  np.testing.assert_array_equal(pixels, batch[0])
  np.testing.assert_array_equal(labels, batch[1])


class Evil:
  """Pickles as a call of os.system."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return os.system, (f'touch {self.path}',)


def test_a_pickle_that_would_run_code_does_not(tmp_path):
  files = members('python')
  files['data_batch_3'] = pickle.dumps(
    {b'data': Evil(tmp_path / 'ran'), b'labels': []}, protocol=2
  )
  tar(tmp_path / 'a.tar.gz', files)
  with pytest.raises(inputs.InputError, match='data_batch_3.*not admitted'):
    cifar.cifar10(str(tmp_path / 'a.tar.gz'))
  assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
  'content',
  [
    {b'data': np.array([None]), b'labels': [0]},  # objects
    {b'data': np.zeros((1, 3072), 'f4'), b'labels': [0]},
    {b'data': np.zeros((1, 3071), 'u1'), b'labels': [0]},
    {b'data': np.zeros((1, 3072), 'u1'), b'labels': [0, 1]},
    {b'data': np.zeros((1, 3072), 'u1'), b'labels': ['cat']},
    {b'data': np.zeros((1, 3072), 'u1'), b'labels': [10]},
    [1, 2],
    np.ndarray,
  ],
)
def test_other_pickles_are_refused(content):
  with pytest.raises(inputs.InputError, match='the file'):
    cifar._cifar_python('the file', pickle.dumps(content, protocol=2))


def test_a_pickle_cannot_ask_for_a_huge_array():
  # REDUCE of numpy.ndarray with a shape of 2^50.
  huge = b'cnumpy\nndarray\n((L1125899906842624L\ntR.'
  with pytest.raises(inputs.InputError, match='no batch'):
    cifar._cifar_python('a', huge)


@pytest.mark.parametrize('cut', [1, 1000])
def test_torn_binaries_and_archives_are_refused(cut, tmp_path):
  files = members('binary')
  files['data_batch_2.bin'] = files['data_batch_2.bin'][:-cut]
  tar(tmp_path / 'a.tar.gz', files)
  with pytest.raises(inputs.InputError, match='data_batch_2.bin.*whole rows'):
    cifar.cifar10(str(tmp_path / 'a.tar.gz'))
  whole = (tmp_path / 'a.tar.gz').read_bytes()
  (tmp_path / 'b.tar.gz').write_bytes(whole[: len(whole) // 2])
  with pytest.raises(inputs.InputError, match='b.tar.gz'):
    cifar.cifar10(str(tmp_path / 'b.tar.gz'))


def test_a_missing_batch_a_link_and_a_wrong_path_are_named(tmp_path):
  files = members('binary')
  del files['data_batch_4.bin']
  tar(tmp_path / 'a.tar.gz', files)
  with pytest.raises(inputs.InputError, match='no data_batch_4.bin'):
    cifar.cifar10(str(tmp_path / 'a.tar.gz'))
  with tarfile.open(tmp_path / 'b.tar.gz', 'w:gz') as archive:
    link = tarfile.TarInfo('data_batch_1.bin')
    link.type, link.linkname = tarfile.SYMTYPE, '/etc/passwd'
    archive.addfile(link)
  with pytest.raises(inputs.InputError, match='no batch of CIFAR-10'):
    cifar.cifar10(str(tmp_path / 'b.tar.gz'))
  for path in ('', str(tmp_path), str(tmp_path / 'nope.tar.gz')):
    with pytest.raises(inputs.InputError, match='data.path'):
      cifar.cifar10(path)


def idx(array):
  head = bytes((0, 0, 8, array.ndim))
  shape = b''.join(size.to_bytes(4) for size in array.shape)
  return head + shape + array.tobytes()


def mnist(folder, images, labels, packed=True):
  folder.mkdir(exist_ok=True)
  for name, content in (
    ('train-images-idx3-ubyte', images), ('train-labels-idx1-ubyte', labels)
  ):  # fmt: skip
    if packed:
      (folder / f'{name}.gz').write_bytes(gzip.compress(content))
    else:
      (folder / name).write_bytes(content)


@pytest.mark.parametrize('packed', [True, False])
def test_fashion_mnist(packed, tmp_path):
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (7, 28, 28), np.uint8)
  labels = rng.integers(0, 10, 7).astype(np.uint8)
  mnist(tmp_path / 'f', idx(images), idx(labels), packed)
  got = registry.load(registry.Source('fashion_mnist', str(tmp_path / 'f')))
  np.testing.assert_array_equal(got.images, images[..., None])
  np.testing.assert_array_equal(got.labels, labels)


def test_bad_idx_files_are_named(tmp_path):
  images, labels = np.zeros((4, 28, 28), np.uint8), np.zeros(4, np.uint8)
  huge = bytes((0, 0, 8, 3)) + b'\xff' * 12
  for content, message in (
    (idx(images)[:-1], 'does not hold'),
    (idx(images) + b'x', 'does not hold'),
    (idx(labels), 'no IDX file of 3 axes'),
    (huge, 'GB in memory'),
    (b'', 'no IDX file'),
    (idx(images[:3]), '3 images but 4 labels'),
  ):
    mnist(tmp_path, content, idx(labels))
    with pytest.raises(inputs.InputError, match=message):
      archives.fashion_mnist(str(tmp_path))
  mnist(tmp_path, idx(images), idx(labels))
  path = tmp_path / 'train-images-idx3-ubyte.gz'
  path.write_bytes(path.read_bytes()[:-20])
  with pytest.raises(inputs.InputError, match='images-idx3-ubyte.gz'):
    archives.fashion_mnist(str(tmp_path))
  with pytest.raises(inputs.InputError, match='dataset-fashion-mnist'):
    archives.fashion_mnist(str(tmp_path / 'nope'))


def test_npz(tmp_path):
  images = np.random.default_rng(0).integers(0, 256, (5, 4, 4), np.uint8)
  path = tmp_path / 'a.npz'
  np.savez(path, images=images, labels=np.arange(5), group=[0, 0, 1, 1, 2])
  got = registry.load(registry.Source('npz', str(path)))
  np.testing.assert_array_equal(got.images, images[..., None])
  np.testing.assert_array_equal(got.labels, np.arange(5))
  np.testing.assert_array_equal(got.group, [0, 0, 1, 1, 2])
  assert got.num_classes == 5


@pytest.mark.parametrize(
  'arrays',
  [
    {'images': np.array([{}], dtype=object)},
    {'images': np.zeros((2, 4, 4, 3), np.float32)},
    {'images': np.zeros((2, 4), np.uint8)},
    {'other': np.zeros((2, 4, 4), np.uint8)},
    {'images': np.zeros((2, 4, 4), np.uint8), 'labels': np.zeros(3, int)},
    {'images': np.zeros((2, 4, 4), np.uint8), 'labels': np.zeros(2)},
    {'images': np.zeros((2, 4, 4), np.uint8), 'labels': np.array([0, -1])},
    {'images': np.zeros((2, 4, 4), np.uint8), 'source': np.array(['a'])},
  ],
)
def test_other_npz_files_are_refused(arrays, tmp_path):
  np.savez(tmp_path / 'bad.npz', **arrays)
  with pytest.raises(inputs.InputError, match='bad.npz'):
    archives.npz(str(tmp_path / 'bad.npz'))


def test_torn_npz_files_and_bombs_are_refused(tmp_path, monkeypatch):
  path = tmp_path / 'a.npz'
  np.savez(path, images=np.zeros((20, 8, 8), np.uint8))
  whole = path.read_bytes()
  path.write_bytes(whole[:-30])
  with pytest.raises(inputs.InputError, match='a.npz'):
    archives.npz(str(path))
  path.write_bytes(whole[:400] + b'\1' * 40 + whole[440:])
  with pytest.raises(inputs.InputError, match='a.npz'):
    archives.npz(str(path))
  monkeypatch.setattr(archives.inputs, 'free_memory', lambda: 2000)
  path.write_bytes(whole)
  with pytest.raises(inputs.InputError, match='GB in memory'):
    archives.npz(str(path))
  with pytest.raises(inputs.InputError, match='data.path: no file'):
    archives.npz('')


def test_npy_folders_are_mapped_not_read(tmp_path, monkeypatch):
  images = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), np.uint8)
  np.save(tmp_path / 'images.npy', images)
  np.save(tmp_path / 'labels.npy', np.arange(9))
  got = registry.load(registry.Source('npy', str(tmp_path)))
  np.testing.assert_array_equal(got.images, images)
  np.testing.assert_array_equal(got.labels, np.arange(9))
  base = got.images
  while isinstance(base.base, np.ndarray):
    base = base.base
  assert isinstance(base, np.memmap)
  # The same set, hashed in one piece or in many.
  whole = got.fingerprint()
  monkeypatch.setattr(datasets, '_PIECE', 100)
  assert got.fingerprint() == whole


def test_other_npy_folders_are_refused(tmp_path):
  with pytest.raises(inputs.InputError, match=r'no file .*images\.npy'):
    archives.npy(str(tmp_path))
  file = tmp_path / 'images.npy'
  np.save(file, np.zeros((3, 4, 4, 1), np.uint8))
  file.write_bytes(file.read_bytes()[:-10])
  with pytest.raises(inputs.InputError, match=r'images\.npy: no whole array'):
    archives.npy(str(tmp_path))
  np.save(file, np.array([{}], dtype=object), allow_pickle=True)
  with pytest.raises(inputs.InputError, match=r'images\.npy: no whole array'):
    archives.npy(str(tmp_path))
  np.save(file, np.zeros((3, 4, 4, 1), np.uint8))
  np.save(tmp_path / 'labels.npy', np.zeros(4, int))
  with pytest.raises(inputs.InputError, match='wants `labels`'):
    archives.npy(str(tmp_path))
