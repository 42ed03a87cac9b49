"""CLIP's tokenizer from a pipeline's folder, by the library `tokenizers` alone.

Two layouts are read: `vocab.json` and `merges.txt` as the Hub has them, and
`tokenizer.json` as transformers 5 writes it. Special tokens, the one that fills
up among them, and their flags come from the JSON files: Stable Diffusion 2
fills up with "!", which is a special token there, so that "hello!" ends in it.
"""

from collections.abc import Iterator, Sequence
import os
import pathlib
from typing import Any

import numpy as np

from jaxdiff import inputs
from jaxdiff.interop import values

# What such files ever have: CLIP's vocabulary takes 0.9 MB, tokenizer.json 4.
_MOST_BYTES = 2**26
# Texts that are encoded together.
_PIECE = 4096
_FILES = 'a tokenizer is tokenizer.json, or vocab.json and merges.txt'
_SPECIAL = ('bos_token', 'eos_token', 'unk_token', 'pad_token')
_FLAGS = ('lstrip', 'rstrip', 'normalized', 'single_word')
NOT_INSTALLED = 'tokenizers is not installed: pip install "jaxdiff[text]"'
_DEFAULTS = {
  'bos_token': '<|startoftext|>',
  'eos_token': '<|endoftext|>',
  'unk_token': '<|endoftext|>',
  'pad_token': '<|endoftext|>',
}
# Words and marks, of which each is encoded by itself (Radford et al. 2021).
_WORDS = (
  r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|"
  r'[^\s\p{L}\p{N}]+'
)


class ClipTokenizer:
  """Texts to rows of token numbers.

  Attributes:
    length: of every row: begin, at most length - 2 tokens, end, and filling.
    vocab_size: numbers are below it.
    eos: number of the end.
  """

  def __init__(self, tokenizer: Any, length: int, special: dict[str, str]):
    """Takes a `tokenizers.Tokenizer` and its special tokens by name.

    Raises:
      ValueError: if rows do not begin and end as they should.
    """
    self.length = length
    self.vocab_size = max(tokenizer.get_vocab().values()) + 1
    self.eos = tokenizer.token_to_id(special['eos_token'])
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(
      length=length,
      pad_id=tokenizer.token_to_id(special['pad_token']),
      pad_token=special['pad_token'],
    )
    self._tokenizer = tokenizer
    bos = tokenizer.token_to_id(special['bos_token'])
    for row in self(['', 'a a a', 'a ' * (2 * length)]):
      if row[0] != bos or self.eos not in row[1:]:
        raise ValueError('rows do not begin with bos_token or lack eos_token')

  def __call__(self, texts: Sequence[str]) -> np.ndarray:
    """int32 [B, length]; half of a surrogate pair counts as a question mark."""
    rows = np.empty((len(texts), self.length), np.int32)
    for row, each in enumerate(self._encoded(texts)):
      rows[row] = each.ids
    return rows

  def cut(self, texts: Sequence[str]) -> int:
    """Of how many texts there is more than a row takes."""
    return sum(bool(each.overflowing) for each in self._encoded(texts))

  def _encoded(self, texts: Sequence[str]) -> Iterator[Any]:
    """Encodings, of some texts at a time: one is larger than its row."""
    for start in range(0, len(texts), _PIECE):
      piece = [
        text.encode('utf-8', 'replace').decode()
        for text in texts[start : start + _PIECE]
      ]
      yield from self._tokenizer.encode_batch(piece)


def read(folder: pathlib.Path, length: int) -> ClipTokenizer:
  """The tokenizer of a folder.

  Args:
    folder: `tokenizer/` of a pipeline.
    length: positions of its text encoder.

  Raises:
    InputError: naming the file and what is missing or broken; or if the library
      is not installed.
  """
  try:
    import tokenizers
  except ImportError:
    raise inputs.InputError(NOT_INSTALLED) from None
  config = _json(folder / 'tokenizer_config.json')
  listed = _json(folder / 'special_tokens_map.json')
  special = {name: _token(config, listed, name) for name in _SPECIAL}
  whole = folder / 'tokenizer.json'
  if os.path.lexists(whole):
    content = inputs.read_bytes(whole, _MOST_BYTES)
    with inputs.reading(whole, 'no tokenizer'):
      tokenizer = tokenizers.Tokenizer.from_str(content.decode())
    source = whole
  else:
    tokenizer = _of_merges(folder, special)
    source = folder / 'vocab.json'
  for name, token in special.items():
    with inputs.reading(source, f'{name} is no text'):
      number = tokenizer.token_to_id(token['content'])
    if number is None:
      raise inputs.InputError(
        f'{inputs.name_of(source)}: has no token '
        f'{inputs.one_line(repr(token["content"]), 60)}, which is {name}'
      )
  contents = {name: token['content'] for name, token in special.items()}
  with inputs.reading(source, 'is of no tokenizer of CLIP'):
    return ClipTokenizer(tokenizer, length, contents)


def _of_merges(folder: pathlib.Path, special: dict[str, dict[str, Any]]) -> Any:
  """The tokenizer of vocab.json and merges.txt."""
  import tokenizers
  from tokenizers import models

  vocabulary = _json(folder / 'vocab.json', needed=True)
  merges = _merges(folder / 'merges.txt')
  with inputs.reading(folder / 'merges.txt', 'does not go with vocab.json'):
    tokenizer = tokenizers.Tokenizer(
      models.BPE(
        vocab=vocabulary,
        merges=merges,
        end_of_word_suffix='</w>',
        unk_token=special['unk_token']['content'],
      )
    )
  with inputs.reading(folder, 'special tokens that are no text'):
    _complete(tokenizer, special)
  return tokenizer


def before_pairs() -> tuple[Any, Any]:
  """CLIP's normaliser, and what cuts texts into words."""
  import tokenizers
  from tokenizers import normalizers, pre_tokenizers

  clean = normalizers.Sequence(
    [
      normalizers.NFC(),
      normalizers.Replace(tokenizers.Regex(r'\s+'), ' '),
      normalizers.Lowercase(),
    ]
  )
  cut = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_WORDS), 'removed', invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False),
    ]
  )
  return clean, cut


def _complete(tokenizer: Any, special: dict[str, dict[str, Any]]) -> None:
  """What vocab.json and merges.txt do not say."""
  import tokenizers
  from tokenizers import processors

  tokenizer.normalizer, tokenizer.pre_tokenizer = before_pairs()
  tokenizer.add_special_tokens(
    [
      tokenizers.AddedToken(
        token['content'],
        special=True,
        **{flag: token[flag] for flag in _FLAGS if flag in token},
      )
      for token in special.values()
    ]
  )
  eos, bos = (special[name]['content'] for name in ('eos_token', 'bos_token'))
  end, begin = ((x, tokenizer.token_to_id(x) or 0) for x in (eos, bos))
  tokenizer.post_processor = processors.RobertaProcessing(
    end, begin, trim_offsets=False, add_prefix_space=False
  )


def _merges(path: pathlib.Path) -> list[tuple[str, str]]:
  """Pairs of merges.txt, whose first line may be a version."""
  if not os.path.lexists(path):
    raise inputs.InputError(f'no {inputs.name_of(path)}: {_FILES}')
  content = inputs.read_bytes(path, _MOST_BYTES)
  with inputs.reading(path, 'no UTF-8'):
    lines = content.decode().split('\n')
  pairs = []
  for number, line in enumerate(lines):
    if not line.strip() or (number == 0 and line.startswith('#version')):
      continue
    pair = line.rstrip('\r').split(' ')
    if len(pair) != 2:
      raise inputs.InputError(
        f'{inputs.name_of(path)}: line {number + 1} is no pair of tokens'
      )
    pairs.append((pair[0], pair[1]))
  return pairs


def _token(
  config: dict[str, Any], listed: dict[str, Any], name: str
) -> dict[str, Any]:
  """A special token with its flags."""
  found = None
  for source in (config, listed):
    value = source.get(name)
    if isinstance(value, str):
      value = {'content': value}
    if isinstance(value, dict) and isinstance(value.get('content'), str):
      found = value if found is None else {**value, **found}
  token = dict(found or {'content': _DEFAULTS[name]})
  # Flags of added tokens by number, where newer files have them.
  decoder = config.get('added_tokens_decoder')
  for each in decoder.values() if isinstance(decoder, dict) else ():
    if isinstance(each, dict) and each.get('content') == token['content']:
      token = {**token, **each}
  return {
    key: value
    for key, value in token.items()
    if key == 'content' or (key in _FLAGS and isinstance(value, bool))
  }


def _json(path: pathlib.Path, needed: bool = False) -> dict[str, Any]:
  """A JSON object; {} of a file that is not there and need not be."""
  if not needed and not os.path.lexists(path):
    return {}
  return values.read_json(path, _FILES, _MOST_BYTES)
