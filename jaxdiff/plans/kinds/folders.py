"""A folder of generated images, beside what their generator was trained on."""

from collections.abc import Sequence
import dataclasses

import ml_collections
import numpy as np

from jaxdiff import inputs, subjects
from jaxdiff.data import datasets, descriptors, image_sets
from jaxdiff.data.readers import prompts
from jaxdiff.plans import checks, outside, sides
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.plans.stages import extraction
from jaxdiff.runs import layout
from jaxdiff.runs import samples as samples_lib
from jaxdiff.subjects import told as told_lib

GIVES = (
  'examples', 'non_members', 'samples', 'generated', 'pictures', 'descriptors',
)  # fmt: skip


# Sides of images that are compared pixel by pixel: larger ones say no more, and
# cost more.
_MOST_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Folders:
  """What a config names, listed.

  Attributes:
    generated: of the generator first, then of every reference.
    num_training: examples that were trained on, which come first.
    held: the sets that the examples come from.
    prompts: of each of the generator's images; None where nothing tells.
  """

  generated: tuple[image_sets.ImageSet, ...]
  num_training: int
  held: tuple[image_sets.ImageSet, ...]
  prompts: tuple[str, ...] | None = None


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  del c
  return 1, ()


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need(
    bool(c.generated),
    'generated: name a folder of images, or an npz: --config.generated=DIR',
  )
  need(
    bool(c.training or c.prompts.of),
    'training: name a folder of images, or an npz: --config.training=DIR; or '
    'say which generated images share a prompt: --config.prompts.of=folders',
  )
  for key in ('holdout', 'references'):
    need(
      bool(c.training) or not c[key],
      f'{key}: is compared with training images: --config.training=DIR',
    )
  need(
    bool(c.training)
    or not (c.second_opinion.pdq or c.second_opinion.embeddings),
    'second_opinion: is about training images: --config.training=DIR',
  )
  need(c.channels in (0, 1, 3), f'channels: {c.channels}; 1, 3, or 0')
  need(
    not c.references or bool(c.holdout),
    'references: membership is measured between training and held-out images; '
    'name these: --config.holdout=DIR',
  )
  sides.check_distinct(c, ('generated', 'training', 'holdout'))
  need(
    c.image_size % max(c.extraction.tiles, 1) == 0,
    f'image_size: {c.image_size} must be a multiple of extraction.tiles, '
    f'{c.extraction.tiles}',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """Training and held-out images, decoded; samples, listed."""
  generated = [
    image_sets.open_set(c.generated, 'generated'),
    *image_sets.several(c.references, 'references'),
  ]
  listed = sides.open_sets(c)
  if not c.skip_broken:  # what is wrong with them is said before decoding
    descriptors_of(c, generated[0], listed, range(sum(map(len, listed))))
  generated = [sides.of_config(c, images_of) for images_of in generated]
  told = None
  if c.prompts.of:
    told = prompts.of(
      c.prompts.of,
      generated[0].names,
      'prompts.of',
      [name for name, _ in generated[0].skipped],
      generated[0].sharded,
    )
  skipped = tuple(
    (f'{images_of.key}/{name}', why)
    for images_of in generated
    for name, why in images_of.skipped
  )
  if not c.training:
    blank = np.zeros((0, 1, 1, c.channels or 3), np.uint8)
    empty = datasets.make(
      blank, np.zeros(0, np.int32), [], num_classes=1, skipped=skipped
    )
    return base.Read(empty, Folders(tuple(generated), 0, (), told))
  side, channels = listed[0].first_shape()
  side = min(side, _MOST_SIZE)
  side -= side % max(c.extraction.tiles, 1)
  need(
    side > 0,
    f'extraction.tiles: {c.extraction.tiles} leave nothing of so small images',
  )
  size, channels = c.image_size or side, c.channels or channels
  extraction.check_tiles(c, (size, size, channels))
  dataset, num_training, held = sides.read_images(
    c, size, channels, run, listed
  )
  dataset = dataclasses.replace(dataset, skipped=(*dataset.skipped, *skipped))
  return base.Read(
    dataset, Folders(tuple(generated), num_training, tuple(held), told)
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for sets too small to say anything of."""
  if c.training:
    sides.check_images(c, dataset)


def tell(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset, found: Folders
) -> told_lib.Told:
  """What reports say of the generator."""
  held_out = len(dataset) - found.num_training
  height, width, channels = dataset.images.shape[1:]
  references = len(found.generated) - 1
  beside = f'{held_out:,} held-out images' if held_out else 'no held-out images'
  if not found.num_training:
    return told_lib.Told(
      short='what the generated images give away',
      samples='The generated images',
      not_tested=(
        'anything that needs the generator itself, or its training images',
      ),
      title=f'What the images of “{c.name}” give away',
      subject=(
        f'{len(found.generated[0]):,} generated images by their prompts, with '
        'no training image to compare them with.'
      ),
      limits=(
        'The numbers hold for these images: more of each prompt can give away '
        'more, and finding nothing would not be a guarantee.'
      ),
    )
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


def rows_of(dataset: datasets.Dataset, found: Folders) -> list[int]:
  """Places of the examples in the sets that they come from, one after other."""
  names = [
    f'{images_of.key}/{name}'
    for images_of in found.held
    for name in images_of.names
  ]
  place = {name: row for row, name in enumerate(names)}
  return [place[str(name)] for name in dataset.source]


def descriptors_of(
  c: ml_collections.ConfigDict,
  generated: image_sets.ImageSet,
  held: Sequence[image_sets.ImageSet],
  rows: Sequence[int],
) -> list[descriptors.Descriptor]:
  """Ways to describe the images that the config asks for."""
  out = []
  if c.second_opinion.pdq:
    out.append(descriptors.pdq(generated, held, np.asarray(rows)))
  if c.second_opinion.embeddings:
    out.append(
      descriptors.embeddings(
        c.second_opinion.embeddings, generated, held, np.asarray(rows)
      )
    )
  return out


def _digest_of_embeddings(value: str) -> dict[str, str]:
  """SHA-256 of the file, by its key; nothing if there is none."""
  key = 'second_opinion.embeddings'
  return {key: inputs.digest(inputs.local(value, key))} if value else {}


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The generator, by its samples."""
  del step
  dataset: datasets.Dataset = read.dataset
  found: Folders = read.more
  counts = tuple(map(len, found.generated))
  digests = [images_of.digest() for images_of in found.generated]
  sides.check_references('generated', digests)
  told = {}
  if found.prompts is not None:
    told['prompts'] = checks.digest_of_texts(found.prompts)
  return base.Made(
    subject=subjects.Subject(
      kind='a folder of images',
      told=tell(c, dataset, found),
      examples=sides.make_examples(
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
      pictured=None
      if found.prompts is None
      else subjects.Pictured(
        prompts=found.prompts,
        first_shape=found.generated[0].first_shape,
        images_of=lambda run: found.generated[0],
      ),
      descriptors=descriptors_of(
        c, found.generated[0], found.held, rows_of(dataset, found)
      ),
    ),
    looked_at=outside.looked_at(c),
    inputs={
      'training': f'{found.num_training} images',
      'generated': digests[0],
    }
    | {f'references {k}': digest for k, digest in enumerate(digests[1:], 1)}
    | told
    | _digest_of_embeddings(c.second_opinion.embeddings)
    # Hashes are of the images as they are, not as they are compared.
    | (
      {f'{images_of.key} files': images_of.digest() for images_of in found.held}
      if c.second_opinion.pdq
      else {}
    ),
  )
