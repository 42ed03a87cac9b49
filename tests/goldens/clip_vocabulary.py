"""A small vocabulary in CLIP's format, and texts that try a tokenizer."""

import collections
import json
import pathlib

import numpy as np

_CORPUS = (
  'a photo of an astronaut riding a horse on the moon, highly detailed oil '
  'painting of the starry night by van gogh; portrait of a young woman with '
  "flowers in her hair don't they're we've i'm he'll she'd trending on art "
  'station 4k 8k hd 1920 film still of the great wave off the coast of japan '
  'living in the light with ann graham lotz cat dog dogs cats painting paints'
)
_BEGIN, _END = '<|startoftext|>', '<|endoftext|>'


def _letters() -> list[str]:
  """A printable character for each byte (GPT-2's table)."""
  kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
  rest = [byte for byte in range(256) if byte not in kept]
  table = {byte: chr(byte) for byte in kept}
  table |= {byte: chr(256 + number) for number, byte in enumerate(rest)}
  return [table[byte] for byte in sorted(table, key=lambda b: ord(table[b]))]


def make(number: int = 300) -> tuple[dict[str, int], list[str]]:
  """Vocabulary and merges: the most frequent pairs first, ties by letters."""
  words = [[*word[:-1], f'{word[-1]}</w>'] for word in _CORPUS.split()]
  merges: list[str] = []
  while len(merges) < number:
    pairs = collections.Counter(
      pair for word in words for pair in zip(word, word[1:], strict=False)
    )
    if not pairs:
      break
    left, right = min(pairs, key=lambda pair: (-pairs[pair], pair))
    merges.append(f'{left} {right}')
    for word in words:
      place = 0
      while place < len(word) - 1:
        if word[place : place + 2] == [left, right]:
          word[place : place + 2] = [left + right]
        place += 1
  letters = _letters()
  tokens = [
    *letters, *(f'{letter}</w>' for letter in letters),
    *(merge.replace(' ', '') for merge in merges), _BEGIN, _END,
  ]  # fmt: skip
  return {token: k for k, token in enumerate(dict.fromkeys(tokens))}, merges


def write(folder: pathlib.Path, pad: str = _END, length: int = 77) -> None:
  """The four files of a Hub folder."""
  folder.mkdir(parents=True, exist_ok=True)
  vocabulary, merges = make()
  (folder / 'vocab.json').write_text(json.dumps(vocabulary))
  (folder / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges, '']))
  flags = {'lstrip': False, 'normalized': True, 'rstrip': False}
  flags['single_word'] = False
  special = {
    'bos_token': {'content': _BEGIN, **flags},
    'eos_token': {'content': _END, **flags},
    'pad_token': pad,
    'unk_token': {'content': _END, **flags},
  }
  (folder / 'special_tokens_map.json').write_text(json.dumps(special))
  (folder / 'tokenizer_config.json').write_text(
    json.dumps({
      **{k: v for k, v in special.items() if k != 'pad_token'},
      'pad_token': pad, 'model_max_length': length, 'do_lower_case': True,
      'tokenizer_class': 'CLIPTokenizer',
    })
  )  # fmt: skip


def texts(number: int = 5000) -> list[str]:
  """English, odd Unicode, control characters, special tokens, long ones."""
  rng = np.random.default_rng(0)
  words = _CORPUS.split()
  odd = [
    'é', 'e\u0301', 'Ｆｕｌｌ', 'ﬁ', '東京', 'İstanbul', 'ẞ', '😀', '\u200d',
    '\u00a0', '\t', '\n', '\r\n', '\x00', '\x1b[31m', '\ufeff', 'ΣΑΣ', '١٢٣',
    '½', '!', '!!', 'hello!', '?!', "'s", "'S", '--', '_', '<|endoftext|>',
    '<|startoftext|>', '<|ENDOFTEXT|>', '<|end', '|>', '</w>', '&amp;',
    '\ud7a3', '\U0010ffff', ' ', '   ', '0', '42', 'a1b2', 'don’t', 'naïve',
    'Ǆ',
  ]  # fmt: skip
  out = ['', ' ', '!', 'hello!', ' '.join(words * 4)]
  while len(out) < number:
    count = int(
      rng.choice([1, 3, 8, 15, 40, 200], p=[0.1, 0.3, 0.3, 0.2, 0.08, 0.02])
    )
    parts = []
    for _ in range(count):
      kind = rng.random()
      if kind < 0.6:
        parts.append(str(rng.choice(words)))
      elif kind < 0.9:
        parts.append(odd[rng.integers(len(odd))])
      else:
        parts.append(''.join(chr(c) for c in rng.integers(32, 0x2FFF, 3)))
      if rng.random() < 0.1:
        parts[-1] = parts[-1].upper()
    joined = ''
    for part in parts:
      joined += part + ('' if rng.random() < 0.2 else ' ')
    out.append(joined)
  return out
