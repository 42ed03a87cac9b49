"""Where images come from, by the names of `data.name`."""

from collections.abc import Callable
import dataclasses

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.data.readers import archives, cifar, image_files, records


@dataclasses.dataclass(frozen=True)
class Source:
  """What a config says of its images.

  Attributes:
    name: one of SOURCES.
    path: file or folder, where the set has one.
    image_size: sides of decoded files; other sets have their own.
    channels: of decoded files, 1 or 3.
    skip_broken: leave out what cannot be decoded.
    tfds_name: set and version, for TFDS.
    split: likewise.
    downscale: sides are divided by it.
  """

  name: str
  path: str = ''
  image_size: int = 32
  channels: int = 3
  skip_broken: bool = False
  tfds_name: str = ''
  split: str = 'train'
  downscale: int = 1


SOURCES: dict[str, Callable[[Source], datasets.Dataset]] = {
  'digits': lambda s: datasets.digits(),
  'cifar10': lambda s: cifar.cifar10(s.path),
  'fashion_mnist': lambda s: archives.fashion_mnist(s.path),
  'npz': lambda s: archives.npz(s.path),
  'npy': lambda s: archives.npy(s.path),
  'image_folder': lambda s: image_files.image_folder(
    s.path, s.image_size, s.channels, s.skip_broken
  ),
  'array_record': lambda s: records.array_record(
    s.path, s.image_size, s.channels, s.skip_broken
  ),
  'tfds': lambda s: records.tfds(s.path, s.tfds_name, s.split),
}

# Of single files, whose sides a config chooses.
_DECODED = ('image_folder', 'array_record')


def load(source: Source) -> datasets.Dataset:
  """All images of a source.

  Raises:
    ValueError: for an unknown name.
    InputError: naming the file that is missing or broken.
  """
  if source.name not in SOURCES:
    raise ValueError(
      f'data.name: no data set {source.name!r}; there is {", ".join(SOURCES)}'
    )
  if source.image_size != Source.image_size and source.name not in _DECODED:
    raise ValueError(
      f'data.image_size: images of {source.name} have a size of their own; '
      'data.downscale divides it'
    )
  with inputs.reading(f'data.path: {source.path or source.name}'):
    dataset = SOURCES[source.name](source)
  return datasets.downscaled(dataset, source.downscale)
