"""Low-rank adapters (Hu et al. 2022) of a pipeline, added to its weights.

    W + weight alpha / rank  up down

Files are safetensors under the names of diffusers (and peft), or of kohya's
trainers; those of other adapters (DoRA, LoHa, LoKr) are refused by name.
"""

from collections.abc import Callable, Iterator
import dataclasses
import json
import math
import pathlib
import re
from typing import Any, NamedTuple

import numpy as np
import safetensors

from jaxdiff import inputs
from jaxdiff.interop import pipeline, pipeline_parts, tensors

# Of a module, the two factors, by the ends of their names.
_DOWN = ('lora_A.weight', 'lora_down.weight', 'lora.down.weight',
         'lora_linear_layer.down.weight', 'lora_A.default.weight',
         'down.weight')  # fmt: skip
_UP = ('lora_B.weight', 'lora_up.weight', 'lora.up.weight',
       'lora_linear_layer.up.weight', 'lora_B.default.weight',
       'up.weight')  # fmt: skip
_ALPHA = ('alpha', 'lora.alpha')
# Beginnings of kohya's names, and the parts that they are of.
_KOHYA = {
  'lora_unet_': 'unet', 'lora_te_': 'text_encoder', 'lora_te1_': 'text_encoder',
  'lora_te2_': 'text_encoder_2',
}  # fmt: skip
_PARTS = ('unet', 'text_encoder', 'text_encoder_2')
# XL's blocks in the names of its first trainer; of attention alone.
_BLOCKS = re.compile(r'^(input|middle|output)_blocks?_(\d+)_(?:1_)?(.*)$')
_MOST_RANK = 4096
# That a product of factors is multiplied by.
_MOST_SCALE = 1e6


class _Factors(NamedTuple):
  """Of a module: names of its tensors in the file, and its alpha."""

  down: str
  up: str
  alpha: float | None


class Adapted(tensors.Shaped):
  """Tensors with what adapters add to some of them."""

  def __init__(
    self,
    base: tensors.Shaped,
    added: dict[str, Callable[[np.ndarray], np.ndarray]],
  ):
    self._base, self._added = base, added

  def __iter__(self) -> Iterator[str]:
    return iter(self._base)

  def __len__(self) -> int:
    return len(self._base)

  def __getitem__(self, name: str) -> np.ndarray:
    value = self._base[name]
    return self._added[name](value) if name in self._added else value

  def shape(self, name: str) -> tuple[int, ...]:
    """Of the tensor without what is added, which has the same."""
    return self._base.shape(name)


def parse(value: str) -> list[tuple[str, float]]:
  """'a.safetensors, b.safetensors*0.5' -> files and their weights.

  Raises:
    InputError: for a weight that is no number.
  """
  out = []
  for each in filter(None, (x.strip() for x in value.split(','))):
    path, star, weight = each.rpartition('*')
    try:
      number = float(weight) if star else 1.0
    except ValueError:
      number = math.nan
    if not math.isfinite(number):
      raise inputs.InputError(
        f'lora: {inputs.one_line(each, 80)}: a file, or a file, * and a number'
      )
    out.append((path if star else each, number))
  return out


def digests(value: str) -> dict[str, str]:
  """SHA-256 and weight of each file."""
  return {
    f'lora {number}': f'{inputs.digest(inputs.local(path, "lora"))} {weight!r}'
    for number, (path, weight) in enumerate(parse(value), 1)
  }


def adapt(model: pipeline.Pipeline, value: str) -> pipeline.Pipeline:
  """The pipeline with adapters in its weights.

  Args:
    model: as it was read.
    value: as of `parse`.

  Raises:
    InputError: naming the file, and the tensor that has no place.
  """
  parts = model.parts
  for path, weight in parse(value):
    parts = _adapted(parts, inputs.local(path, 'lora'), weight)
  texts = tuple(x for name, x in parts.items() if name.startswith('text_'))
  return dataclasses.replace(model, denoiser=parts['unet'], text_encoders=texts)


def _adapted(
  parts: dict[str, pipeline_parts.Part], path: pathlib.Path, weight: float
) -> dict[str, pipeline_parts.Part]:
  held = tensors.Tensors([path])
  scales = _Scales(path)
  added: dict[str, dict[str, Callable]] = {name: {} for name in parts}
  known = {
    name: {
      key.removesuffix('.weight').replace('.', '_'): key
      for key in part.weights
      if key.endswith('.weight')
    }
    for name, part in parts.items()
  }
  for module, factors in _modules(path, held).items():
    shown = _shown(path, module)
    place = _place(module)
    name, flat = place if place else ('', '')
    key = known.get(name, {}).get(flat)
    if key is None:
      raise inputs.InputError(f'{shown} is no module of this pipeline')
    shape = parts[name].weights.shape(key)
    down, up = held.shape(factors.down), held.shape(factors.up)
    rank = down[0] if down else 0
    if (
      not 0 < rank <= _MOST_RANK
      or len(up) < 2
      or up[1] != rank
      or up[0] != shape[0]
      or math.prod(up) != up[0] * rank
      or math.prod(down[1:]) != math.prod(shape[1:])
    ):
      raise inputs.InputError(
        f'{shown} has factors {up} and {down}, for a weight {shape}'
      )
    scale = weight * scales.of(module, rank, factors.alpha)
    if not math.isfinite(scale) or abs(scale) > _MOST_SCALE:
      raise inputs.InputError(f'{shown} is to be multiplied by {scale}')
    if key in added[name]:
      raise inputs.InputError(f'{shown} is there under another name, too')

    def add(base, down=factors.down, up=factors.up, scale=scale, rank=rank):
      product = held[up].reshape(-1, rank) @ held[down].reshape(rank, -1)
      return base + np.float32(scale) * product.reshape(base.shape)

    added[name][key] = add
  return {
    name: dataclasses.replace(part, weights=Adapted(part.weights, added[name]))
    for name, part in parts.items()
  }


def _modules(path: pathlib.Path, held: tensors.Tensors) -> dict[str, _Factors]:
  """Factors of each module of a file, by its name there."""
  found: dict[str, dict[str, str]] = {}
  for key in held:
    for kind, ends in (('down', _DOWN), ('up', _UP), ('alpha', _ALPHA)):
      end = next((x for x in ends if key.endswith(f'.{x}')), None)
      if end is not None:
        module = found.setdefault(key.removesuffix(f'.{end}'), {})
        if kind in module:
          raise inputs.InputError(
            f'{inputs.name_of(path)}: {inputs.one_line(repr(key), 120)} and '
            f'{inputs.one_line(repr(module[kind]), 120)} are the same factor'
          )
        module[kind] = key
        break
    else:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {inputs.one_line(repr(key), 120)} is no part '
        'of a LoRA (DoRA, LoHa and LoKr are not read)'
      )
  out = {}
  for module, keys in found.items():
    shown = _shown(path, module)
    if 'down' not in keys or 'up' not in keys:
      raise inputs.InputError(f'{shown} lacks one of its two factors')
    alpha = None
    if 'alpha' in keys:
      with inputs.reading(shown, 'its alpha is no number'):
        alpha = float(held[keys['alpha']].item())
    out[module] = _Factors(keys['down'], keys['up'], alpha)
  if not out:
    raise inputs.InputError(f'{inputs.name_of(path)}: holds no LoRA')
  return out


def _shown(path: pathlib.Path, name: str) -> str:
  return f'{inputs.name_of(path)}: {inputs.one_line(repr(name), 120)}'


def _place(module: str) -> tuple[str, str] | None:
  """The part that a module is of, and its name there with '_' for '.'."""
  for start, part in _KOHYA.items():
    if module.startswith(start):
      name = module.removeprefix(start)
      blocks = _BLOCKS.match(name)
      if part == 'unet' and blocks:
        name = _modern(blocks)
      return part, name.removeprefix('text_model_')
  for part in _PARTS:
    if module.startswith(f'{part}.'):
      name = module.removeprefix(f'{part}.')
      # Older names: processors beside the modules that they change.
      name = re.sub(r'\.processor\.(to_\w+)_lora$', r'.\1', name)
      name = re.sub(r'\.to_out$', '.to_out.0', name)
      return part, name.removeprefix('text_model.').replace('.', '_')
  return None


def _modern(blocks: re.Match[str]) -> str:
  """'input_blocks_4_1_x' -> 'down_blocks_1_attentions_0_x'."""
  side, number, rest = blocks[1], int(blocks[2]), blocks[3]
  if side == 'middle':
    return f'mid_block_attentions_0_{rest}'
  if side == 'input':
    level, layer = divmod(number - 1, 3)
    return f'down_blocks_{level}_attentions_{layer}_{rest}'
  level, layer = divmod(number, 3)
  return f'up_blocks_{level}_attentions_{layer}_{rest}'


class _Scales:
  """alpha / rank of modules, where a file's metadata says it."""

  def __init__(self, path: pathlib.Path):
    with (
      inputs.reading(path, 'no whole safetensors'),
      safetensors.safe_open(path, 'np') as file,
    ):
      metadata = file.metadata() or {}
    self._told: dict[str, Any] = {}
    if 'lora_adapter_metadata' in metadata:
      with inputs.reading(path, 'lora_adapter_metadata is none'):
        self._told = json.loads(metadata['lora_adapter_metadata'])
        for key, value in self._told.items():
          if key.endswith('alpha_pattern') and value is not None:
            self._told[key] = {k: float(v) for k, v in value.items()}
          elif key.endswith('lora_alpha') and value is not None:
            self._told[key] = float(value)
    for key, value in self._told.items():
      if key.endswith('use_dora') and value:
        raise inputs.InputError(
          f'{inputs.name_of(path)}: is a DoRA, which is not read'
        )

  def of(self, module: str, rank: int, alpha: float | None) -> float:
    """What a product of factors is multiplied by."""
    part, _, name = module.partition('.')
    if alpha is None:
      alpha = self._told.get(f'{part}.lora_alpha')
      pattern = self._told.get(f'{part}.alpha_pattern') or {}
      alpha = next(
        (
          value
          for key, value in pattern.items()
          if name == key or name.endswith(f'.{key}')
        ),
        alpha,
      )
    if alpha is None:
      return 1.0
    root = self._told.get(f'{part}.use_rslora')
    return float(alpha) / (math.sqrt(rank) if root else rank)
