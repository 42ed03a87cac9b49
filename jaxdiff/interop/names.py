"""Parameters of our nets under the names of diffusers and transformers.

Modules of ours are called as theirs, with '_' for '.': the rules below undo it.
Kernels are transposed to torch's layout.
"""

from collections.abc import Callable, Mapping
from concurrent import futures
import os
import re
from typing import Any

import jax
import numpy as np

from jaxdiff import inputs

# Tensors that are read at once: of a large net, none is a tenth of all.
_THREADS = min(8, os.cpu_count() or 1)

# Parts of names that are modules of their own there.
_PARENTS = re.compile(r'^(mid_block|embeddings|encoder|self_attn|mlp)_')
# Names that end in a number and are no lists.
_SINGLE = ('linear_1', 'linear_2')


def key_of(path: tuple[str, ...]) -> str:
  """('mid_block_resnets_0', 'conv1', 'kernel') -> its name in diffusers."""
  *modules, leaf = path
  return '.'.join(
    [*map(_module, modules), 'bias' if leaf == 'bias' else 'weight']
  )


def _module(name: str) -> str:
  if name in _SINGLE:
    return name
  name = _PARENTS.sub(r'\1.', name)
  return re.sub(r'_(\d+)(_?)', lambda m: f'.{m[1]}{"." if m[2] else ""}', name)


def axes_of(path: tuple[str, ...], ndim: int) -> tuple[int, ...]:
  """The transposition of a leaf of ours to torch's layout."""
  if path[-1] != 'kernel':
    return tuple(range(ndim))
  return (3, 2, 0, 1) if ndim == 4 else (1, 0)


def leaves_of(params: Any) -> tuple[list[tuple[tuple[str, ...], Any]], Any]:
  """(path, leaf) of all parameters, and their tree."""
  leaves, tree = jax.tree_util.tree_flatten_with_path(params)
  return [
    (tuple(entry.key for entry in path), leaf) for path, leaf in leaves
  ], tree


def shapes(params: Any) -> dict[str, tuple[int, ...]]:
  """Every tensor of a net in torch's layout; `params` may be shapes alone."""
  return {
    key_of(path): tuple(leaf.shape[axis] for axis in axes_of(path, leaf.ndim))
    for path, leaf in leaves_of(params)[0]
  }


def check(like: Any, found: Mapping[str, tuple[int, ...]], source: str) -> None:
  """Raises InputError naming the first tensor that `fill` would refuse.

  Args:
    like: as of `fill`.
    found: shapes by name.
    source: named in errors.
  """
  want = shapes(like)
  for key in want:
    if key not in found:
      raise inputs.InputError(
        f'{source}: no tensor {key!r}, which its config.json asks for'
      )
    if squeezed(found[key], want[key]) != want[key]:
      raise inputs.InputError(
        f'{source}: {key!r} has shape {found[key]}; config.json asks for '
        f'{want[key]}'
      )
  left = set(found) - set(want)
  if left:
    raise inputs.InputError(
      f'{source}: {len(left)} tensors that its config.json knows nothing of, '
      f'like {inputs.one_line(repr(min(left)), 80)}'
    )


def squeezed(shape: tuple[int, ...], want: tuple[int, ...]) -> tuple[int, ...]:
  """A shape without the 1 x 1 of old attention's convolutions."""
  if len(shape) == 4 and len(want) == 2 and shape[2:] == (1, 1):
    return shape[:2]
  return shape


def fill(
  like: Any,
  state: Mapping[str, np.ndarray],
  place: Callable[[np.ndarray], Any] = lambda leaf: leaf,
) -> Any:
  """Parameters of the shapes of `like`, float32, from tensors by their names.

  Args:
    like: a tree of arrays or of their shapes.
    state: is asked for a tensor by each thread; `check` has passed.
    place: what is kept of a leaf, by that thread.
  """
  leaves, tree = leaves_of(like)

  def read(named: tuple[tuple[str, ...], Any]) -> Any:
    path, leaf = named
    axes, value = axes_of(path, leaf.ndim), state[key_of(path)]
    want = tuple(leaf.shape[axis] for axis in axes)
    value = value.reshape(squeezed(value.shape, want))
    value = np.asarray(value, np.float32).transpose(np.argsort(axes))
    return place(np.ascontiguousarray(value))

  with futures.ThreadPoolExecutor(_THREADS) as pool:
    return jax.tree.unflatten(tree, pool.map(read, leaves))
