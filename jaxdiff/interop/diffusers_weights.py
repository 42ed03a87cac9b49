"""Weights of a UNet2DModel: names and layouts of diffusers, and of Flax."""

from collections.abc import Mapping
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import inputs
from jaxdiff.interop import names, tensors
from jaxdiff.models import unet

WEIGHTS = 'diffusion_pytorch_model.safetensors'

# Names of attention layers before diffusers 0.12.
_LEGACY = {
  'query': 'to_q', 'key': 'to_k', 'value': 'to_v', 'proj_attn': 'to_out.0',
}  # fmt: skip

EMA_KEYS = (
  'decay', 'inv_gamma', 'min_decay', 'optimization_step', 'power',
  'update_after_step', 'use_ema_warmup',
)  # fmt: skip


def to_state_dict(params: Any) -> dict[str, np.ndarray]:
  """Our parameters under diffusers' names and in its layout."""
  state = {}
  for path, leaf in names.leaves_of(params['params'])[0]:
    axes = names.axes_of(path, leaf.ndim)
    leaf = np.asarray(leaf, np.float32).transpose(axes)
    state[names.key_of(path)] = np.ascontiguousarray(leaf)
  return state


def from_state_dict(
  state: Mapping[str, np.ndarray],
  net: unet.UNet,
  image_shape: tuple[int, int, int],
  source: str = 'weights',
) -> Any:
  """diffusers' weights as parameters of `net`, float32.

  Args:
    state: by diffusers' names, today's or those before version 0.12.
    net: whose parameters they are.
    image_shape: (H, W, C).
    source: named in errors.

  Raises:
    InputError: naming the first tensor that is missing, left over or of
      another shape.
  """
  state = {modern(key): value for key, value in state.items()}
  with inputs.reading(source, 'its config.json is of no U-Net'):
    like = _abstract(net, image_shape)
  found = {key: value.shape for key, value in state.items()}
  names.check(like, found, source)
  return {'params': names.fill(like, state)}


def shapes(
  net: unet.UNet, image_shape: tuple[int, int, int]
) -> dict[str, tuple[int, ...]]:
  """Every tensor of a net's safetensors file, by diffusers' name."""
  return names.shapes(_abstract(net, image_shape))


def _abstract(net: unet.UNet, image_shape: tuple[int, int, int]) -> Any:
  """Shapes of all parameters."""
  x = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
  number = jax.ShapeDtypeStruct((1,), jnp.int32)
  conditional = net.num_class_embeds is not None or net.class_embed_type
  return jax.eval_shape(
    net.init, jax.random.key(0), x, number, number if conditional else None
  )['params']


def modern(key: str) -> str:
  """A tensor's name of today."""
  *path, leaf = key.split('.')
  if path and path[-1] in _LEGACY and 'attentions' in path:
    path[-1] = _LEGACY[path[-1]]
  return '.'.join([*path, leaf])


def read_weights(
  path: pathlib.Path, net: unet.UNet, image_shape: tuple[int, int, int]
) -> Any:
  """Parameters of a net, from a safetensors file."""
  if not os.path.lexists(path):
    raise inputs.InputError(
      f'no {inputs.name_of(path)}: weights are read from safetensors alone (in '
      'diffusers: save_pretrained(folder, safe_serialization=True))'
    )
  return from_state_dict(read_safetensors(path), net, image_shape, str(path))


def read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
  """All tensors of a file as float32; bfloat16 and half precision are widened.

  Raises:
    InputError: if it is not whole, or holds what is no finite float.
  """
  inputs.check_size(path, 3 * inputs.regular(path))
  return dict(tensors.Tensors([path]))
