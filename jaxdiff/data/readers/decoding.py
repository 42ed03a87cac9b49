"""One image file to an array, by Pillow, within bounds of memory."""

from collections.abc import Callable, Iterator
import contextlib
import io
import threading
from typing import TypeVar
import zlib

import numpy as np
import PIL
from PIL import Image, ImageOps

from jaxdiff import inputs

_T = TypeVar('_T')

# The plugins of Pillow that these are; it has many more, one of which starts
# another program.
_FORMATS = ('PNG', 'JPEG', 'WEBP', 'BMP', 'GIF', 'TIFF', 'PPM')

# More pixels in one file, or in one of so few bytes, are taken for a
# decompression bomb; what is small is none.
_MOST_PIXELS, _MOST_PIXELS_A_BYTE, _FEW_PIXELS = 2**26, 2**12, 2**22

# Bytes that decoding takes a pixel, at most, in all its steps.
_BYTES_A_PIXEL = 24


class _Budget:
  """Memory that all threads together decode in."""

  def __init__(self):
    self._changed = threading.Condition()
    self._left = self._all = -1

  @contextlib.contextmanager
  def take(self, size: int) -> Iterator[None]:
    """Waits until so many bytes are left; alone, an image may take them all."""
    with self._changed:
      if self._all < 0:
        self._left = self._all = inputs.free_memory() // 4
      self._changed.wait_for(
        lambda: self._left >= size or self._left == self._all
      )
      self._left -= size
    try:
      yield
    finally:
      with self._changed:
        self._left += size
        self._changed.notify_all()


_budget = _Budget()


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
  """An image file as uint8 [size, size, channels].

  Turned as its EXIF orientation says; 16 bits to 8; palettes, CMYK and grey to
  colour (or colour to grey, ITU-R 601); transparent parts on white; the centre
  square, resized by Lanczos.

  Args:
    content: of a PNG, JPEG, WebP, BMP, GIF, TIFF or PPM file; of several
      frames, the first.
    size: of either side.
    channels: 1 or 3.

  Raises:
    ValueError: if it is no whole image, too large to be an honest one, or of
      numbers whose range nobody states.
  """
  return _decoded(content, lambda image: _square(image, size, channels))


def shape_of(content: bytes) -> tuple[int, int]:
  """The shorter side of an image file, and 1 if it is grey, 3 if not.

  Raises:
    ValueError: as `decode`.
  """
  return _decoded(
    content,
    lambda image: (min(image.size), 1 if image.mode in ('1', 'L', 'LA') else 3),
  )


def _decoded(content: bytes, work: Callable[[Image.Image], _T]) -> _T:
  """What is made of an image file: turned, in 8 bits, as large as it is."""
  try:
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
      if image.format == 'PNG':
        _check_png(content)
      number = image.width * image.height
      most = max(_FEW_PIXELS, len(content) * _MOST_PIXELS_A_BYTE)
      if number > min(most, _MOST_PIXELS):
        raise ValueError(
          f'{image.width} x {image.height} pixels are too many for a file of '
          f'{len(content):,} bytes'
        )
      with _budget.take(number * _BYTES_A_PIXEL):
        image.load()
        kind = image.format
        ImageOps.exif_transpose(image, in_place=True)  # copies what it turns
        return work(_eight_bits(image, kind))
  except PIL.UnidentifiedImageError as error:
    raise ValueError(
      f'no whole image: none of {", ".join(_FORMATS)}'
    ) from error
  except (Exception, Warning) as error:  # plugins raise many kinds
    raise ValueError(f'no whole image: {inputs.one_line(error)}') from error


def fit(images: np.ndarray, size: int, channels: int) -> np.ndarray:
  """Arrays as `decode` would give them: uint8 [n, size, size, channels].

  Args:
    images: uint8 [n, H, W, 1 or 3].
    size: of either side.
    channels: 1 or 3.
  """
  if images.shape[1:] == (size, size, channels):
    return np.ascontiguousarray(images)
  squeezed = images[..., 0] if images.shape[3] == 1 else images
  return np.stack(
    [
      _square(Image.fromarray(np.ascontiguousarray(image)), size, channels)
      for image in squeezed
    ]
  )


def _check_png(content: bytes) -> None:
  """Raises ValueError for a chunk whose CRC differs: Pillow looks at few."""
  place = 8
  while place + 12 <= len(content):
    size = int.from_bytes(content[place : place + 4])
    end = place + 8 + size
    chunk = content[place + 4 : end]
    crc = content[end : end + 4]
    if len(crc) < 4 or zlib.crc32(chunk) != int.from_bytes(crc):
      raise ValueError(f'the checksum of its chunk at byte {place} differs')
    if chunk[:4] == b'IEND':
      return
    place = end + 4
  raise ValueError('it is cut short')


def _square(image: Image.Image, size: int, channels: int) -> np.ndarray:
  """On white, in grey or colour, cropped and resized: uint8."""
  mode = 'L' if channels == 1 else 'RGB'
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  if image.mode != mode:
    image = image.convert(mode)
  image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(size, size, channels)


def _eight_bits(image: Image.Image, kind: str | None) -> Image.Image:
  """Grey of 16 bits, or 16 bits in an int32, to mode L.

  Of a TIFF, integers of 32 bits may be anything: 8 bits are no 16.
  """
  if image.mode == 'F':
    low, high = image.getextrema()
    raise ValueError(
      f'pixels are floating-point numbers ({low:.3g} to {high:.3g}) of no '
      'stated range; save them as 8 or 16 bits'
    )
  if not image.mode.startswith('I'):
    return image
  values = np.asarray(image)
  low, high = int(values.min()), int(values.max())
  wide = kind == 'TIFF' and values.itemsize > 2
  if low < 0 or high > 65535 or (wide and high <= 255):
    raise ValueError(
      f'pixels from {low} to {high} are no 16 bits of grey; save them as 8 or '
      '16 bits'
    )
  out = np.empty(values.shape, np.uint8)
  for start in range(0, len(values), 64):
    # Rounded to nearest: 65535 is 255 x 257.
    rows = values[start : start + 64].astype(np.uint32)
    out[start : start + 64] = (rows + 128) // 257
  return Image.fromarray(out)
