"""Nets of a text-to-image pipeline's folder, each from a folder of its own.

Keys that old files lack have the defaults of diffusers and transformers, keys
that say nothing here are passed over by name, and every other is refused by
name. Weights are read one tensor at a time, when a part is asked for them.
"""

from collections.abc import Callable
import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff import inputs
from jaxdiff.interop import diffusers_weights, names, tensors, values
from jaxdiff.models.text_to_image import autoencoder, clip_text, unet
from jaxdiff.runtime import programs

# Of the free memory, what weights may take: little comes to them.
_WEIGHTS_SHARE = 0.9
# Latents that the denoiser of a file without `sample_size` is for.
_SAMPLE_SIZE = 64

_layers = values.whole(1, values.MOST_LAYERS)
_side = values.whole(1, values.MOST_SIDE)
_sides = values.several(_side)
# Transformer blocks of a U-Net at most; SDXL has 70.
_MOST_BLOCKS = 1024
# Whose activation the layers of both nets share.
_SILU = ('silu', 'swish')

_number = (values.real(-1e9, 1e9), 'a number')
_counts = (
  lambda x: values.count(x) or values.several(values.count)(x),
  'a whole number above 0, or one for each level',
)
_text = (values.word, 'a word')
_flag = (values.flag, 'true or false')
_count = (values.count, 'a whole number from 1 to 16384')

_UNET: values.Schema = {
  'sample_size': (
    lambda x: _side(x) or (_sides(x) and len(x) == 2),
    f'a whole number from 1 to {values.MOST_SIDE}, or two',
  ),
  'in_channels': _count,
  'out_channels': _count,
  'down_block_types': (values.words, 'words'),
  'up_block_types': (values.words, 'words'),
  'mid_block_type': _text,
  'block_out_channels': (values.several(values.count), 'whole numbers'),
  'layers_per_block': (values.whole(1, values.MOST_LAYERS), 'a whole number'),
  'downsample_padding': (values.whole(0, 1), '0 or 1'),
  'act_fn': _text,
  'norm_num_groups': _count,
  'norm_eps': (values.real(1e-12, 1.0), 'a number above 0'),
  'cross_attention_dim': _count,
  'transformer_layers_per_block': (
    lambda x: _layers(x) or values.several(_layers)(x),
    f'a whole number up to {values.MOST_LAYERS}, or one for each level',
  ),
  'attention_head_dim': _counts,
  'use_linear_projection': _flag,
  'upcast_attention': _flag,
  'addition_embed_type': (values.optional(values.word), 'a word'),
  'addition_time_embed_dim': (values.optional(values.count), 'a whole number'),
  'projection_class_embeddings_input_dim': (
    values.optional(values.count),
    'a whole number',
  ),
  'flip_sin_to_cos': _flag,
  'freq_shift': _number,
}
# What must be as diffusers has it by itself.
_UNET_FIXED: dict[str, Any] = {
  'center_input_sample': False, 'mid_block_scale_factor': 1, 'dropout': 0.0,
  'only_cross_attention': False, 'dual_cross_attention': False,
  'num_attention_heads': None, 'class_embed_type': None,
  'num_class_embeds': None, 'resnet_time_scale_shift': 'default',
  'resnet_skip_time_act': False, 'resnet_out_scale_factor': 1.0,
  'time_embedding_type': 'positional', 'time_embedding_dim': None,
  'time_embedding_act_fn': None, 'timestep_post_act': None,
  'time_cond_proj_dim': None, 'conv_in_kernel': 3, 'conv_out_kernel': 3,
  'attention_type': 'default', 'class_embeddings_concat': False,
  'mid_block_only_cross_attention': None, 'cross_attention_norm': None,
  'encoder_hid_dim': None, 'encoder_hid_dim_type': None,
  'reverse_transformer_layers_per_block': None,
}  # fmt: skip
_UNET_PASSED = ('addition_embed_type_num_heads',)

_AUTOENCODER: values.Schema = {
  'in_channels': _count,
  'out_channels': _count,
  'down_block_types': (values.words, 'words'),
  'up_block_types': (values.words, 'words'),
  'block_out_channels': (values.several(values.count), 'whole numbers'),
  'layers_per_block': (values.whole(1, values.MOST_LAYERS), 'a whole number'),
  'act_fn': _text,
  'latent_channels': _count,
  'norm_num_groups': _count,
  'scaling_factor': (values.real(1e-6, 1e6), 'a number above 0'),
  'shift_factor': (values.optional(values.real(-1e6, 1e6)), 'a number'),
  'use_quant_conv': _flag,
  'use_post_quant_conv': _flag,
  'mid_block_add_attention': _flag,
}
_AUTOENCODER_DEFAULTS: dict[str, Any] = {
  'in_channels': 3, 'out_channels': 3, 'layers_per_block': 1,
  'block_out_channels': (64,), 'down_block_types': ('DownEncoderBlock2D',),
  'up_block_types': ('UpDecoderBlock2D',), 'scaling_factor': 0.18215,
  'shift_factor': None,
}  # fmt: skip
_AUTOENCODER_FIXED: dict[str, Any] = {'latents_mean': None, 'latents_std': None}
_AUTOENCODER_PASSED = ('sample_size', 'force_upcast')

_TEXT: values.Schema = {
  'vocab_size': (values.whole(1, 2**20), 'a whole number'),
  'hidden_size': _count,
  'intermediate_size': (values.whole(1, 2**18), 'a whole number'),
  'num_hidden_layers': (values.whole(2, 256), 'a whole number from 2 to 256'),
  'num_attention_heads': _count,
  'max_position_embeddings': (values.whole(3, 4096), 'a whole number above 2'),
  'hidden_act': _text,
  'layer_norm_eps': (values.real(1e-12, 1.0), 'a number above 0'),
  'projection_dim': (values.optional(values.count), 'a whole number'),
  'eos_token_id': (values.whole(0, 2**20), 'a whole number'),
}
_TEXT_DEFAULTS: dict[str, Any] = {
  'hidden_size': 512, 'intermediate_size': 2048, 'projection_dim': 512,
  'num_attention_heads': 8, 'eos_token_id': 49_407,
}  # fmt: skip
# Of training, of other tasks, and of other programs.
_TEXT_PASSED = (
  'architectures', 'model_type', 'torch_dtype', 'dtype', 'transformers_version',
  'attention_dropout', 'dropout', 'initializer_factor', 'initializer_range',
  'bos_token_id', 'pad_token_id', 'output_hidden_states', 'return_dict',
  'output_attentions', 'chunk_size_feed_forward', 'is_encoder_decoder',
  'id2label', 'label2id', 'problem_type', 'gradient_checkpointing',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Part:
  """A net of a pipeline.

  Attributes:
    net: ours.
    like: shapes of its parameters.
    weights: its tensors by diffusers' names of today, read when asked for.
    source: the folder, for errors.
  """

  net: Any
  like: Any
  weights: tensors.Shaped
  source: str

  @property
  def shapes(self) -> Any:
    """What `params` has, as `jax.ShapeDtypeStruct` of float32."""
    return {'params': self.like}

  def params(
    self,
    place: Callable[[np.ndarray], Any] = lambda leaf: leaf,
    itemsize: int = 4,
  ) -> Any:
    """Its parameters, float32, as `net.apply` takes them.

    Args:
      place: what is kept of a leaf: puts it on devices, say, so that the host
        never holds them all.
      itemsize: bytes of a number that the host keeps.

    Raises:
      InputError: naming the first tensor that is broken; or if there is not
        enough memory.
    """
    numbers = programs.numbers_of(self.like)
    inputs.check_size(self.source, itemsize * numbers, _WEIGHTS_SHARE)
    return {'params': names.fill(self.like, self.weights, place)}


def _class_of(path: pathlib.Path, known: tuple[str, ...]) -> str:
  config = values.read_json(path, values.PART)
  kind = config.get('_class_name', known[0])
  values.one_of(path, '_class_name', kind, known)
  return kind


def _own(net: Any, config: dict[str, Any]) -> Any:
  """A net of those keys that are attributes of ours."""
  fields = {field.name for field in dataclasses.fields(net)}
  return net(**{k: v for k, v in config.items() if k in fields})


def _part(
  net: Any,
  like: Any,
  found: tensors.Tensors,
  renamed: dict[str, str],
  folder: pathlib.Path,
) -> Part:
  """A part whose tensors are those of its net, by the headers of its files."""
  source = inputs.name_of(folder)
  weights = tensors.Renamed(found, renamed, source)
  names.check(like, {name: weights.shape(name) for name in weights}, source)
  return Part(net, like, weights, source)


def read_unet(folder: pathlib.Path, width: int) -> tuple[Part, tuple[int, int]]:
  """`UNet2DConditionModel` of a folder, for tokens of `width` numbers.

  Returns:
    The net, and height and width of the latents that it was trained on.
  """
  path = folder / 'config.json'
  _class_of(path, ('UNet2DConditionModel',))
  config = values.read_config(path, _UNET, _UNET_FIXED, _UNET_PASSED)
  for key, known in (
    ('mid_block_type', unet.MID_BLOCKS),
    ('addition_embed_type', unet.ADDITIONS),
    ('act_fn', _SILU),
  ):
    if key in config:
      values.one_of(path, key, config[key], known)
  wanted = config.get('cross_attention_dim', 1280)
  if wanted != width:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: cross_attention_dim is {wanted}; the text '
      f'encoders make {width} numbers a token'
    )
  net = _own(unet.ConditionalUNet, config)
  levels = len(net.block_out_channels)
  depths = unet.per_level(net.transformer_layers_per_block, levels)
  if sum(depths) * (2 * net.layers_per_block + 1) > _MOST_BLOCKS:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: transformer_layers_per_block makes more than '
      f'{_MOST_BLOCKS} blocks'
    )
  for key in ('attention_head_dim', 'transformer_layers_per_block'):
    if len(unet.per_level(getattr(net, key), levels)) != levels:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {key} has not one number for each of the '
        f'{levels} block_out_channels'
      )
  side = 2 ** (levels - 1)
  array = jax.ShapeDtypeStruct
  cond = {'tokens': array((1, 1, width), jnp.float32)}
  if net.addition_embed_type is not None:
    sizes = 6 * (net.addition_time_embed_dim or 0)
    pooled = config.get('projection_class_embeddings_input_dim', 0) - sizes
    if not sizes or pooled <= 0:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: projection_class_embeddings_input_dim must '
        'be more than 6 addition_time_embed_dim'
      )
    cond['pooled'] = array((1, pooled), jnp.float32)
    cond['time_ids'] = array((1, 6), jnp.float32)
  with inputs.reading(path, 'is of no U-Net'):
    like = jax.eval_shape(
      net.init,
      jax.random.key(0),
      array((1, side, side, config.get('in_channels', 4)), jnp.float32),
      array((1,), jnp.int32),
      cond,
    )['params']
  found = tensors.of_component(folder, 'diffusion_pytorch_model')
  part = _part(net, like, found, {name: name for name in found}, folder)
  size = config.get('sample_size', _SAMPLE_SIZE)
  height, width = size if isinstance(size, tuple) else (size, size)
  return part, (height, width)


def read_autoencoder(folder: pathlib.Path) -> tuple[Part, float, float]:
  """`AutoencoderKL` of a folder, its scaling and its shift."""
  path = folder / 'config.json'
  _class_of(path, ('AutoencoderKL',))
  config = _AUTOENCODER_DEFAULTS | values.read_config(
    path, _AUTOENCODER, _AUTOENCODER_FIXED, _AUTOENCODER_PASSED
  )
  levels = len(config['block_out_channels'])
  for key, known in (
    ('down_block_types', autoencoder.DOWN_BLOCKS),
    ('up_block_types', autoencoder.UP_BLOCKS),
  ):
    if len(config[key]) != levels:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: {key} has not one word for each of the '
        f'{levels} block_out_channels'
      )
    for kind in config[key]:
      values.one_of(path, key, kind, known)
  if 'act_fn' in config:
    values.one_of(path, 'act_fn', config['act_fn'], _SILU)
  net = _own(autoencoder.Autoencoder, config)
  side = 2 ** (levels - 1)
  shape = (1, side, side, config['in_channels'])
  with inputs.reading(path, 'is of no autoencoder'):
    like = jax.eval_shape(
      net.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32)
    )['params']
  found = tensors.of_component(folder, 'diffusion_pytorch_model')
  renamed = {name: diffusers_weights.modern(name) for name in found}
  part = _part(net, like, found, renamed, folder)
  return part, config['scaling_factor'], config['shift_factor'] or 0.0


def read_text_encoder(folder: pathlib.Path) -> Part:
  """`CLIPTextModel`, with or without projection, of a folder."""
  path = folder / 'config.json'
  listed = values.read_json(path, values.PART).get('architectures')
  kinds = listed if isinstance(listed, list) and listed else ['CLIPTextModel']
  known = ('CLIPTextModel', 'CLIPTextModelWithProjection')
  values.one_of(path, 'architectures', kinds[0], known)
  config = _TEXT_DEFAULTS | values.read_config(path, _TEXT, {}, _TEXT_PASSED)
  if kinds[0] == known[0]:
    config['projection_dim'] = None
  if 'hidden_act' in config:
    values.one_of(
      path, 'hidden_act', config['hidden_act'], clip_text.ACTIVATIONS
    )
  net = _own(clip_text.TextEncoder, config)
  with inputs.reading(path, 'is of no text encoder'):
    like = jax.eval_shape(
      net.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 3), jnp.int32)
    )['params']
  found = tensors.of_component(folder, 'model')
  # transformers 5 leaves the prefix out; positions are numbers of old files.
  kept = {
    name: name.removeprefix('text_model.')
    for name in found
    if not name.endswith('position_ids')
  }
  return _part(net, like, found, kept, folder)
