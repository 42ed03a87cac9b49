"""Pictures of the report: training images beside samples, as data URLs."""

import base64
from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np
import pandas as pd
from PIL import Image

from jaxdiff import inputs
from jaxdiff.runs import blocks, files, layout

# Pairs that are shown at once, and those a click away.
SHOWN, _MOST = 24, 192
_SHEET = 12
_SAMPLES = 6
# Pixels of a side: hundreds of larger ones would make a page of 100 MB.
_MOST_SIDE = 128
# Characters of a caption.
_NAME = 32


class Pictures:
  """Images of a run by number, read block by block and kept."""

  def __init__(
    self,
    images: np.ndarray,
    block_size: int,
    run: layout.Run,
    names: Sequence[str] = (),
    samples: Sequence[str] = (),
  ):
    """Reads nothing yet.

    Args:
      images: the examples.
      block_size: samples a file.
      run: whose samples.
      names: of the examples.
      samples: names of the samples, where one model has some.
    """
    self._images = images
    self._names, self._sample_names = names, samples
    self._block_size = block_size
    self._run = run
    self._blocks: dict[tuple[int, int], np.ndarray] = {}

  def training(self, index: int) -> str:
    """Data URL of an example."""
    return png(self._images[index])

  def name(self, index: int) -> str:
    """Of an example."""
    return self._names[index] if self._names else f'image {index}'

  def sample_name(self, model: int, number: int) -> str:
    """Of a sample."""
    if not self._sample_names:
      return f'sample {number} of model {model}'
    return self._sample_names[number]

  def sample(self, model: int, number: int) -> str:
    """Data URL of a sample."""
    return png(self.sample_array(model, number))

  def sample_array(self, model: int, number: int) -> np.ndarray:
    """Sample uint8 [H, W, C].

    Raises:
      InputError: if its block is missing or torn.
    """
    start = number // self._block_size * self._block_size
    if (model, start) not in self._blocks:
      path = self._run.samples(model, start)
      block = blocks.read_block(path, self._run.identity, model, None, 'images')
      if block is None:
        raise inputs.InputError(
          f'{path} is missing or torn: run the sample stage again'
        )
      self._blocks[model, start] = block['images']
    return self._blocks[model, start][number - start]


def short(name: str) -> str:
  """A name for a caption: a path's end, or its middle left out."""
  if len(name) > _NAME:
    name = name.rpartition('/')[2]
  half = _NAME // 2 - 1
  return name if len(name) <= _NAME else f'{name[:half]}…{name[-half:]}'


def png(image: np.ndarray) -> str:
  """uint8 [H, W, C] -> data URL of a PNG no larger than a page can hold."""
  if max(image.shape[:2]) > _MOST_SIDE:
    picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    picture.thumbnail((_MOST_SIDE, _MOST_SIDE))
    image = np.asarray(picture).reshape(*picture.size[::-1], -1)
  return (
    f'data:image/png;base64,{base64.b64encode(files.png_bytes(image)).decode()}'
  )


def best_matches(matches: pd.DataFrame) -> list[dict[str, Any]]:
  """Rows of matches.csv, most convincing first, an image once."""
  found = matches[matches['half'] == 'training'].sort_values(
    ['ratio', 'model', 'sample'], kind='stable'
  )
  return found.drop_duplicates('index').to_dict('records')


def read(path: epath.Path, side: int) -> np.ndarray:
  """uint8 [H, W, C] of a PNG of the run, no larger than a side."""
  with path.open('rb') as file, Image.open(file) as picture:
    picture.thumbnail((side, side))
    image = np.asarray(picture)
  return image.reshape(*image.shape[:2], -1)


def sheet(
  matches: pd.DataFrame, images: np.ndarray, pictures: Pictures
) -> bytes | None:
  """PNG: training images above, the samples that give them away below.

  None if there are none. Small images are enlarged, pixel by pixel.
  """
  rows = best_matches(matches)[:_SHEET]
  if not rows:
    return None
  scale = max(1, 64 // images.shape[1])
  gap = 8

  def enlarged(image: np.ndarray) -> np.ndarray:
    return image.repeat(scale, axis=0).repeat(scale, axis=1)

  height, width = scale * images.shape[1], scale * images.shape[2]
  out = np.full(
    (2 * height + gap, len(rows) * (width + gap) - gap, images.shape[3]),
    255,
    np.uint8,
  )
  for place, row in enumerate(rows):
    left = slice(place * (width + gap), place * (width + gap) + width)
    out[:height, left] = enlarged(images[row['index']])
    out[height + gap :, left] = enlarged(
      pictures.sample_array(row['model'], row['sample'])
    )
  return files.png_bytes(out)


def pairs(
  matches: pd.DataFrame,
  pictures: Pictures,
  verdicts: dict[tuple[int, int], str],
) -> list[dict[str, Any]]:
  """Training images beside the sample that gives each away, best first.

  Of thousands, as many as a page can hold; all are in the table.

  Args:
    matches: of one setting.
    pictures: of the run.
    verdicts: what a person said, by model and sample.
  """
  return [
    {
      'rank': rank,
      'training': pictures.training(row['index']),
      'sample': pictures.sample(row['model'], row['sample']),
      'name': pictures.name(row['index']),
      'sample_name': pictures.sample_name(row['model'], row['sample']),
      'distance': f'{row["distance"]:.3f}',
      'verdict': verdicts.get((row['model'], row['sample']), ''),
    }
    for rank, row in enumerate(best_matches(matches)[:_MOST], 1)
  ]


def neighbours(
  gallery: pd.DataFrame, kind: str, pictures: Pictures
) -> list[dict[str, Any]]:
  """Samples of one kind, each with its nearest training images."""
  rows = gallery[gallery['kind'] == kind]
  first = rows[rows['rank'] == 0].sort_values(
    'distance' if kind == 'near_miss' else 'ratio',
    ascending=kind == 'near_miss',
    kind='stable',
  )
  out = []
  for row in first.drop_duplicates('index').head(_SAMPLES).to_dict('records'):
    near = rows[
      (rows['model'] == row['model']) & (rows['sample'] == row['sample'])
    ]
    out.append(
      {
        'sample': pictures.sample(row['model'], row['sample']),
        'model': row['model'],
        'number': row['sample'],
        'near': [
          {
            'training': pictures.training(neighbour['index']),
            'index': neighbour['index'],
            'distance': f'{neighbour["distance"]:.3f}',
          }
          for neighbour in near.to_dict('records')
        ],
      }
    )
  return out
