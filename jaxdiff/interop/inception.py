"""Weights of Inception-v3 for FID, from safetensors.

The file is the public `pt_inception-2015-12-05-6726825d.pth` of pytorch-fid,
with its names, written as safetensors by

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.tools.inception_weights FILE.pth FILE.safetensors
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets
from jaxdiff.interop import diffusers_weights
from jaxdiff.models import inception
from jaxdiff.runtime import progress

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


def make_features(params: Any) -> Callable[[np.ndarray], np.ndarray]:
  """uint8 [n, H, W, C] -> float32 [n, 2048], a batch at a time."""
  apply = jax.jit(
    lambda images: inception.Inception().apply(
      params, datasets.to_model_range(images)
    )
  )

  def features(images: np.ndarray) -> np.ndarray:
    parts = []
    with progress.track('inception', len(images), 'images') as advance:
      for start in range(0, len(images), _BATCH):
        rows = images[start : start + _BATCH]
        fill = ((0, _BATCH - len(rows)), (0, 0), (0, 0), (0, 0))
        parts.append(np.asarray(apply(np.pad(rows, fill)))[: len(rows)])
        advance(len(rows))
    return np.concatenate(parts)

  return features


def load(path: str) -> Callable[[np.ndarray], np.ndarray] | None:
  """`make_features` of a file; None for no path."""
  return make_features(read(path)) if path else None
