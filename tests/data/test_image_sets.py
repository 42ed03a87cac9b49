"""Sets of images that users bring: every form gives the same images."""

import io
import json
import tarfile
import zipfile

import numpy as np
from PIL import Image
import pyarrow as pa
from pyarrow import parquet
import pytest

from jaxdiff import inputs
from jaxdiff.data import image_sets
from jaxdiff.data.image_sets import packed
from jaxdiff.data.readers import decoding

COUNT = 12


@pytest.fixture(scope='module')
def images():
  return np.random.default_rng(0).integers(0, 256, (COUNT, 9, 9, 3), np.uint8)


def png(image):
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, 'PNG')
  return buffer.getvalue()


def images_of(found, rows, size, channels):
  return np.stack(list(found.decoded(rows, size, channels)))


def label(number):
  return ('cat', 'dog')[number % 2]


def folder(root, images):
  for number, image in enumerate(images):
    home = root / 'set' / label(number)
    home.mkdir(parents=True, exist_ok=True)
    (home / f'{number:03d}.png').write_bytes(png(image))
  return root / 'set', [*range(0, COUNT, 2), *range(1, COUNT, 2)]


def npz(root, images):
  np.savez(root / 'set.npz', x=images, y=np.arange(COUNT) % 2)
  return root / 'set.npz', range(COUNT)


def stylegan(root, images):
  with zipfile.ZipFile(root / 'set.zip', 'w') as archive:
    names = [f'000/img{number:08d}.png' for number in range(COUNT)]
    for name, image in zip(names, images, strict=True):
      archive.writestr(name, png(image))
    labels = [[name, label(k)] for k, name in enumerate(names)]
    archive.writestr('dataset.json', json.dumps({'labels': labels}))
  return root / 'set.zip', range(COUNT)


def web_dataset(root, images):
  """Two shards, with captions and classes beside the images."""
  (root / 'set').mkdir()
  for shard in range(2):
    with tarfile.open(root / 'set' / f'{shard:05d}.tar', 'w') as archive:
      for number in range(6 * shard, 6 * shard + 6):
        for suffix, content in (
          ('png', png(images[number])), ('txt', b'a caption'),
          ('cls', label(number).encode()),
        ):  # fmt: skip
          info = tarfile.TarInfo(f'{number:09d}.{suffix}')
          info.size = len(content)
          archive.addfile(info, io.BytesIO(content))
  return root / 'set', range(COUNT)


def hugging_face(root, images):
  rows = [
    {'image': {'bytes': png(image), 'path': f'{k}.png'}, 'label': label(k)}
    for k, image in enumerate(images)
  ]
  parquet.write_table(
    pa.Table.from_pylist(rows), root / 'set.parquet', row_group_size=5
  )
  return root / 'set.parquet', range(COUNT)


@pytest.mark.parametrize(
  'make', [folder, npz, stylegan, web_dataset, hugging_face]
)
def test_every_form_gives_the_same_images(tmp_path, images, make):
  path, order = make(tmp_path, images)
  found = image_sets.open_set(str(path), 'generated')
  assert len(found) == COUNT and found.first_shape() == (9, 3)
  np.testing.assert_array_equal(
    images_of(found, range(COUNT), 9, 3), images[list(order)]
  )
  # In any order, some of them, at another size, and again.
  some = [7, 0, 11]
  assert images_of(found, some, 4, 1).shape == (3, 4, 4, 1)
  np.testing.assert_array_equal(
    images_of(found, some, 9, 3), images[[list(order)[k] for k in some]]
  )
  words = ('0', '1') if make is npz else ('cat', 'dog')
  assert list(found.labels) == [words[k % 2] for k in order]
  assert found.digest() == image_sets.open_set(str(path), 'x').digest()
  if make is web_dataset:
    assert {why for _, why in found.skipped} == {
      'files of a kind that is not read: .txt'
    }
    assert found.names[6] == '00001.tar/000000006.png'


def test_another_image_is_another_digest(tmp_path, images):
  path, _ = stylegan(tmp_path, images)
  before = image_sets.open_set(str(path), 'x').digest()
  other = images.copy()
  other[3, 0, 0, 0] ^= 1
  path.unlink()
  stylegan(tmp_path, other)
  assert image_sets.open_set(str(path), 'x').digest() != before


def broken_zip(root, images):
  path, _ = stylegan(root, images)
  content = bytearray(path.read_bytes())
  place = content.find(b'IDAT') + 40
  content[place] ^= 1
  path.write_bytes(content)
  return path


def no_image(root, images):
  with zipfile.ZipFile(root / 'set.zip', 'w') as archive:
    archive.writestr('a.txt', 'x')
  return root / 'set.zip'


def twice(root, images):
  with (
    pytest.warns(UserWarning),
    zipfile.ZipFile(root / 'set.zip', 'w') as archive,
  ):
    archive.writestr('a.png', png(images[0]))
    archive.writestr('a.png', png(images[1]))
  return root / 'set.zip'


def short_tar(root, images):
  web_dataset(root, images)
  path = root / 'set' / '00001.tar'
  path.write_bytes(path.read_bytes()[:2000])
  return root / 'set'


def linked_tar(root, images):
  with tarfile.open(root / 'set.tar', 'w') as archive:
    info = tarfile.TarInfo('a.png')
    info.type, info.linkname = tarfile.SYMTYPE, '/etc/passwd'
    archive.addfile(info)
  return root / 'set.tar'


def no_column(root, images):
  parquet.write_table(pa.table({'x': [1]}), root / 'set.parquet')
  return root / 'set.parquet'


def no_parquet(root, images):
  (root / 'set.parquet').write_bytes(b'PAR1xxxx')
  return root / 'set.parquet'


def null_parquet(root, images):
  rows = [{'image': {'bytes': None, 'path': '/etc/passwd'}}]
  parquet.write_table(pa.Table.from_pylist(rows), root / 'set.parquet')
  return root / 'set.parquet'


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (broken_zip, 'Bad CRC'), (no_image, 'holds no image'),
    (twice, 'there twice'), (short_tar, 'cannot be read|cut short|no whole'),
    (linked_tar, 'holds no image'), (no_column, 'no column image'),
    (no_parquet, 'cannot be read'), (null_parquet, 'no bytes|cannot be read'),
  ],
)  # fmt: skip
def test_what_is_broken_is_one_line(tmp_path, images, make, message):
  path = make(tmp_path, images)
  with pytest.raises(inputs.InputError, match=message) as error:
    found = image_sets.open_set(str(path), 'generated')
    images_of(found, range(len(found)), 9, 3)
  assert len(str(error.value).splitlines()) == 1
  assert 'generated' in str(error.value)


def test_one_set_twice_is_refused(tmp_path, images):
  path, _ = npz(tmp_path, images)
  with pytest.raises(inputs.InputError, match='named twice'):
    image_sets.several(f'{path}, {tmp_path}/../{tmp_path.name}/set.npz', 'x')
  assert len(image_sets.several(f' {path} ,', 'x')) == 1


@pytest.mark.parametrize(('most', 'reads'), [(2**28, 8), (1, None)])
def test_row_groups_of_shards_are_held_while_they_fit(
  tmp_path, monkeypatch, most, reads
):
  rng = np.random.default_rng(0)
  pixels = rng.integers(0, 256, (40, 8, 8, 3), np.uint8)
  for shard in range(2):
    rows = [{'image': png(x)} for x in pixels[20 * shard : 20 * shard + 20]]
    parquet.write_table(
      pa.Table.from_pylist(rows), tmp_path / f'{shard}.parquet',
      row_group_size=5,
    )  # fmt: skip
  monkeypatch.setattr(packed, '_HELD_BYTES', most)
  seen, read = [], parquet.ParquetFile.read_row_group
  monkeypatch.setattr(
    parquet.ParquetFile,
    'read_row_group',
    lambda self, group, **options: (
      seen.append(group) or read(self, group, **options)
    ),
  )
  images = image_sets.open_set(str(tmp_path), 'training')
  got = np.stack(list(images.decoded(range(40), 8, 3)))
  np.testing.assert_array_equal(got, pixels)
  assert len(seen) == (reads or len(seen)) and len(seen) >= 8


def test_arrays_larger_than_the_memory_are_read_piece_by_piece(
  tmp_path, monkeypatch
):
  images = np.random.default_rng(0).integers(0, 256, (11, 8, 8, 1), np.uint8)
  (tmp_path / 'set').mkdir()
  np.save(tmp_path / 'set' / 'images.npy', images)
  monkeypatch.setattr(image_sets, '_PIECE', 4)
  sizes, fit = [], decoding.fit
  monkeypatch.setattr(
    decoding,
    'fit',
    lambda part, *shape: sizes.append(len(part)) or fit(part, *shape),
  )
  found = image_sets.open_set(str(tmp_path / 'set'), 'training')
  taken = found.decoded(range(11), 8, 1)
  np.testing.assert_array_equal(next(taken), images[0])
  assert sizes == [4]
  np.testing.assert_array_equal(np.stack(list(taken)), images[1:])
  assert sizes == [4, 4, 3]
