"""Sets kept as array_record: plain ones, and those that TFDS has prepared."""

from collections.abc import Iterator
import glob
import json
import os
import pathlib
import re

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.readers import decoding


def array_record(
  path: str, size: int, channels: int, skip_broken: bool
) -> datasets.Dataset:
  """Records that are encoded image files (PNG, JPEG, ...), read by grain.

  Args:
    path: a file, or a pattern of files (`set/train-*.array_record`).
    size: of either side, after cropping and resizing.
    channels: 1 or 3.
    skip_broken: leave out records that cannot be decoded, and list them.

  Raises:
    InputError: naming the file and record that is broken.
  """
  import grain

  pattern = inputs.local(path, 'data.path')
  files = sorted(glob.glob(str(pattern)))
  if not files:
    raise inputs.InputError(f'data.path: no array_record file like {path!r}')
  pixels, source, broken = [], [], []
  for file in files:
    inputs.regular(pathlib.Path(file), 'data.path')
    with inputs.reading(file, 'no array_record'):
      records = grain.sources.ArrayRecordDataSource(file)
      count = len(records)
    for i in range(count):
      name = f'{inputs.name_of(file)}[{i}]'
      try:
        # The reader raises many kinds of damaged records.
        with inputs.reading(name):
          record = records[i]
        pixels.append(decoding.decode(record, size, channels))
        source.append(name)
      except ValueError as error:
        why = str(error).removeprefix(f'{name}: ')
        broken.append((name, why))
        if not skip_broken:
          raise inputs.InputError(
            f'{name}: {why} (--config.data.skip_broken leaves such records out '
            'and lists them)'
          ) from error
  if not pixels:
    raise inputs.InputError(f'data.path: no image in {path}')
  return datasets.make(
    np.stack(pixels),
    np.zeros(len(pixels), np.int32),
    source,
    skipped=tuple(broken),
  )


# Kinds of features that a set of images is made of. TFDS imports whatever
# module features.json names.
_FEATURES = (
  'bbox_feature', 'class_label_feature', 'features_dict', 'image_feature',
  'labeled_image_feature', 'scalar', 'sequence_feature', 'tensor_feature',
  'text_feature', 'top_level_feature', 'feature',
)  # fmt: skip


def _check_features(folder: pathlib.Path | None, name: str) -> None:
  """Refuses features.json that names any other module, before TFDS reads it."""
  root = folder
  if root is None:
    root = pathlib.Path(os.path.expanduser('~/tensorflow_datasets'))
  base = root / name.partition(':')[0].partition('/')[0]
  for path in sorted(base.rglob('features.json')) if base.is_dir() else ():
    content = inputs.read_bytes(path, 2**24)
    with inputs.reading(path, 'no JSON'):
      found = json.loads(content)
    for kind in _class_names(found):
      module = str(kind).rpartition('.')[0]
      if module.rpartition('.')[2] not in _FEATURES or not module.startswith(
        'tensorflow_datasets.core.features.'
      ):
        raise inputs.InputError(
          f'{path}: features of {inputs.one_line(repr(kind))} are not '
          'admitted: reading them would run that module'
        )


def _class_names(found) -> Iterator:
  """Every class that a tree of features names."""
  if isinstance(found, dict):
    for key, value in found.items():
      if key in ('pythonClassName', 'type', 'python_class_name'):
        # `type` is a class in files of old, and a word in others.
        if key != 'type' or (isinstance(value, str) and '.' in value):
          yield value
      else:
        yield from _class_names(value)
  elif isinstance(found, list):
    for value in found:
      yield from _class_names(value)


def tfds(path: str, name: str, split: str) -> datasets.Dataset:
  """A set that TFDS has prepared as array_record; TensorFlow is not needed.

  Args:
    path: TFDS's data_dir.
    name: of the set, with version if wanted: `cifar10:3.0.2`.
    split: `train`, or any that TFDS reads.

  Raises:
    InputError: if it is not there as array_record, or has no images of one
      size.
  """
  import tensorflow_datasets

  folder = inputs.local(path, 'data.path') if path else None
  if not re.fullmatch(r'[a-z0-9_]+(/[\w.-]+)?(:\d+\.\d+\.\d+)?', name):
    raise inputs.InputError(
      f'data.tfds_name: {inputs.one_line(repr(name))} is no name of a set, as '
      'cifar10 and cifar10:3.0.2 are'
    )
  _check_features(folder, name)
  with inputs.reading(
    f'data.tfds_name: {name!r} under data.path {path!r}',
    f'cannot be read (prepare it elsewhere: tfds build {name} '
    '--file_format=array_record)',
  ):
    builder = tensorflow_datasets.builder(
      name, data_dir=folder, file_format='array_record'
    )
    source = builder.as_data_source(split)
    first = source[0]
  if 'image' not in first:
    raise inputs.InputError(f'data.tfds_name: {name} has no feature `image`')
  pixels, labels = [], []
  for number in range(len(source)):
    with inputs.reading(f'data.tfds_name: {name}/{split}[{number}]'):
      example = source[number]
      image = np.asarray(example['image'])
    if image.dtype != np.uint8 or image.shape != np.shape(first['image']):
      raise inputs.InputError(
        f'data.tfds_name: images of {name} differ in size or are no uint8; '
        'write them as files and use image_folder'
      )
    pixels.append(image)
    labels.append(int(example.get('label', 0)))
  return datasets.make(
    np.stack(pixels),
    np.array(labels, np.int32),
    [f'{name}/{split}[{i}]' for i in range(len(pixels))],
  )
