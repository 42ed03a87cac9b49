"""A vocabulary in CLIP's format, learned from captions, and its four files.

Bytes are letters of their own, so that every text has tokens; pairs that are
frequent in the captions are merged (Sennrich et al. 2016). Among pairs that are
as frequent the first by their letters is: the trainer of `tokenizers` takes any
of them, another every time. Tokens are numbered as CLIP has them: letters,
letters that end a word, merges, begin, end.
"""

import collections
from collections.abc import Mapping, Sequence
import heapq
import json
import pathlib
import tempfile
from typing import NamedTuple

from jaxdiff import inputs
from jaxdiff.interop import clip_tokenizer

_BEGIN, _END = '<|startoftext|>', '<|endoftext|>'
_WORD_END = '</w>'


class Vocabulary(NamedTuple):
  """What a tokenizer of CLIP is made of.

  Attributes:
    numbers: token -> number.
    merges: pairs of tokens, a blank between them, the first ones first.
    length: tokens of a row, with begin and end.
  """

  numbers: dict[str, int]
  merges: tuple[str, ...]
  length: int

  def files(self) -> dict[str, str]:
    """Content of the four files of a folder of the Hub, by name."""
    flags = {
      'lstrip': False, 'normalized': True, 'rstrip': False,
      'single_word': False,
    }  # fmt: skip
    special = {
      'bos_token': {'content': _BEGIN, **flags},
      'eos_token': {'content': _END, **flags},
      'unk_token': {'content': _END, **flags},
      'pad_token': _END,
    }
    config = {
      'tokenizer_class': 'CLIPTokenizer', 'model_max_length': self.length,
      'add_prefix_space': False, 'do_lower_case': True, **special,
    }  # fmt: skip
    return {
      'vocab.json': json.dumps(self.numbers, ensure_ascii=False),
      'merges.txt': '\n'.join(['#version: 0.2', *self.merges, '']),
      'special_tokens_map.json': json.dumps(special),
      'tokenizer_config.json': json.dumps(config),
    }

  def tokenizer(self) -> clip_tokenizer.ClipTokenizer:
    """The tokenizer that the files make."""
    with tempfile.TemporaryDirectory() as made:
      folder = pathlib.Path(made)
      for name, content in self.files().items():
        (folder / name).write_text(content, 'utf-8')
      return clip_tokenizer.read(folder, self.length)


def learn(captions: Sequence[str], num_merges: int, length: int) -> Vocabulary:
  """The vocabulary of some captions.

  Args:
    captions: the texts.
    num_merges: at most; fewer where pairs run out.
    length: tokens of a row.

  Raises:
    InputError: if the library is not installed.
  """
  try:
    from tokenizers import pre_tokenizers
  except ImportError:
    raise inputs.InputError(clip_tokenizer.NOT_INSTALLED) from None
  letters = sorted(pre_tokenizers.ByteLevel.alphabet(), key=ord)
  clean, cut = clip_tokenizer.before_pairs()
  words = collections.Counter(
    word
    for caption in captions
    for word, _ in cut.pre_tokenize_str(clean.normalize_str(caption))
  )
  pairs = _merges(words, num_merges)
  tokens = [
    *letters, *(f'{letter}{_WORD_END}' for letter in letters),
    *(''.join(pair) for pair in pairs), _BEGIN, _END,
  ]  # fmt: skip
  return Vocabulary(
    {token: number for number, token in enumerate(dict.fromkeys(tokens))},
    tuple(' '.join(pair) for pair in pairs),
    length,
  )


def _merges(words: Mapping[str, int], most: int) -> list[tuple[str, str]]:
  """The most frequent pairs of neighbours, each merged before the next."""
  parts = [[*word[:-1], word[-1] + _WORD_END] for word in words]
  times = list(words.values())
  count: collections.Counter[tuple[str, str]] = collections.Counter()
  holders: dict[tuple[str, str], set[int]] = collections.defaultdict(set)

  # (-count, pair), some of them out of date.
  queue: list[tuple[int, tuple[str, str]]] = []

  def note(place: int, sign: int) -> set[tuple[str, str]]:
    pairs = list(zip(parts[place], parts[place][1:], strict=False))
    for pair in pairs:
      count[pair] += sign * times[place]
      if sign > 0:
        holders[pair].add(place)
    return set(pairs)

  changed = set().union(*(note(place, 1) for place in range(len(parts))))
  out: list[tuple[str, str]] = []
  while len(out) < most:
    for pair in changed:
      if count[pair]:
        heapq.heappush(queue, (-count[pair], pair))
    while queue and -queue[0][0] != count[queue[0][1]]:
      heapq.heappop(queue)
    if not queue:
      break
    _, pair = heapq.heappop(queue)
    out.append(pair)
    changed = set()
    for place in holders.pop(pair):
      changed |= note(place, -1)
      parts[place] = _merged(parts[place], pair)
      changed |= note(place, 1)
  return out


def _merged(word: list[str], pair: tuple[str, str]) -> list[str]:
  """A word with every such pair as one part, from the left."""
  out: list[str] = []
  place = 0
  while place < len(word):
    size = 2 if tuple(word[place : place + 2]) == pair else 1
    out.append(''.join(word[place : place + size]))
    place += size
  return out
