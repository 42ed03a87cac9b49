"""Training figures up to a checkpoint, in a file that says if it is whole."""

import hashlib
import io

from etils import epath
import pandas as pd

from jaxdiff import inputs
from jaxdiff.runs import files

# The first line of a part of the metrics: the SHA-256 of the rest.
_SEAL = b'# sha256 '


def write_part(path: epath.Path, part: pd.DataFrame) -> None:
  """Figures up to a checkpoint, as CSV under a line with its digest."""
  body = part.to_csv(index=False, float_format='%.9g').encode()
  seal = _SEAL + hashlib.sha256(body).hexdigest().encode() + b'\n'
  files.write(path, seal + body)


def read_part(path: epath.Path) -> pd.DataFrame:
  """What `write_part` wrote.

  Raises:
    InputError: if it is damaged: it can be made again by training alone.
  """
  with inputs.reading(path):
    seal, _, body = path.read_bytes().partition(b'\n')
  if seal != _SEAL + hashlib.sha256(body).hexdigest().encode():
    raise inputs.InputError(
      f'{path} is damaged (SHA-256 differs): restore it, or remove '
      f'{path.parent.parent} to train these models again'
    )
  return pd.read_csv(io.BytesIO(body))
