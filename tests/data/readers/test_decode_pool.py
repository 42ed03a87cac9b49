"""Decoding many files: each as it is alone, in order, few at a time."""

import numpy as np
from PIL import Image
import pytest

from jaxdiff import inputs
from jaxdiff.data.readers import decode_pool, decoding
from tests.data.readers.test_image_files import encode

COUNT = 150


@pytest.fixture(scope='module')
def files():
  """Pictures of many sizes; every tenth is broken."""
  rng = np.random.default_rng(0)
  out = []
  for number in range(COUNT):
    pixels = rng.integers(0, 256, (*rng.integers(8, 40, 2), 3), np.uint8)
    content = encode(Image.fromarray(pixels))
    out.append(content[:-9] if number % 10 == 3 else content)
  return out


def test_each_is_what_it_is_alone(files):
  rows = range(COUNT - 1, 20, -1)
  got = list(decode_pool.decode_all(files.__getitem__, rows, 12, 3))
  assert len(got) == len(rows)
  for row, image in zip(rows, got, strict=True):
    if row % 10 == 3:
      with pytest.raises(ValueError) as error:
        decoding.decode(files[row], 12, 3)
      assert str(image) == str(error.value)
    else:
      np.testing.assert_array_equal(image, decoding.decode(files[row], 12, 3))
  assert list(decode_pool.decode_all(files.__getitem__, [], 12, 3)) == []


def test_an_error_stands_where_there_are_no_bytes(files):
  def content(row):
    if row == 1:
      raise FileNotFoundError('it is not there')
    return files[row]

  got = list(decode_pool.decode_all(content, range(3), 12, 3))
  assert str(got[1]) == 'it is not there'
  assert isinstance(got[0], np.ndarray) and isinstance(got[2], np.ndarray)


def test_what_must_not_be_read_stops_it(files):
  def content(row):
    if row == 40:
      raise inputs.InputError('it leads out of the folder')
    return files[row]

  images = decode_pool.decode_all(content, range(COUNT), 12, 3)
  with pytest.raises(inputs.InputError, match='leads out'):
    list(images)


@pytest.mark.parametrize(('size', 'most'), [(12, 2 * 3 * 16), (1100, 2 * 3)])
def test_few_are_read_ahead_however_slowly_they_are_taken(
  files, monkeypatch, size, most
):
  monkeypatch.setattr(decode_pool.os, 'cpu_count', lambda: 2)
  asked = []

  def content(row):
    asked.append(row)
    return files[0]

  images = decode_pool.decode_all(content, range(10_000), size, 3)
  for taken in range(1, 40):
    next(images)
    assert len(asked) - taken <= most
  images.close()
  assert len(asked) <= 40 + most
