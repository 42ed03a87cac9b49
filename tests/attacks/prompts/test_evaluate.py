"""Tables of screens: truths, directions, budgets, and the text beside them."""

import dataclasses

import numpy as np
import pandas as pd
import pytest

from jaxdiff.attacks.prompts import evaluate
from jaxdiff.data import known_prompts
from tests.attacks.prompts import oracles, test_stream

COUNT = 120
THINGS = [
  'cat',
  'dog',
  'moon',
  'tree',
  'house',
  'boat',
  'river',
  'horse',
  'lamp',
  'chair',
]


def plan_of(texts, kinds=('x0', 'wen_first', 'cosine', 'agreement'), seeds=400):
  _, prompts = oracles.brought()
  drawn = oracles.plan(oracles.generaliser(), prompts)
  streamed = test_stream.plan_of(drawn, num_seeds=seeds)
  plan = test_stream.evaluate_of(
    drawn, test_stream.screen_of(drawn, kinds=kinds), streamed, [0] * 60
  )
  return dataclasses.replace(plan, texts=tuple(texts))


def rows_of(rng, texts, found, **scores):
  trained = np.where(np.arange(COUNT) % 2, 1, 0)
  return pd.DataFrame(
    {
      'model': 0, 'number': np.arange(COUNT), 'prompt': texts,
      'trained': np.where(found, 1, trained), 'copies': 1 + found,
      'group': np.arange(COUNT), 'num_images': 400, 'found': found.astype(int),
    }
    | {
      name: scores.get(name, rng.standard_normal(COUNT))
      for name in ('x0', 'wen_first', 'cosine', 'agreement')
    }
  )  # fmt: skip


@pytest.fixture
def rng():
  return np.random.default_rng(0)


@pytest.fixture
def texts(rng):
  return [f'{rng.choice(THINGS)} number {k}' for k in range(COUNT)]


def summary(plan, rows, truth='found'):
  table = evaluate.screens_summary(plan, rows)
  return table[table['truth'] == truth].set_index('screen')


def test_a_screen_that_points_the_wrong_way_is_said_to(rng, texts):
  found = np.arange(COUNT) < 12
  noise = rng.standard_normal(COUNT)
  rows = rows_of(
    rng, texts, found, x0=noise + 5 * found, wen_first=noise - 3 * found
  )
  table = summary(plan_of(texts), rows)
  assert table.loc['x0', 'direction'] == 'right'
  assert table.loc['wen_first', 'direction'] == 'reversed'
  assert table.loc['agreement', 'direction'] == ''
  assert table.loc['x0', 'kept'] > 0.9
  assert table.loc['x0', 'ap'] > table.loc['agreement', 'ap']
  # Six prompts are a twentieth of all, less what screening took.
  cost = 1 / (400 * 10)
  first = int((1 / 20 - cost) * COUNT)
  assert table.loc['x0', 'kept_at_twentieth'] == pytest.approx(first / 12)
  # Three seeds of five guided steps are 30 of 4,000 calls.
  assert table.loc['agreement', 'cost'] == pytest.approx(30 / 4000)
  assert table.loc['anisotropy', 'calls'] == 2


def test_a_screen_that_costs_more_than_a_twentieth_keeps_nothing_by_it(
  rng, texts
):
  found = np.arange(COUNT) < 12
  rows = rows_of(rng, texts, found)
  table = summary(plan_of(texts, seeds=40), rows)
  assert np.isnan(table.loc['agreement', 'kept_at_twentieth'])
  assert not np.isnan(table.loc['x0', 'kept_at_twentieth'])


def test_what_text_alone_tells_no_screen_beats(rng):
  found = np.arange(COUNT) < 40
  texts = [
    f'{rng.choice(THINGS)} {"painting by a master" if x else "photograph"} {k}'
    for k, x in enumerate(found)
  ]
  rows = rows_of(rng, texts, found, x0=rng.standard_normal(COUNT) + found)
  table = summary(plan_of(texts), rows)
  assert table.loc['text', 'ap'] > 0.95
  assert table.loc['x0', 'against_text'] == 'does not beat'
  plain = [f'{rng.choice(THINGS)} number {k}' for k in range(COUNT)]
  rows = rows_of(rng, plain, found, x0=rng.standard_normal(COUNT) + 5 * found)
  table = summary(plan_of(plain), rows)
  assert table.loc['x0', 'against_text'] == 'beats'


def test_texts_that_are_nearly_the_same_are_one_group():
  texts = [
    'A painting of a boat', 'a painting of a boat!', 'boat of a painting a',
    'The Starry Night by Vincent van Gogh',
    'The Starry Night, by Vincent van Gogh (1889)', 'a cat', 'seven dogs',
  ]  # fmt: skip
  group = known_prompts.groups(texts)
  assert group[0] == group[1] == group[2] and group[3] == group[4]
  assert len(set(group.tolist())) == 4


def test_many_texts_are_grouped_by_their_words(monkeypatch):
  monkeypatch.setattr(known_prompts, '_MOST', 3)
  group = known_prompts.groups(['a cat', 'cat a', 'a cat!', 'a cats'])
  assert group[0] == group[1] == group[2] != group[3]


def test_what_was_trained_on_is_told_by_captions():
  keep = np.array([[True, True, False, True], [False, False, True, True]])
  trained, copies = known_prompts.of_captions(
    ['A cat', 'a dog', 'nobody', 'a CAT'],
    ['a  cat', 'a cat', 'a dog', 'a cat'],
    keep,
  )
  assert copies.tolist() == [3, 1, 0, 3]
  # The second model saw one of three images of cats: neither in nor out.
  assert trained.tolist() == [[1, 0, -1, 1], [-1, 1, -1, -1]]


def test_one_group_of_texts_teaches_nothing(rng):
  style = 'masterpiece, best quality, highly detailed, trending, sharp focus, '
  texts = [f'{style}{rng.choice(THINGS)} {k % 3}' for k in range(COUNT)]
  found = np.arange(COUNT) < 40
  rows = rows_of(rng, texts, found).assign(group=0)
  table = summary(plan_of(texts), rows)
  assert 'text' not in table.index and (table['against_text'] == '').all()
  # Pictographs have no words, and are texts all the same.
  assert len(set(known_prompts.groups(['\U0001f600', '\U0001f697']))) == 2


def test_what_a_screen_chose_says_nothing_of_screens(rng, texts):
  found = np.arange(COUNT) < 12
  rows = rows_of(rng, texts, found)
  rows.loc[60:, 'num_images'] = 0
  assert 'found' not in evaluate.truths(rows)


def test_prompts_of_unknown_training_are_held_against_the_held_out(rng, texts):
  found = np.zeros(COUNT, bool)
  rows = rows_of(rng, texts, found).assign(
    trained=np.where(np.arange(COUNT) < 60, -1, 0), copies=0
  )
  table = evaluate.screens_summary(plan_of(texts), rows)
  assert set(table['truth']) == {'asked'}
  assert (table['positives'] == 60).all()


def test_equal_scores_are_taken_as_chance_would(rng, texts):
  found = np.arange(COUNT) < 12
  table = summary(
    plan_of(texts), rows_of(rng, texts, found, x0=np.zeros(COUNT))
  )
  cost = 1 / (400 * 10)
  first = int((1 / 20 - cost) * COUNT)
  assert table.loc['x0', 'kept_at_twentieth'] == pytest.approx(first / COUNT)
  assert table.loc['x0', 'ap'] == pytest.approx(0.1)


def test_too_few_of_a_kind_say_nothing(rng, texts):
  found = np.arange(COUNT) < 4
  table = evaluate.screens_summary(plan_of(texts), rows_of(rng, texts, found))
  assert set(table['truth']) == {'trained'}
