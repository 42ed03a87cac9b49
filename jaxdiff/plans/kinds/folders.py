"""A folder of generated images, beside what their generator was trained on."""

from collections.abc import Sequence
import dataclasses
import hashlib
import json
import os

import ml_collections
import numpy as np

from jaxdiff import inputs, subjects
from jaxdiff.data import datasets, image_sets
from jaxdiff.data import examples as examples_lib
from jaxdiff.data.readers import prompts
from jaxdiff.plans import checks, images, outside
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.runs import layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import progress
from jaxdiff.subjects import told as told_lib

GIVES = ('examples', 'non_members', 'samples', 'generated', 'prompts')

# Sides of images that are compared pixel by pixel: larger ones say no more, and
# cost more.
_MOST_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Folders:
  """What a config names, listed.

  Attributes:
    generated: of the generator first, then of every reference.
    num_training: examples that were trained on, which come first.
    prompts: of each of the generator's images; None where nothing tells.
  """

  generated: tuple[image_sets.ImageSet, ...]
  num_training: int
  prompts: tuple[str, ...] | None = None


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
      path = os.path.realpath(inputs.local(c[key], key))
      need(
        path not in place,
        f'{key}: {inputs.name_of(c[key])} is {place.get(path)} too',
      )
      place[path] = key


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """Training and held-out images, decoded; samples, listed."""
  generated = [
    of_config(c, images_of)
    for images_of in (
      image_sets.open_set(c.generated, 'generated'),
      *image_sets.several(c.references, 'references'),
    )
  ]
  training = image_sets.open_set(c.training, 'training')
  side, channels = training.first_shape()
  dataset, num_training, _ = read_images(
    c,
    c.image_size or min(side, _MOST_SIZE),
    c.channels or channels,
    run,
    training,
  )
  skipped = [
    (f'{one.key}/{name}', why) for one in generated for name, why in one.skipped
  ]
  dataset = dataclasses.replace(dataset, skipped=(*dataset.skipped, *skipped))
  told = None
  if c.prompts.of:
    told = prompts.of(c.prompts.of, generated[0].names, 'prompts.of')
  return base.Read(dataset, Folders(tuple(generated), num_training, told))


def of_config(
  c: ml_collections.ConfigDict, images_of: image_sets.ImageSet
) -> image_sets.ImageSet:
  """A set without its broken images, where the config says so."""
  if c.skip_broken:
    return images_of.whole()
  mend = ' (--config.skip_broken leaves out what cannot be read, and lists it)'
  return dataclasses.replace(images_of, mend=mend)


def read_images(
  c: ml_collections.ConfigDict,
  size: int,
  channels: int,
  run: layout.Run | None,
  training: image_sets.ImageSet,
) -> tuple[datasets.Dataset, int, list[image_sets.ImageSet]]:
  """Training images, then held-out ones; without what is on both sides.

  Args:
    c: the config, with keys training, holdout, skip_broken and flip.
    size: of either side.
    channels: 1 or 3.
    run: whose folder may know the near-duplicates among the images already.
    training: the set that key training names.

  Returns:
    The images, how many were trained on, and the sets that they come from.
  """
  held = [training]
  if c.holdout:
    held.append(image_sets.open_set(c.holdout, 'holdout'))
  held = [of_config(c, images_of) for images_of in held]
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
    dataset, c.extraction.duplicate_distance, c.flip, run
  )
  return *_without_common(dataset, len(held[0])), held


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
  kept = dataset.subset(np.flatnonzero(~gone))
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


def _digest(texts: Sequence[str]) -> str:
  """SHA-256 of a list of texts."""
  text = json.dumps(list(texts)).encode()
  return hashlib.sha256(text).hexdigest()


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The generator, by its samples."""
  del step
  dataset: datasets.Dataset = read.dataset
  found: Folders = read.more
  counts = tuple(map(len, found.generated))
  digests = [images_of.digest() for images_of in found.generated]
  check_references('generated', digests)
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
        names=found.generated[0].names,
      ),
      generated=found.generated,
      prompts=found.prompts,
    ),
    looked_at=outside.looked_at(c),
    inputs={
      'training': f'{found.num_training} images',
      'generated': digests[0],
    }
    | {f'references {k}': digest for k, digest in enumerate(digests[1:], 1)}
    | ({} if found.prompts is None else {'prompts': _digest(found.prompts)}),
  )
