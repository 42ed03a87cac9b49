"""Sets kept as array_record: plain ones, and those that TFDS has prepared."""

import glob

import numpy as np

from jaxdiff import runs
from jaxdiff.data import datasets, images


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

  files = sorted(glob.glob(path))
  if not files:
    raise runs.InputError(f'data.path: no array_record file like {path!r}')
  pixels, source, broken = [], [], []
  for file in files:
    try:
      records = grain.sources.ArrayRecordDataSource(file)
      count = len(records)
    except Exception as error:  # the reader raises many kinds
      raise runs.InputError(f'{file}: no array_record: {error}') from error
    for i in range(count):
      name = f'{file}[{i}]'
      try:
        pixels.append(images.decode(records[i], size, channels))
        source.append(name)
      except ValueError as error:
        broken.append((name, str(error)))
        if not skip_broken:
          raise runs.InputError(
            f'{name}: {error} (--config.data.skip_broken leaves such records '
            'out and lists them)'
          ) from error
  if not pixels:
    raise runs.InputError(f'data.path: no image in {path}')
  return datasets.make(
    np.stack(pixels),
    np.zeros(len(pixels), np.int32),
    source,
    skipped=tuple(broken),
  )


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

  try:
    builder = tensorflow_datasets.builder(
      name, data_dir=path or None, file_format='array_record'
    )
    source = builder.as_data_source(split)
    first = source[0]
  except Exception as error:  # TFDS raises many kinds
    line = str(error).strip().splitlines()[:1]
    raise runs.InputError(
      f'data.tfds_name: cannot read {name!r} under data.path {path!r}: '
      f'{" ".join(line)} (prepare it elsewhere: tfds build {name} '
      '--file_format=array_record)'
    ) from error
  if 'image' not in first:
    raise runs.InputError(f'data.tfds_name: {name} has no feature `image`')
  pixels, labels = [], []
  for example in source:
    image = np.asarray(example['image'])
    if image.dtype != np.uint8 or image.shape != np.shape(first['image']):
      raise runs.InputError(
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
