"""Descriptors of images other than their pixels: PDQ hashes, embeddings.

PDQ (Facebook, 2019) is 256 bits of a cosine transform of the blurred grey
image: it sees through scaling, recompression and changes of brightness, and
sees neither mirror images nor crops, nor a shift of one pixel of small images.
Embeddings are the user's: what they see depends on their network.
"""

from collections.abc import Callable, Sequence
import dataclasses
import importlib.util
import pathlib

import numpy as np

from jaxdiff import inputs
from jaxdiff.data import image_sets
from jaxdiff.data.readers import npz

# Sides that images are hashed at, and the largest for which pixels say more.
_HASHED_SIZE, SMALL = 512, 64
PDQ_BITS = 256
# Distance of embeddings of length 1 that the rounding of a network, in half
# precision and in batches, leaves of none.
_SAME = 0.01
# Bits that differ at most in copies, and quality of a hash that says anything,
# by the authors of PDQ: a plain picture has none.
_MOST_BITS, _LEAST_QUALITY = 31, 50


@dataclasses.dataclass(frozen=True)
class Descriptor:
  """A way to describe generated images and examples.

  Attributes:
    name: of the descriptor.
    describe: (which, rows) -> descriptors [n, D], uint8 or float32 in [0, 1],
      and bool [n], whether they say anything; which is 0 for the generated
      images and 1 for the examples.
    in_units: RMSE of two descriptors -> what people know it as.
    unit: its name.
    nearer: what values are called that are nearer: below, or above.
    limit: RMSE that copies are below, whatever the background.
    same: RMSE below which two descriptors are one, but for rounding.
    slow: whether descriptors are kept in the run folder.
  """

  name: str
  describe: Callable[[int, np.ndarray], tuple[np.ndarray, np.ndarray]]
  in_units: Callable[[np.ndarray], np.ndarray]
  unit: str
  nearer: str
  limit: float = np.inf
  same: float = 0.0
  slow: bool = False


def check_pdq(sets: Sequence[image_sets.ImageSet], key: str) -> None:
  """Raises ValueError if images cannot be hashed, or should not be.

  Args:
    sets: of images.
    key: the flag or key that asks for hashes.
  """
  for images_of in sets:
    side = images_of.first_shape()[0]
    if side <= SMALL:
      raise ValueError(
        f'{key}: images of {images_of.key} have {side} pixels a '
        f'side; up to {SMALL}, the pixels themselves say more'
      )
  if importlib.util.find_spec('pdqhash') is None:
    raise ValueError(
      f'{key}: pip install pdqhash first (in a checkout: '
      'JAXDIFF_EXTRAS=pdq before launch/local.sh)'
    )


def pdq_hashes(
  images_of: image_sets.ImageSet, wanted: np.ndarray, mirrored: bool = False
) -> tuple[np.ndarray, np.ndarray]:
  """PDQ hashes of rows of a set, at 512 pixels at most.

  Args:
    images_of: the set, which `check_pdq` has let pass.
    wanted: int [n].
    mirrored: hash their mirror images, too.

  Returns:
    bool [n, 1 or 2, 256], the mirror image second; and bool [n], whether the
    picture is one that a hash says anything of.
  """
  import pdqhash

  size = min(images_of.first_shape()[0], _HASHED_SIZE)
  bits = np.empty((len(wanted), 1 + mirrored, PDQ_BITS), bool)
  says = np.empty(len(wanted), bool)
  for row, image in enumerate(images_of.decoded(wanted.tolist(), size, 3)):
    bits[row, 0], quality = pdqhash.compute(image)
    says[row] = quality >= _LEAST_QUALITY
    if mirrored:
      bits[row, 1], _ = pdqhash.compute(np.ascontiguousarray(image[:, ::-1]))
  return bits, says


def pdq(
  generated: image_sets.ImageSet,
  held: Sequence[image_sets.ImageSet],
  rows: np.ndarray,
) -> Descriptor:
  """PDQ hashes; bits are bytes 0 and 255, so that distances are exact.

  Args:
    generated: the samples.
    held: the sets that examples come from.
    rows: int [N] of each example in all of these, one after the other.

  Raises:
    ValueError: if the extra is not installed, or images are too small.
  """
  check_pdq((generated, *held), 'second_opinion.pdq')
  starts = np.cumsum([0, *map(len, held)])

  def hashes(images_of: image_sets.ImageSet, wanted: np.ndarray):
    bits, says = pdq_hashes(images_of, wanted)
    return bits[:, 0].astype(np.uint8) * np.uint8(255), says

  def describe(which: int, wanted: np.ndarray):
    if which == 0:
      return hashes(generated, wanted)
    out = np.empty((len(wanted), PDQ_BITS), np.uint8)
    says = np.empty(len(wanted), bool)
    place = rows[wanted]
    for images_of, start in zip(held, starts, strict=False):
      of_set = (place >= start) & (place < start + len(images_of))
      if of_set.any():
        out[of_set], says[of_set] = hashes(images_of, place[of_set] - start)
    return out, says

  return Descriptor(
    name='PDQ',
    describe=describe,
    in_units=lambda distance: np.rint(PDQ_BITS * np.square(distance)),
    unit='bits',
    nearer='below',
    # No two hashes are as near as this: whole numbers decide.
    limit=float(np.sqrt((_MOST_BITS + 0.6) / PDQ_BITS)),
    slow=True,
  )


def embeddings(
  value: str,
  generated: image_sets.ImageSet,
  held: Sequence[image_sets.ImageSet],
  rows: np.ndarray,
) -> Descriptor:
  """Embeddings that a user brings, compared by their cosine.

  Args:
    value: path of an npz with float arrays generated, training and, where there
      is one, holdout, [n, D]; in the order of the images' names, or with
      generated_names and so on [n], in any, which sets with sub-folders need.
    generated: the samples.
    held: the sets that examples come from.
    rows: int [N] of each example in all of these.

  Raises:
    InputError: naming the array, and what is wrong with it.
  """
  key = 'second_opinion.embeddings'
  path = inputs.local(value, key)
  inputs.regular(path, key)
  arrays = npz.arrays(path, f'{key}: {inputs.name_of(path)}')
  found = []
  for images_of in (generated, *held):
    name = images_of.key
    if name not in arrays:
      raise inputs.InputError(
        f'{key}: {inputs.name_of(path)} has no array {name}'
      )
    found.append(_in_order(path, key, name, arrays, images_of))
  sizes = {array.shape[1] for array in found}
  if len(sizes) > 1:
    raise inputs.InputError(
      f'{key}: {inputs.name_of(path)}: embeddings have {sorted(sizes)} numbers'
    )
  (size,) = sizes
  samples, examples = found[0], np.concatenate(found[1:])[rows]
  return Descriptor(
    name='embeddings',
    describe=lambda which, wanted: (
      (samples, examples)[which][wanted],
      np.ones(len(wanted), bool),
    ),
    in_units=lambda distance: 1.0 - 2.0 * size * np.square(distance),
    unit='cosine similarity',
    nearer='above',
    same=_SAME / (2.0 * np.sqrt(size)),
  )


def _in_order(
  path: pathlib.Path,
  key: str,
  name: str,
  arrays: dict[str, np.ndarray],
  images_of: image_sets.ImageSet,
) -> np.ndarray:
  """Embeddings of a set, of length 1 and scaled into [0, 1]."""
  where = f'{key}: {inputs.name_of(path)}: {name}'
  array, names = arrays[name], arrays.get(f'{name}_names')
  if array.ndim != 2 or array.dtype.kind != 'f' or not array.shape[1]:
    raise inputs.InputError(
      f'{where} is {array.dtype} {array.shape}, not float [n, D]'
    )
  if names is not None:
    with inputs.reading(f'{where}_names', 'no names'):
      place = {
        inputs.name_of(str(image)): row
        for row, image in enumerate(names.ravel())
      }
    wanted = [inputs.name_of(image) for image in images_of.names]
    lacking = [image for image in wanted if image not in place]
    if len(place) != len(array) or lacking:
      said = inputs.one_line(lacking[0], 80) if lacking else 'a name twice'
      raise inputs.InputError(f'{where}_names: lacks {said}')
    array = array[[place[image] for image in wanted]]
  elif images_of.named and any('/' in image for image in images_of.names):
    raise inputs.InputError(
      f'{where} needs {name}_names beside it: programs list sub-folders and '
      'shards in different orders'
    )
  elif len(array) != len(images_of):
    raise inputs.InputError(
      f'{where} has {len(array)} rows for {len(images_of)} images; with '
      f'{name}_names beside it rows may be any'
    )
  length = np.sqrt(np.einsum('ij,ij->i', array, array, dtype=np.float64))
  if not np.isfinite(length).all() or not length.all():
    raise inputs.InputError(f'{where} has a row of zeros, or not finite')
  out = np.empty(array.shape, np.float32)
  np.divide(array, length[:, None], out=out, casting='unsafe')
  out += 1.0
  out *= 0.5
  return np.clip(out, 0.0, 1.0, out=out)
