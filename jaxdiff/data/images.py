"""Image files: the only module that decodes them."""

from collections.abc import Iterator
import concurrent.futures
import io
import pathlib

from absl import logging
import numpy as np
import pandas as pd
import PIL
from PIL import Image, ImageOps

from jaxdiff import progress, runs
from jaxdiff.data import datasets

SUFFIXES = ('.png', '.jpg', '.jpeg', '.webp', '.bmp', '.gif', '.tif', '.tiff',
            '.ppm', '.pgm')  # fmt: skip
METADATA = 'metadata.csv'
# More pixels in one file are taken for a decompression bomb.
_MOST_PIXELS = 2**26
# What Pillow raises for files that are not as they should be.
_BROKEN = (OSError, ValueError, SyntaxError,
            EOFError, Image.DecompressionBombError)  # fmt: skip


def decode(content: bytes, size: int, channels: int) -> np.ndarray:
  """An image file as uint8 [size, size, channels].

  Turned as its EXIF orientation says; 16 bits to 8; palettes, CMYK and grey to
  colour (or colour to grey, ITU-R 601); transparent parts on white; the centre
  square, resized by Lanczos.

  Args:
    content: of a file that Pillow reads; of several frames, the first.
    size: of either side.
    channels: 1 or 3.

  Raises:
    ValueError: if it is no whole image, or too large to be an honest one.
  """
  try:
    with Image.open(io.BytesIO(content)) as image:
      if image.width * image.height > _MOST_PIXELS:
        raise ValueError(f'{image.width} x {image.height} pixels are too many')
      image.load()
      image = _eight_bits(ImageOps.exif_transpose(image))
  except PIL.UnidentifiedImageError as error:
    raise ValueError('no whole image: of no kind that Pillow reads') from error
  except (*_BROKEN, Warning) as error:
    raise ValueError(f'no whole image: {error}') from error
  mode = 'L' if channels == 1 else 'RGB'
  if 'A' in image.getbands() or 'transparency' in image.info:
    image = image.convert('RGBA')
    white = Image.new('RGBA', image.size, 'white')
    image = Image.alpha_composite(white, image)
  image = image.convert(mode)
  image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
  return np.asarray(image).reshape(size, size, channels)


def _eight_bits(image: Image.Image) -> Image.Image:
  """Grey of 16 bits, or 16 bits in an int32 or float, to mode L."""
  if image.mode.startswith('I') or image.mode == 'F':
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
      raise ValueError('pixels are not finite')
    return Image.fromarray(
      np.clip(np.rint(values / 257.0), 0, 255).astype(np.uint8)
    )
  return image


def image_folder(
  path: str, size: int, channels: int, skip_broken: bool
) -> datasets.Dataset:
  """A folder of image files; sub-folders are classes, by name.

  With `metadata.csv` in it (columns file_name and optionally label, group; as
  Hugging Face's ImageFolder), its rows are the images, and images of one group
  stay on one side of every split.

  Args:
    path: the folder.
    size: of either side, after cropping and resizing.
    channels: 1 or 3.
    skip_broken: leave out files that cannot be decoded, and list them.

  Raises:
    InputError: naming the first file that is broken, or outside the folder.
  """
  root = pathlib.Path(path)
  if not path or not root.is_dir():
    raise runs.InputError(f'data.path: no folder {path!r} of images')
  if (root / METADATA).is_file():
    table = _metadata(root)
  else:
    files = list(_files(root))
    names = [str(file.relative_to(root)) for file in files]
    table = pd.DataFrame({'file_name': names})
    table['label'] = [str(pathlib.PurePath(name).parent) for name in names]
  if table.empty:
    raise runs.InputError(
      f'data.path: {path} holds no image file ({", ".join(SUFFIXES)})'
    )
  for name in table['file_name']:
    _inside(root, name)
  decoded = _decode_all(root, list(table['file_name']), size, channels)
  broken = [
    (name, str(one))
    for name, one in zip(table['file_name'], decoded, strict=True)
    if isinstance(one, ValueError)
  ]
  if broken and not skip_broken:
    raise runs.InputError(
      f'{root / broken[0][0]}: {broken[0][1]} ({len(broken)} such files; '
      '--config.data.skip_broken leaves them out and lists them)'
    )
  for name, why in broken:
    logging.warning('skipped %s: %s', root / name, why)
  good = np.array([not isinstance(one, ValueError) for one in decoded])
  if not good.any():
    raise runs.InputError(f'data.path: every image in {path} is broken')
  table = table[good].reset_index(drop=True)
  labels, classes = _codes(table, 'label')
  group = _codes(table, 'group')[0] if 'group' in table else None
  return datasets.make(
    np.stack([one for one in decoded if not isinstance(one, ValueError)]),
    labels,
    table['file_name'],
    group=group,
    num_classes=classes,
    skipped=tuple(broken),
  )


def _codes(table: pd.DataFrame, column: str) -> tuple[np.ndarray, int]:
  """Values of a column numbered in their sorted order, and how many."""
  if column not in table:
    return np.zeros(len(table), np.int32), 1
  codes, values = pd.factorize(table[column].astype(str), sort=True)
  return codes.astype(np.int32), len(values)


def _files(root: pathlib.Path) -> Iterator[pathlib.Path]:
  """Image files in a folder and below, sorted; hidden ones are not."""
  for file in sorted(root.rglob('*')):
    hidden = any(part.startswith('.') for part in file.relative_to(root).parts)
    if file.suffix.lower() in SUFFIXES and not hidden and not file.is_dir():
      yield file


def _metadata(root: pathlib.Path) -> pd.DataFrame:
  try:
    table = pd.read_csv(root / METADATA, dtype=str)
  except (ValueError, OSError) as error:
    raise runs.InputError(f'{root / METADATA}: {error}') from error
  if 'file_name' not in table or table['file_name'].isna().any():
    raise runs.InputError(f'{root / METADATA}: every row needs a file_name')
  for column in ('label', 'group'):
    if column in table and table[column].isna().any():
      raise runs.InputError(f'{root / METADATA}: every row needs a {column}')
  return table


def _inside(root: pathlib.Path, name: str) -> None:
  """Refuses names and links that lead out of the folder."""
  try:
    real = (root / name).resolve(strict=True)
  except (OSError, RuntimeError) as error:
    raise runs.InputError(f'{root / name}: {error}') from error
  if not real.is_relative_to(root.resolve()):
    raise runs.InputError(f'{root / name} leads out of the folder, to {real}')
  if not real.is_file():
    raise runs.InputError(f'{root / name} is no file')


def _decode_all(
  root: pathlib.Path, names: list[str], size: int, channels: int
) -> list[np.ndarray | ValueError]:
  """Decodes on all cores, in order; an error stands for a broken file."""

  def one(name: str) -> np.ndarray | ValueError:
    try:
      return decode((root / name).read_bytes(), size, channels)
    except (ValueError, OSError) as error:
      return ValueError(str(error))

  out = []
  with (
    progress.track('decode', len(names), 'images') as advance,
    concurrent.futures.ThreadPoolExecutor() as pool,
  ):
    for image in pool.map(one, names):
      out.append(image)
      advance(1)
  return out
