"""Token numbers are those of transformers, on 5,000 texts, in both layouts."""

import json
import pathlib

import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.interop import clip_tokenizer
from tests.goldens import clip_vocabulary

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'tokenizer.npz'
PADS = {'end': '<|endoftext|>', 'mark': '!'}


@pytest.fixture(scope='module')
def goldens():
  with np.load(GOLDENS, allow_pickle=False) as file:
    return dict(file)


@pytest.fixture
def hub(tmp_path):
  clip_vocabulary.write(tmp_path / 'hub')
  return tmp_path / 'hub'


def equal(found, goldens, name):
  texts = clip_vocabulary.texts()
  np.testing.assert_array_equal(found(texts), goldens[f'{name}/ids'])


@pytest.mark.parametrize('name', PADS)
def test_a_folder_of_the_hub(name, goldens, tmp_path):
  clip_vocabulary.write(tmp_path, PADS[name])
  found = clip_tokenizer.read(tmp_path, 77)
  equal(found, goldens, name)
  vocabulary, _ = clip_vocabulary.make()
  assert found.eos == vocabulary['<|endoftext|>']
  assert found.vocab_size == len(vocabulary)


@pytest.mark.parametrize('name', PADS)
def test_a_folder_of_transformers_5(name, goldens, tmp_path):
  for file in ('tokenizer.json', 'tokenizer_config.json'):
    (tmp_path / file).write_bytes(goldens[f'{name}/{file}'].tobytes())
  equal(clip_tokenizer.read(tmp_path, 77), goldens, name)


def test_the_mark_that_fills_up_is_one_token(tmp_path):
  """In "hello!" too, where it is not the "!" of a word."""
  clip_vocabulary.write(tmp_path, '!')
  vocabulary, _ = clip_vocabulary.make()
  (row,) = clip_tokenizer.read(tmp_path, 12)(['hello!'])
  end = list(row).index(vocabulary['<|endoftext|>'])
  assert row[end - 1] == vocabulary['!'] and (row[end + 1 :] == row[-1]).all()
  assert row[-1] == vocabulary['!']


def test_flags_of_tokens_by_number_count(hub):
  """As transformers 4.40 writes them, and with no other files of tokens."""
  (hub / 'special_tokens_map.json').unlink()
  vocabulary, _ = clip_vocabulary.make()
  names = ('<|startoftext|>', '<|endoftext|>')
  config = {
    'added_tokens_decoder': {
      str(vocabulary[name]): {'content': name, 'normalized': False}
      for name in names
    },
    'bos_token': names[0], 'eos_token': names[1], 'pad_token': names[1],
  }  # fmt: skip
  (hub / 'tokenizer_config.json').write_text(json.dumps(config))
  (row,) = clip_tokenizer.read(hub, 12)(['a <|ENDOFTEXT|>'])
  assert vocabulary[names[1]] not in row[:3]


@pytest.mark.parametrize(
  'file, content, message',
  [
    ('vocab.json', None, 'no .*vocab.json: a tokenizer is'),
    ('merges.txt', None, 'no .*merges.txt: a tokenizer is'),
    ('vocab.json', b'{', 'vocab.json.*no JSON'),
    ('vocab.json', b'[1]', 'vocab.json: no JSON object'),
    ('vocab.json', b'{"a": 0}', 'does not go with vocab.json'),
    ('merges.txt', b'a b c', 'merges.txt: line 1 is no pair'),
    ('merges.txt', b'\xff\xfe', 'merges.txt.*no UTF-8'),
    ('merges.txt', b'qq zz', 'does not go with vocab.json'),
    ('tokenizer.json', b'{"version": "1.0"}', 'tokenizer.json.*no tokenizer'),
  ],
)
def test_what_is_broken_is_named(file, content, message, hub):
  if content is None:
    (hub / file).unlink()
  else:
    (hub / file).write_bytes(content)
  with pytest.raises(inputs.InputError, match=message) as found:
    clip_tokenizer.read(hub, 77)
  assert '\n' not in str(found.value)


def test_numbers_are_below_the_size_of_the_vocabulary(hub):
  vocabulary, _ = clip_vocabulary.make()
  (hub / 'vocab.json').write_text(json.dumps(vocabulary | {'a</w>': 10**6}))
  found = clip_tokenizer.read(hub, 12)
  assert found.vocab_size == 10**6 + 1 and found(['a']).max() == 10**6


def test_what_is_no_text_is_no_crash(hub):
  found = clip_tokenizer.read(hub, 12)
  np.testing.assert_array_equal(found(['a \ud800 b']), found(['a ? b']))
  (hub / 'special_tokens_map.json').unlink()
  (hub / 'tokenizer_config.json').write_text('{"pad_token": "\\ud800"}')
  with pytest.raises(inputs.InputError, match='no text'):
    clip_tokenizer.read(hub, 12)


def test_rows_must_begin_and_end(goldens, tmp_path):
  content = json.loads(goldens['end/tokenizer.json'].tobytes())
  content['post_processor'] = None
  (tmp_path / 'tokenizer.json').write_text(json.dumps(content))
  with pytest.raises(inputs.InputError, match='no tokenizer of CLIP'):
    clip_tokenizer.read(tmp_path, 12)


def test_special_tokens_must_be_there(goldens, tmp_path):
  content = goldens['end/tokenizer.json'].tobytes()
  (tmp_path / 'tokenizer.json').write_bytes(content)
  (tmp_path / 'tokenizer_config.json').write_text('{"pad_token": "[PAD]\\n"}')
  with pytest.raises(inputs.InputError, match='no token .*PAD.* is pad_token'):
    clip_tokenizer.read(tmp_path, 77)
