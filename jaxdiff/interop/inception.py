"""Weights of Inception-v3 for FID, from safetensors.

The file is the public `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid,
with its names, written as safetensors by

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.tools.inception_weights FILE.pth FILE.safetensors
"""

from collections.abc import Mapping, Sequence
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.interop import diffusers_weights
from jaxdiff.models import inception
from jaxdiff.runtime import compiling, programs, progress

_NORM_EPS = 1e-3
_BATCH = 32


def read(path: str) -> Any:
  """Parameters of `models.inception.Inception` from a safetensors file.

  Raises:
    InputError: naming the file and what it lacks.
  """
  file = inputs.local(path, 'quality.inception')
  inputs.regular(file, 'quality.inception')
  return fold(diffusers_weights.read_safetensors(file), path)


def fold(state: Mapping[str, np.ndarray], where: str) -> Any:
  """Parameters from pytorch-fid's names, batch norms folded in.

  Raises:
    InputError: if a weight is missing or of another shape.
  """
  net = inception.Inception()
  like = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 8, 8, 3)))

  def take(name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name not in state:
      raise inputs.InputError(f'quality.inception: {where} has no {name}')
    if state[name].shape != shape:
      raise inputs.InputError(
        f'quality.inception: {where}: {name} is {state[name].shape}, not '
        f'{shape}'
      )
    return np.asarray(state[name], np.float64)

  def layer(prefix: str, shapes: Mapping[str, Any]) -> dict[str, np.ndarray]:
    height, width, inside, out = shapes['kernel'].shape
    kernel = take(f'{prefix}.conv.weight', (out, inside, height, width))
    norm = {
      name: take(f'{prefix}.bn.{name}', (out,))
      for name in ('weight', 'bias', 'running_mean', 'running_var')
    }
    scale = norm['weight'] / np.sqrt(norm['running_var'] + _NORM_EPS)
    return {
      'kernel': (kernel.transpose(2, 3, 1, 0) * scale).astype(np.float32),
      'bias': (norm['bias'] - norm['running_mean'] * scale).astype(np.float32),
    }

  def walk(tree: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    return {
      name: (
        layer('.'.join(path), inner)
        if name == 'conv'
        else walk(inner, (*path, name))
      )
      for name, inner in tree.items()
    }

  return {'params': walk(like['params'], ())}


@functools.cache
def _features_on(mesh: Mesh, weights: int) -> Any:
  """(params of so many weights, uint8 images) -> features, jitted."""

  def features(params: Any, images: jax.Array) -> Any:
    net = inception.Inception()
    return net.apply(params, datasets.to_model_range(images))

  return jax.jit(features, compiler_options=compiling.options(mesh, weights))


def _first(devices: Sequence[jax.Device]) -> Mesh:
  return Mesh(np.array(devices[:1]), ('data',))


class Features:
  """uint8 [n, H, W, C] -> float32 [n, 2048], a batch at a time."""

  def __init__(self, params: Any):
    """`params` as `read` gives them."""
    self._params = jax.tree.map(jnp.asarray, params)
    self._weights = programs.numbers_of(params)

  def __call__(self, images: np.ndarray) -> np.ndarray:
    """Features of any number of images."""
    parts = []
    features = self._features(jax.local_devices())
    with progress.track('inception', len(images), 'images') as advance:
      for start in range(0, len(images), _BATCH):
        rows = images[start : start + _BATCH]
        fill = ((0, _BATCH - len(rows)), (0, 0), (0, 0), (0, 0))
        made = features(self._params, np.pad(rows, fill))
        parts.append(np.asarray(made)[: len(rows)])
        advance(len(rows))
    return np.concatenate(parts)

  def _features(self, devices: Sequence[jax.Device]) -> Any:
    return _features_on(_first(devices), self._weights)

  def program(
    self,
    sizes: Sequence[int],
    shape: tuple[int, int, int],
    devices: Sequence[jax.Device],
  ) -> programs.Program:
    """What calls compile.

    Args:
      sizes: images, call by call.
      shape: of one.
      devices: of the run, whose first computes.
    """
    mesh = _first(devices)
    args = (
      programs.like(mesh, PartitionSpec(), self._params),
      programs.array(mesh, PartitionSpec(), (_BATCH, *shape), np.uint8),
    )
    calls = sum(-(-size // _BATCH) for size in sizes)
    return programs.Program(
      'quality: Inception', self._features(devices), args, calls
    )


def load(path: str) -> Features | None:
  """`Features` by the weights of a file; None for no path."""
  return Features(read(path)) if path else None
