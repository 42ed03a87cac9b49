"""Arrays of an npz, none of them unpickled."""

from collections.abc import Callable, Iterable
import io
import pathlib
from typing import BinaryIO
import zipfile

import numpy as np

from jaxdiff import inputs


def arrays(
  file: pathlib.Path | BinaryIO,
  what: object,
  choose: Callable[[list[str]], Iterable[str]] = lambda members: members,
) -> dict[str, np.ndarray]:
  """Arrays by their names.

  Args:
    file: the npz.
    what: it is, for errors.
    choose: names of all members, NAME.npy -> those that are wanted.

  Raises:
    InputError: if it is torn, larger than the memory, holds a name twice or
      Python objects.
  """
  with (
    inputs.reading(what, 'no whole npz of arrays'),
    zipfile.ZipFile(file) as archive,
  ):
    inputs.check_size(what, sum(x.file_size for x in archive.infolist()))
    members = archive.namelist()
    if len(set(members)) < len(members):
      raise ValueError('a member is there twice')
    return {
      member.removesuffix('.npy'): np.lib.format.read_array(
        io.BytesIO(archive.read(member)),  # checked by its CRC
        allow_pickle=False,
      )
      for member in choose(members)
    }
