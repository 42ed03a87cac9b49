"""What a user measured: scores or signals, and who trained on what."""

import dataclasses
import hashlib
import io
import pathlib

import numpy as np

from jaxdiff import inputs


@dataclasses.dataclass(frozen=True)
class Column:
  """One signal.

  Attributes:
    name: of the signal or attack.
    values: float64 [K, N, Q], smaller for members; NaN where there is none.
    final: whether it is an attack's verdict already, to be ranked as it is.
  """

  name: str
  values: np.ndarray
  final: bool


@dataclasses.dataclass(frozen=True)
class ScoreSet:
  """What a user measured.

  Attributes:
    keep: bool [K, N], which model trained on which example.
    columns: the signals.
    examples: [N] names of the examples.
    models: [K] names of the models.
    layout: where it comes from, in words.
    digest: SHA-256 of all files that were read.
  """

  keep: np.ndarray
  columns: tuple[Column, ...]
  examples: tuple[str, ...]
  models: tuple[str, ...]
  layout: str
  digest: str


class Files:
  """Reads files, and remembers what was in them."""

  def __init__(self) -> None:
    self._digest = hashlib.sha256()

  def read(self, path: pathlib.Path, most: int | None = None) -> bytes:
    content = inputs.read_bytes(path, most)
    self._digest.update(hashlib.sha256(content).digest())
    return content

  def array(self, path: pathlib.Path) -> np.ndarray:
    """An .npy."""
    content = self.read(path)
    with inputs.reading(path, 'no whole array'):
      return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)

  def digest(self) -> str:
    return self._digest.hexdigest()


def numbers(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """Scores of any kind of number as float64; a file without them is refused."""
  if values.dtype.kind not in 'fiu':
    raise inputs.InputError(
      f'{inputs.name_of(path)}: {values.dtype} are no scores; save them as '
      'numbers'
    )
  return values.astype(np.float64)


def finite(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  """The same scores; InputError if there is none, or one that is not finite."""
  if not values.size:
    raise inputs.InputError(f'{inputs.name_of(path)}: holds no score')
  bad = int((~np.isfinite(values)).sum())
  if bad:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: {bad} of {values.size} scores are no finite '
      'number; leave them out, or score them'
    )
  return values
