"""The images of a run, from a config, with their near-duplicates joined."""

import dataclasses

import ml_collections
import numpy as np

from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import datasets, registry
from jaxdiff.plans import checks
from jaxdiff.runs import files, layout


def read_images(
  c: ml_collections.ConfigDict, run: layout.Run | None = None
) -> datasets.Dataset:
  """What `config.data` names.

  Args:
    c: the config.
    run: whose folder may know the near-duplicates among the images already.
  """
  source = registry.Source(
    **{
      field.name: c.data[field.name]
      for field in dataclasses.fields(registry.Source)
    }
  )
  dataset = datasets.choose(registry.load(source), c.data.num_examples, c.seed)
  checks.check_size(c, dataset)
  return join_duplicates(
    dataset,
    c.extraction.duplicate_distance,
    c.flip,
    run,
    c.extraction.tiles,
  )


def join_duplicates(
  dataset: datasets.Dataset,
  threshold: float,
  flip: bool,
  run: layout.Run | None = None,
  tiles: int = 0,
  compared: int = 0,
) -> datasets.Dataset:
  """The set with near-duplicates joined into its groups.

  Args:
    dataset: as it was read.
    threshold: largest RMSE of near-duplicates.
    flip: mirror images are duplicates too.
    run: whose folder may know them; what it knows of other images is not used.
    tiles: as of `duplicates.index_of`.
    compared: sides of images that are compared, at least, where those of the
      set are larger; 0 compares them as they are.
  """
  made_of = f'{dataset.fingerprint()} {threshold!r} {flip}'
  if tiles:
    made_of += f' {tiles}'
  if compared:
    made_of += f' at {compared}'
  known = None
  if run is not None:
    known = files.read_npz(run.duplicates, 'image', 'made_of')
  if known is not None and str(known['made_of']) == made_of:
    image = known['image']
  else:
    images = reduced(dataset.images, compared) if compared else dataset.images
    image = duplicates.groups(images, threshold, flip, tiles)
  return dataclasses.replace(
    dataset,
    image=image.astype(np.int32),
    group=duplicates.join(dataset.group, image).astype(np.int32),
    duplicates_of=made_of,
  )


def reduced(images: np.ndarray, least: int) -> np.ndarray:
  """Images made smaller by means over squares, as few as leave `least` a side.

  Args:
    images: uint8 [N, H, W, C].
    least: sides at least.
  """
  _, height, width, channels = images.shape
  shorter = min(height, width)
  factor = max(
    k
    for k in range(1, max(1, shorter // least) + 1)
    if height % k == width % k == 0
  )
  if factor == 1:
    return images
  out = np.empty(
    (len(images), height // factor, width // factor, channels), np.uint8
  )
  for row, image in enumerate(images):
    squares = image.reshape(
      height // factor, factor, width // factor, factor, channels
    )
    out[row] = np.rint(squares.mean(axis=(1, 3)))
  return out
