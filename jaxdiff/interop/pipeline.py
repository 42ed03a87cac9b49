"""Text-to-image pipelines in diffusers' layout, read without torch.

`model_index.json` names the parts; each lies in a folder of its own, and is
read as `pipeline_parts` says.
"""

import dataclasses
import hashlib

from jaxdiff import inputs
from jaxdiff.interop import clip_tokenizer, pipeline_parts, schedulers, values

# model_index.json's `_class_name`, and the text encoders that it has.
PIPELINES = {
  'StableDiffusionPipeline': 1,
  'StableDiffusionXLPipeline': 2,
}
_INDEX = 'a pipeline folder holds model_index.json'
# What of a folder is read.
_FOLDERS = ('tokenizer', 'tokenizer_2', 'text_encoder', 'text_encoder_2',
            'unet', 'vae', 'scheduler')  # fmt: skip
_SUFFIXES = ('.json', '.txt', '.safetensors')


@dataclasses.dataclass(frozen=True)
class Pipeline:
  """What a folder holds.

  Attributes:
    kind: its `_class_name`.
    tokenizers: one for each text encoder.
    text_encoders: CLIP's.
    denoiser: the U-Net.
    autoencoder: between images and latents.
    scaling_factor: of latents, equation (1) of `autoencoder`.
    shift_factor: likewise.
    scheduler: how it is sampled.
    zeros_for_empty: a text of no words is zeros, not its encoding.
    sample_size: height and width of latents that it was trained on.
  """

  kind: str
  tokenizers: tuple[clip_tokenizer.ClipTokenizer, ...]
  text_encoders: tuple[pipeline_parts.Part, ...]
  denoiser: pipeline_parts.Part
  autoencoder: pipeline_parts.Part
  scaling_factor: float
  shift_factor: float
  scheduler: schedulers.Scheduler
  zeros_for_empty: bool
  sample_size: tuple[int, int]

  @property
  def scale(self) -> int:
    """Pixels along a side of a latent's."""
    return 2 ** (len(self.autoencoder.net.block_out_channels) - 1)

  @property
  def parts(self) -> dict[str, pipeline_parts.Part]:
    """Every net by the name of its folder."""
    texts = {
      f'text_encoder{"" if number == 1 else f"_{number}"}': part
      for number, part in enumerate(self.text_encoders, 1)
    }
    return texts | {'unet': self.denoiser, 'vae': self.autoencoder}


def digest(folder: str, key: str = 'model') -> str:
  """SHA-256 over names and content of all JSON, text and safetensors files.

  Raises:
    InputError: if one cannot be read.
  """
  root = inputs.local(folder, key)
  found = hashlib.sha256()
  paths = [
    path
    for name in sorted(_FOLDERS)
    for path in sorted((root / name).glob('*'))
    if path.suffix in _SUFFIXES
  ]
  for path in [root / 'model_index.json', *paths]:
    name = str(path.relative_to(root))
    found.update(f'{name} {inputs.digest(path)}\n'.encode('utf-8', 'replace'))
  return found.hexdigest()


def read(folder: str, key: str = 'model') -> Pipeline:
  """Reads a folder but for its weights.

  Args:
    folder: its path.
    key: of the config, named in errors.

  Raises:
    InputError: naming the file and what is missing, broken or unsupported.
  """
  root = inputs.local(folder, key)
  if not root.is_dir():
    raise inputs.InputError(f'{key}: no folder {inputs.name_of(root)}')
  path = root / 'model_index.json'
  index = values.read_json(path, _INDEX)
  kind = str(index.get('_class_name'))
  values.one_of(path, '_class_name', kind, PIPELINES)
  numbers = ['', *(f'_{k + 2}' for k in range(PIPELINES[kind] - 1))]
  texts = [
    pipeline_parts.read_text_encoder(root / f'text_encoder{n}') for n in numbers
  ]
  words = tuple(
    clip_tokenizer.read(
      root / f'tokenizer{n}', text.net.max_position_embeddings
    )
    for n, text in zip(numbers, texts, strict=True)
  )
  for n, text, tokenizer in zip(numbers, texts, words, strict=True):
    if tokenizer.vocab_size > text.net.vocab_size:
      raise inputs.InputError(
        f'{inputs.name_of(root / f"tokenizer{n}")}: has '
        f'{tokenizer.vocab_size} tokens; its text encoder knows '
        f'{text.net.vocab_size}'
      )
  width = sum(text.net.hidden_size for text in texts)
  denoiser, sample_size = pipeline_parts.read_unet(root / 'unet', width)
  coder, scaling, shift = pipeline_parts.read_autoencoder(root / 'vae')
  _check_parts(texts, denoiser, coder)
  zeros = index.get('force_zeros_for_empty_prompt', len(texts) > 1)
  if not values.flag(zeros):
    raise inputs.InputError(
      f'{inputs.name_of(path)}: force_zeros_for_empty_prompt must be true or '
      'false'
    )
  return Pipeline(
    kind=kind,
    tokenizers=words,
    text_encoders=tuple(texts),
    denoiser=denoiser,
    autoencoder=coder,
    scaling_factor=scaling,
    shift_factor=shift,
    scheduler=schedulers.read(root / 'scheduler', kind),
    zeros_for_empty=zeros,
    sample_size=sample_size,
  )


def _check_parts(
  texts: list[pipeline_parts.Part],
  denoiser: pipeline_parts.Part,
  coder: pipeline_parts.Part,
) -> None:
  """Raises InputError where parts do not go together."""
  latents = coder.net.latent_channels
  kernel = denoiser.like['conv_in']['kernel'].shape
  for number in (kernel[2], denoiser.net.out_channels):
    if number != latents:
      raise inputs.InputError(
        f'{denoiser.source}: is for {number} channels; those of vae are '
        f'{latents}'
      )
  lengths = {text.net.max_position_embeddings for text in texts}
  if len(lengths) > 1:
    raise inputs.InputError(
      f'{texts[-1].source}: max_position_embeddings differs from that of '
      'text_encoder'
    )
  wants = denoiser.net.addition_embed_type is not None
  if wants != (len(texts) > 1):
    raise inputs.InputError(
      f'{denoiser.source}: addition_embed_type is '
      f'{denoiser.net.addition_embed_type}; with {len(texts)} text encoders it '
      f'must be {"text_time" if len(texts) > 1 else None}'
    )
  if wants:
    pooled = texts[-1].net.projection_dim
    if pooled is None:
      raise inputs.InputError(
        f'{texts[-1].source}: must be a CLIPTextModelWithProjection'
      )
    width = denoiser.like['add_embedding']['linear_1']['kernel'].shape[0]
    if width != pooled + 6 * denoiser.net.addition_time_embed_dim:
      raise inputs.InputError(
        f'{denoiser.source}: projection_class_embeddings_input_dim is {width}; '
        f'{texts[-1].source} and 6 addition_time_embed_dim make '
        f'{pooled + 6 * denoiser.net.addition_time_embed_dim}'
      )
