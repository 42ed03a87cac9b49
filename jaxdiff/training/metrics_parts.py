"""Training figures up to a checkpoint, in a file that says if it is whole."""

import hashlib
import io

from etils import epath
import pandas as pd

from jaxdiff import inputs
from jaxdiff.runs import files, layout

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


def read_all(
  block: layout.ModelBlock, steps: set[int], last: int | None = None
) -> pd.DataFrame:
  """All figures of a block.

  Args:
    block: whose parts.
    steps: that it has figures of.
    last: step of the last part that is read; None is all.

  Raises:
    InputError: if a part is missing or damaged.
  """
  parts = [
    read_part(path)
    for path in sorted(block.metrics.glob('*.csv'))
    if last is None or (path.stem.isdigit() and int(path.stem) <= last)
  ]
  # A run that was stopped before its first figure left an empty part.
  parts = [part for part in parts if len(part)]
  table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
  gone = steps - set(table['step']) if parts else steps
  if gone:
    raise inputs.InputError(
      f'{block.metrics} has no figures of step {min(gone)}: restore what was '
      f'there, or remove {block.path} to train these models again'
    )
  return table
