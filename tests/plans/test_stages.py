"""Subjects and stages: what a subject does not give is not done, and said."""

import dataclasses
import json

import pytest

from jaxdiff import plans as plans_lib
from jaxdiff import schema, subjects
from jaxdiff.plans import kinds, stages
from jaxdiff.plans import stage as stage_lib
from jaxdiff.report import sections
from tests import tiny

# Stages of other subjects than an ensemble.
OTHERS = (
  'generated', 'scores', 'prompts', 'second_opinion', 'prompted', 'screen',
  'stream', 'verify', 'guarantee',
)  # fmt: skip


def test_who_gives_a_noise_predictor_has_its_membership_measured():
  """A kind that forgets the word loses a stage without one."""
  for name, kind in kinds.KINDS.items():
    if 'noise_predictor' in kind.GIVES:
      assert 'measurable' in kind.GIVES, name
    assert set(kind.GIVES) <= set(subjects.GIVES), name


def test_every_stage_says_what_it_needs():
  assert list(stages.STAGES)[:2] == ['train', 'sample']
  for name, module in stages.STAGES.items():
    assert set(module.NEEDS) <= set(subjects.GIVES), name
    assert module.VERB in stage_lib.VERBS and module.WORDS, name
  # What a report says of a stage is found by the stage's name.
  assert set(sections.SECTIONS) <= set(stages.STAGES)


def test_a_run_does_what_its_config_asks_for():
  plain = plans_lib.make(tiny.config())
  assert [stage.name for stage in plain.stages] == [
    'train', 'sample', 'membership', 'extraction', 'nearest_sample', 'quality',
  ]  # fmt: skip
  assert {(one.name, one.why) for one in plain.not_done} == {
    ('inpainting', 'inpainting.num_images is 0'),
    ('side', 'side.num_samples is 0'),
    ('canaries', 'canaries.num_models is 0'),
  }
  assert [stage.name for stage in plans_lib.make(tiny.paper()).stages] == [
    name for name in stages.STAGES if name not in OTHERS
  ]


@pytest.mark.parametrize(
  ('fields', 'left', 'words'),
  [
    (['train'], {'canaries'}, 'the means to train further models'),
    (['sample'], {'side'}, 'the means to draw samples'),
    (['samples'], {'extraction', 'nearest_sample', 'quality'}, 'samples'),
    (['eps_fn_of'], {'membership', 'inpainting', 'side', 'canaries'},
     'a noise predictor'),
    (['draw'], {'side'}, 'a sampler that can be guided'),
    (['examples'],
     {'membership', 'extraction', 'nearest_sample', 'quality', 'inpainting',
      'side', 'canaries'}, 'images of known membership'),
  ],
)  # fmt: skip
def test_what_a_subject_does_not_give_is_not_done(fields, left, words):
  config = tiny.paper()
  subject = plans_lib.make(config).subject
  less = dataclasses.replace(subject, kind='a folder', **dict.fromkeys(fields))
  made, not_done = plans_lib.make_stages(config, less)
  said = {one.name: one.why for one in not_done}
  assert left <= said.keys()
  assert not {stage.name for stage in made} & said.keys()
  for name in left:
    assert said[name].startswith('it needs ') and words in said[name]
    assert said[name].endswith(', which a folder does not give')


def test_a_config_of_an_older_folder_is_read_as_it_is_called_now():
  now = json.loads(json.dumps(tiny.paper().to_dict()))
  old = json.loads(json.dumps({k: v for k, v in now.items() if k != 'side'}))
  late = next(iter(old['private']))
  assert schema.KEYS['ensemble'][f'private.{late}'].late
  del old['private'][late]
  before = json.dumps(old)
  assert schema.renamed(old | {'guidance': now['side']}) == now
  # What is asked is left as it was, in its groups too.
  assert json.dumps(old) == before


def test_identity_leaves_out_what_is_free_and_what_came_late(monkeypatch):
  config = json.loads(json.dumps(tiny.config().to_dict()))
  before = schema.identified(config)
  assert 'path' not in before['data'] and 'num_models' not in before
  assert before['guidance'] == config['side'] and 'side' not in before
  late = schema.Key(3, 'new', 0, 9, late=True)
  monkeypatch.setitem(schema.KEYS['ensemble'], 'side.more', late)
  monkeypatch.setitem(schema.KEYS['ensemble'], 'new_group.more', late)
  # A folder that lacks them is one that has their defaults ...
  read = schema.renamed(json.loads(json.dumps(config)))
  assert read['side']['more'] == read['new_group']['more'] == 3
  assert schema.identified(read) == before
  # ... and any other value is another run.
  read['new_group']['more'] = 4
  assert schema.identified(read) == before | {'new_group': {'more': 4}}
