"""Tensors of a component's safetensors files, one at a time.

A component's weights lie in one file or in shards with an index, under the
plain name or that of a variant. What is asked for is read then: beside the
largest tensor nothing is held.
"""

import abc
from collections.abc import Iterator, Mapping
import contextlib
import json
import os
import pathlib
from typing import Any

from absl import logging
import numpy as np
import safetensors

from jaxdiff import inputs

# The first words of what Git has in place of a large file.
_POINTER = b'version https://git-lfs'
_VARIANTS = ('', '.fp16', '.bf16', '.non_ema')
_FLOATS = ('F64', 'F32', 'F16', 'BF16')
# Files that only unpickling reads.
_PICKLES = ('.bin', '.ckpt', '.pt', '.pth')
_MOST_INDEX = 2**26


class Shaped(Mapping[str, np.ndarray]):
  """float32 tensors by name, whose shapes are known before they are read."""

  @abc.abstractmethod
  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor."""


class Tensors(Shaped):
  """float32 tensors by name, read when asked for."""

  def __init__(self, files: list[pathlib.Path]):
    """Looks into every file's header.

    Raises:
      InputError: if one is not whole, or two have a tensor of the same name.
    """
    self._places: dict[str, pathlib.Path] = {}
    # Shape and type: a header is read once, not for each of its tensors.
    self._kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    for path in files:
      _check(path)
      with _opened(path) as file:
        for name in list(file.keys()):
          if name in self._places:
            raise inputs.InputError(
              f'{inputs.name_of(path)}: {inputs.one_line(repr(name))} is in '
              f'{inputs.name_of(self._places[name].name)} too'
            )
          found = file.get_slice(name)
          self._places[name] = path
          self._kinds[name] = tuple(found.get_shape()), found.get_dtype()

  def __iter__(self) -> Iterator[str]:
    return iter(self._places)

  def __len__(self) -> int:
    return len(self._places)

  def __getitem__(self, name: str) -> np.ndarray:
    path = self._places[name]
    self.shape(name)
    with _opened(path) as file:
      value = file.get_tensor(name)
    with np.errstate(over='ignore'):
      value = value.astype(np.float32)
    if not np.isfinite(value).all():
      raise inputs.InputError(
        f'{_shown(path, name)} holds numbers that are not finite'
      )
    return value

  def shape(self, name: str) -> tuple[int, ...]:
    """Of a tensor, from its file's header.

    Raises:
      InputError: if it is of no float.
    """
    shape, kind = self._kinds[name]
    if kind not in _FLOATS:
      raise inputs.InputError(
        f'{_shown(self._places[name], name)} is of {kind}; weights of '
        f'{", ".join(_FLOATS)} are read'
      )
    return shape


class Renamed(Shaped):
  """Tensors under other names; what has none is left out."""

  def __init__(self, tensors: Shaped, names: dict[str, str], source: str):
    """`names` are the new ones by the old.

    Raises:
      InputError: naming `source`, if two become one.
    """
    self._tensors = tensors
    self._old: dict[str, str] = {}
    for old, new in names.items():
      if new in self._old:
        raise inputs.InputError(
          f'{source}: {inputs.one_line(repr(old), 80)} and '
          f'{inputs.one_line(repr(self._old[new]), 80)} are the same tensor'
        )
      self._old[new] = old

  def shape(self, name: str) -> tuple[int, ...]:
    """As `Tensors.shape`."""
    return self._tensors.shape(self._old[name])

  def __iter__(self) -> Iterator[str]:
    return iter(self._old)

  def __len__(self) -> int:
    return len(self._old)

  def __getitem__(self, name: str) -> np.ndarray:
    return self._tensors[self._old[name]]


def of_component(folder: pathlib.Path, stem: str) -> Tensors:
  """The weights of a component.

  Args:
    folder: of the component.
    stem: of its files: `diffusion_pytorch_model` or `model`.

  Raises:
    InputError: if there are none but pickles, or what is there is broken.
  """
  for variant in _VARIANTS:
    whole = folder / f'{stem}{variant}.safetensors'
    if os.path.lexists(whole):
      if variant:
        logging.info('weights of a variant: %s', inputs.name_of(whole))
      return Tensors([whole])
    for index in (
      folder / f'{stem}.safetensors.index{variant}.json',
      folder / f'{stem}{variant}.safetensors.index.json',
    ):
      if os.path.lexists(index):
        return Tensors(_shards(index))
  pickled = sorted(
    each.name
    for each in (folder.iterdir() if folder.is_dir() else ())
    if each.suffix in _PICKLES
  )
  if pickled:
    raise inputs.InputError(
      f'{inputs.name_of(folder)}: {inputs.name_of(pickled[0])} is a pickle, '
      'which is not read: convert it (in diffusers: save_pretrained(folder, '
      'safe_serialization=True))'
    )
  raise inputs.InputError(f'no {inputs.name_of(folder / stem)}.safetensors')


def _shown(path: pathlib.Path, name: str) -> str:
  return f'{inputs.name_of(path)}: {inputs.one_line(repr(name), 80)}'


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
  content = inputs.read_bytes(index, _MOST_INDEX)
  with inputs.reading(index, 'no index of shards'):
    names = sorted(set(json.loads(content)['weight_map'].values()))
    plain = all(isinstance(x, str) and x == os.path.basename(x) for x in names)
  if not names or not plain:
    raise inputs.InputError(
      f'{inputs.name_of(index)}: names no files beside it'
    )
  return [index.parent / name for name in names]


@contextlib.contextmanager
def _opened(path: pathlib.Path) -> Iterator[Any]:
  with (
    inputs.reading(path, 'no whole safetensors'),
    safetensors.safe_open(path, 'np') as file,
  ):
    yield file


def _check(path: pathlib.Path) -> None:
  """Raises InputError for what is no regular file, or a pointer to one."""
  size = inputs.regular(path)
  if size < 1024:
    with path.open('rb') as file:
      if file.read(len(_POINTER)) == _POINTER:
        raise inputs.InputError(
          f'{inputs.name_of(path)}: is a pointer of Git LFS; run git lfs pull'
        )
