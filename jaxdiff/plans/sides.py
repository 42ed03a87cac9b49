"""The two sides that a user brings: training and held-out images."""

from collections.abc import Sequence
import dataclasses
import os

from absl import logging
import ml_collections
import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.extraction import duplicates
from jaxdiff.data import captions as captions_lib
from jaxdiff.data import datasets, image_sets
from jaxdiff.data import examples as examples_lib
from jaxdiff.plans import checks, images
from jaxdiff.plans.checks import need
from jaxdiff.runs import layout
from jaxdiff.runtime import progress


def check_distinct(c: ml_collections.ConfigDict, keys: Sequence[str]) -> None:
  """Raises ValueError where two keys name one set."""
  place: dict[str, str] = {}
  for key in keys:
    if c[key]:
      path = os.path.realpath(inputs.local(c[key], key))
      need(
        path not in place,
        f'{key}: {inputs.name_of(c[key])} is {place.get(path)} too',
      )
      place[path] = key


def of_config(
  c: ml_collections.ConfigDict, images_of: image_sets.ImageSet
) -> image_sets.ImageSet:
  """A set without its broken images, where the config says so."""
  if c.skip_broken:
    return images_of.whole()
  mend = ' (--config.skip_broken leaves out what cannot be read, and lists it)'
  return dataclasses.replace(images_of, mend=mend)


def open_sets(c: ml_collections.ConfigDict) -> list[image_sets.ImageSet]:
  """The training images that a config names, and the held-out ones, listed."""
  keys = [key for key in ('training', 'holdout') if c[key]]
  return [image_sets.open_set(c[key], key) for key in keys]


def read_images(
  c: ml_collections.ConfigDict,
  size: int,
  channels: int,
  run: layout.Run | None,
  listed: Sequence[image_sets.ImageSet],
  compared: int = 0,
) -> tuple[datasets.Dataset, int, list[image_sets.ImageSet]]:
  """Training images, then held-out ones; without what is on both sides.

  Args:
    c: the config, with key skip_broken, perhaps flip, and group extraction.
    size: of either side.
    channels: 1 or 3.
    run: whose folder may know the near-duplicates among the images already.
    listed: of `open_sets`.
    compared: sides at which near-duplicates are looked for; 0 is `size`.

  Returns:
    The images, how many were trained on, and the sets that they come from.
  """
  held = [of_config(c, images_of) for images_of in listed]
  total = sum(map(len, held))
  inputs.check_size('training', total * size * size * channels)
  pixels = np.empty((total, size, size, channels), np.uint8)
  with progress.track('decode', total, 'images', 0) as advance:
    row = 0
    for images_of in held:
      for image in images_of.decoded(range(len(images_of)), size, channels):
        pixels[row] = image
        row += 1
        advance(1)
  labels, classes = _classes([images_of.labels for images_of in held])
  dataset = datasets.make(
    pixels,
    labels,
    [f'{s.key}/{name}' for s in held for name in s.names],
    num_classes=len(classes),
    names=classes,
    skipped=tuple(
      (f'{s.key}/{name}', why) for s in held for name, why in s.skipped
    ),
  )
  dataset = images.join_duplicates(
    dataset,
    c.extraction.duplicate_distance,
    c.get('flip', False),
    run,
    c.extraction.get('tiles', 0),
    compared,
  )
  return *_without_common(dataset, len(held[0])), held


def join_captions(
  group: np.ndarray, captions: Sequence[str], num_training: int
) -> np.ndarray:
  """Groups that images of one caption share: they are no independent evidence.

  Not where so few captions are left on a side that nothing could be resampled:
  then captions are templates, and images count one by one.

  Args:
    group: int [N], of near-duplicates.
    captions: [N].
    num_training: images that were trained on, which come first.
  """
  same = datasets.codes([captions_lib.plain(text) for text in captions])[0]
  joined = duplicates.join(group, same).astype(np.int32)
  fewest = min(
    len(np.unique(side))
    for side in (joined[:num_training], joined[num_training:])
    if len(side)
  )
  if fewest >= checks.FEWEST_GROUPS:
    return joined
  logging.warning(
    'only %d different captions on a side: images count one by one, whatever '
    'their captions',
    fewest,
  )
  return group


def check_references(target: str, digests: Sequence[str]) -> None:
  """Raises ValueError for a reference that is the target, or another of them.

  Args:
    target: key of the target.
    digests: of the target's content, then of each reference's.
  """
  for number, digest in enumerate(digests):
    if digest in digests[:number]:
      same = digests.index(digest)
      what = f'{target} itself' if same == 0 else f'the same as number {same}'
      raise ValueError(f'references: number {number} is {what}')


def make_examples(
  dataset: datasets.Dataset,
  num_training: int,
  num_models: int,
  *,
  flip: bool,
  cond: np.ndarray | None = None,
  captions: tuple[str, ...] = (),
) -> examples_lib.Examples:
  """Examples of one target, whose references saw none of them.

  Args:
    dataset: training images first.
    num_training: how many they are.
    num_models: the target and its references.
    flip: a mirror image counts as the image.
    cond: int32 [N, ...], what nets are told of each example.
    captions: of the examples.
  """
  keep = np.zeros((num_models, len(dataset)), bool)
  keep[0, :num_training] = True
  return examples_lib.Examples(
    images=dataset.images,
    labels=dataset.labels,
    num_classes=dataset.num_classes,
    cond=cond,
    group=dataset.group,
    image=dataset.image,
    keep=keep,
    left_out=np.arange(num_models),
    paired=False,
    flip=flip,
    targets=np.arange(num_models) == 0,
    captions=captions,
  )


def _classes(
  labels: list[tuple[str, ...]],
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels where both sides have the same classes; one class if not."""
  if len({frozenset(side) for side in labels}) == 1:
    return datasets.codes([label for side in labels for label in side])
  return np.zeros(sum(map(len, labels)), np.int32), ('',)


def _without_common(
  dataset: datasets.Dataset, num_training: int
) -> tuple[datasets.Dataset, int]:
  """The set without images that are on both sides, or nearly so.

  Whether such an image was drawn because it was trained on nobody can tell. On
  the training side alone they would make a generator that draws what is common
  look like one that copies.

  Args:
    dataset: training images first, with near-duplicates joined.
    num_training: how many they are.

  Returns:
    The set, and how many of it were trained on.
  """
  training = np.arange(len(dataset)) < num_training
  common = np.intersect1d(dataset.image[training], dataset.image[~training])
  gone = np.isin(dataset.image, common)
  # A copy of all pixels is large.
  kept = dataset.subset(np.flatnonzero(~gone)) if gone.any() else dataset
  return dataclasses.replace(
    kept,
    duplicates=dataset.image,
    skipped=dataset.skipped
    + tuple(
      (str(dataset.source[row]), 'in training and hold-out, or a copy of it')
      for row in np.flatnonzero(gone)
    ),
  ), int((~gone & training).sum())


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for sets too small to say anything of."""
  held_out = sum(str(name).startswith('holdout/') for name in dataset.source)
  training = len(dataset) - held_out
  for key, count in (('training', training), ('holdout', held_out)):
    need(
      count >= checks.FEWEST_GROUPS or not c[key],
      f'{key}: {count} images are too few (images in training and hold-out, '
      f'or copies of such, count for neither); at least {checks.FEWEST_GROUPS}',
    )
