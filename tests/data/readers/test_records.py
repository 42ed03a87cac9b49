"""array_record: plain, and as TFDS prepares it; no TensorFlow anywhere."""

import json
import sys

from array_record.python import array_record_module
import numpy as np
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff.data import registry
from tests.data.readers import test_image_files


def write(path, records):
  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for record in records:
    writer.write(record)
  writer.close()


def pixels(count):
  return np.random.default_rng(0).integers(0, 256, (count, 8, 8, 3), np.uint8)


def encoded(images):
  return [test_image_files.encode(Image.fromarray(image)) for image in images]


def load(path, **options):
  return registry.load(
    registry.Source('array_record', str(path), image_size=8, **options)
  )


def test_records_are_image_files(tmp_path):
  images = pixels(7)
  write(tmp_path / 'a-0.array_record', encoded(images[:4]))
  write(tmp_path / 'a-1.array_record', encoded(images[4:]))
  got = load(tmp_path / 'a-*.array_record')
  np.testing.assert_array_equal(got.images, images)
  assert got.source[4].endswith('a-1.array_record[0]')


def test_broken_records_and_files_are_named(tmp_path):
  good = encoded(pixels(3))
  write(tmp_path / 'a.array_record', [good[0], b'broken', good[2]])
  with pytest.raises(inputs.InputError, match=r'a.array_record\[1\]'):
    load(tmp_path / 'a.array_record')
  got = load(tmp_path / 'a.array_record', skip_broken=True)
  assert len(got) == 2 and len(got.skipped) == 1
  (tmp_path / 'b.array_record').write_bytes(b'no records')
  with pytest.raises(inputs.InputError, match='b.array_record'):
    load(tmp_path / 'b.array_record')
  with pytest.raises(inputs.InputError, match='no array_record file'):
    load(tmp_path / 'nope*')


def prepared(path, images, labels):
  """What TFDS writes for a set of images with labels, by hand."""
  import tensorflow_datasets as tfds
  from tensorflow_datasets import proto

  features = tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(8, 8, 3), encoding_format='png'),
      'label': tfds.features.ClassLabel(num_classes=3),
    }
  )
  folder = path / 'tiny' / '1.0.0'
  folder.mkdir(parents=True)
  features.save_config(folder)
  records = []
  for content, label in zip(encoded(images), labels, strict=True):
    example = proto.tf_example_pb2.Example()
    example.features.feature['image'].bytes_list.value.append(content)
    example.features.feature['label'].int64_list.value.append(label)
    records.append(example.SerializeToString())
  write(folder / 'tiny-train.array_record-00000-of-00001', records)
  info = {
    'name': 'tiny', 'version': '1.0.0', 'fileFormat': 'array_record',
    'splits': [{
      'name': 'train', 'shardLengths': [str(len(images))], 'numBytes': '1',
      'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
    }],
  }  # fmt: skip
  (folder / 'dataset_info.json').write_text(json.dumps(info))


def test_prepared_sets_are_read_without_tensorflow(tmp_path):
  images, labels = pixels(5), [0, 2, 1, 1, 0]
  prepared(tmp_path, images, labels)
  got = registry.load(
    registry.Source('tfds', str(tmp_path), tfds_name='tiny', split='train')
  )
  np.testing.assert_array_equal(got.images, images)
  np.testing.assert_array_equal(got.labels, labels)
  assert 'tensorflow' not in sys.modules


def test_what_is_not_prepared_is_named(tmp_path):
  with pytest.raises(inputs.InputError, match='tfds build'):
    registry.load(
      registry.Source('tfds', str(tmp_path), tfds_name='tiny', split='train')
    )
