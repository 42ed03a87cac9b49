"""A folder of generated images, beside what their generator was trained on."""

from collections.abc import Sequence
import dataclasses

import ml_collections
import numpy as np

from jaxdiff import inputs, subjects
from jaxdiff.data import datasets, image_sets
from jaxdiff.data import examples as examples_lib
from jaxdiff.plans import checks, images
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.runs import layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import progress
from jaxdiff.subjects import told as told_lib

GIVES = ('examples', 'non_members', 'samples', 'generated')

# Sides of images that are compared pixel by pixel: larger ones say no more, and
# cost more.
_MOST_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Folders:
  """What a config names, listed.

  Attributes:
    generated: of the generator first, then of every reference.
    num_training: examples that were trained on, which come first.
  """

  generated: tuple[image_sets.ImageSet, ...]
  num_training: int


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  del c
  return 1, ()


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  for key in ('generated', 'training'):
    need(
      bool(c[key]),
      f'{key}: name a folder of images, or an npz: --config.{key}=DIR',
    )
  need(c.channels in (0, 1, 3), f'channels: {c.channels}; 1, 3, or 0')
  need(
    not c.references or bool(c.holdout),
    'references: membership is measured between training and held-out images; '
    'name these: --config.holdout=DIR',
  )
  check_distinct(c, ('generated', 'training', 'holdout'))


def check_distinct(c: ml_collections.ConfigDict, keys: Sequence[str]) -> None:
  """Raises ValueError where two keys name one set."""
  place: dict[str, str] = {}
  for key in keys:
    if c[key]:
      path = str(inputs.local(c[key], key).resolve())
      need(
        path not in place,
        f'{key}: {inputs.name_of(c[key])} is {place.get(path)} too',
      )
      place[path] = key


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """Training and held-out images, decoded; samples, listed."""
  generated = [
    image_sets.open_set(c.generated, 'generated'),
    *image_sets.several(c.references, 'references'),
  ]
  if c.skip_broken:
    generated = [images_of.whole() for images_of in generated]
  side, channels = image_sets.open_set(c.training, 'training').first_shape()
  dataset, num_training, _ = read_images(
    c, c.image_size or min(side, _MOST_SIZE), c.channels or channels, run
  )
  skipped = [
    (f'{one.key}/{name}', why) for one in generated for name, why in one.skipped
  ]
  dataset = dataclasses.replace(dataset, skipped=(*dataset.skipped, *skipped))
  return base.Read(dataset, Folders(tuple(generated), num_training))


def read_images(
  c: ml_collections.ConfigDict,
  size: int,
  channels: int,
  run: layout.Run | None,
) -> tuple[datasets.Dataset, int, list[image_sets.ImageSet]]:
  """Training images, then held-out ones that are no copies of them.

  Args:
    c: the config, with keys training, holdout, skip_broken and flip.
    size: of either side.
    channels: 1 or 3.
    run: whose folder may know the near-duplicates among the images already.

  Returns:
    The images, how many were trained on, and the sets that they come from.
  """
  names = ('training', 'holdout') if c.holdout else ('training',)
  held = [image_sets.open_set(c[name], name) for name in names]
  if c.skip_broken:
    held = [images_of.whole() for images_of in held]
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
  checks.check_size(c, dataset)
  dataset = images.join_duplicates(
    dataset, c.extraction.duplicate_distance, c.flip, run
  )
  return _without_members(dataset, len(held[0])), len(held[0]), held


def make_examples(
  dataset: datasets.Dataset,
  num_training: int,
  num_models: int,
  *,
  flip: bool,
  cond: np.ndarray | None = None,
) -> examples_lib.Examples:
  """Examples of one target, whose references saw none of them.

  Args:
    dataset: training images first.
    num_training: how many they are.
    num_models: the target and its references.
    flip: a mirror image counts as the image.
    cond: int32 [N], what nets are told of each example.
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
  )


def _classes(
  labels: list[tuple[str, ...]],
) -> tuple[np.ndarray, tuple[str, ...]]:
  """Labels where both sides have the same classes; one class if not."""
  if len({frozenset(side) for side in labels}) == 1:
    return datasets.codes([label for side in labels for label in side])
  return np.zeros(sum(map(len, labels)), np.int32), ('',)


def _without_members(
  dataset: datasets.Dataset, num_training: int
) -> datasets.Dataset:
  """The set without held-out images that were trained on, or nearly so."""
  trained_on = np.isin(dataset.image, dataset.image[:num_training])
  known = np.flatnonzero(trained_on[num_training:]) + num_training
  kept = np.setdiff1d(np.arange(len(dataset)), known)
  return dataclasses.replace(
    dataset.subset(kept),
    duplicates=dataset.image,
    skipped=dataset.skipped
    + tuple(
      (str(dataset.source[row]), 'held out, but a copy of a training image')
      for row in known
    ),
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for sets too small to say anything of."""
  held_out = sum(str(name).startswith('holdout/') for name in dataset.source)
  training = len(dataset) - held_out
  for key, count in (('training', training), ('holdout', held_out)):
    need(
      count >= checks.FEWEST_GROUPS or not c[key],
      f'{key}: {count} images are too few (copies of training images are not '
      f'held out); at least {checks.FEWEST_GROUPS}',
    )


def tell(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset, found: Folders
) -> told_lib.Told:
  """What reports say of the generator."""
  held_out = len(dataset) - found.num_training
  height, width, channels = dataset.images.shape[1:]
  references = len(found.generated) - 1
  beside = f'{held_out:,} held-out images' if held_out else 'no held-out images'
  return told_lib.Told(
    short='what the generated images give away',
    samples='The generated images',
    not_tested=('anything that needs the generator itself',),
    title=f'What the images of “{c.name}” give away',
    subject=(
      f'{len(found.generated[0]):,} generated images beside '
      f'{found.num_training:,} training images and {beside}, compared at '
      f'{height} x {width} pixels, {"grey" if channels == 1 else "colour"}'
      + (f'; samples of {references} reference models.' if references else '.')
    ),
    limits=(
      'The numbers hold for these images: more samples can give away more, and '
      'finding nothing would not be a guarantee. Images are compared pixel by '
      'pixel: a copy that was moved, cropped or recoloured may be missed.'
      + (
        ''
        if held_out
        else ' Without held-out images nobody can say how many of the hits are '
        'accidents: every generator draws some images that are near to its '
        'training images.'
      )
    ),
  )


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The generator, by its samples."""
  del step
  dataset: datasets.Dataset = read.dataset
  found: Folders = read.more
  counts = tuple(map(len, found.generated))
  return base.Made(
    subject=subjects.Subject(
      kind='a folder of images',
      told=tell(c, dataset, found),
      examples=make_examples(
        dataset, found.num_training, len(found.generated), flip=c.flip
      ),
      samples=samples_lib.Samples(
        num_samples=counts[0],
        block_size=c.sample.block_size,
        of_others=counts[1:],
        in_order=True,
      ),
      generated=found.generated,
    ),
    inputs={
      'training': f'{found.num_training} images',
      'generated': found.generated[0].digest(),
    }
    | {
      f'references {number}': one.digest()
      for number, one in enumerate(found.generated[1:], 1)
    },
  )
