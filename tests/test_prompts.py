"""Generated images that share prompts: which prompts are from memory?"""

import json
import shutil

import numpy as np
import pandas as pd
from PIL import Image
import pytest

from configs import folders as folders_config
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.extraction import by_prompt, cliques
from jaxdiff.data.readers import prompts as prompts_lib
from jaxdiff.pipeline import stages
from jaxdiff.runs import files
from jaxdiff.runtime import preemption
from tests import tiny

pytestmark = pytest.mark.slow

# What a spreadsheet would run is a prompt like others.
COPIED, FRESH = '=cmd()', ('a cat', 'a dog')


@pytest.fixture(scope='module')
def root(tmp_path_factory):
  """Twelve copies of one picture; others are noise."""
  folder = tmp_path_factory.mktemp('prompts')
  rng = np.random.default_rng(0)
  picture = rng.integers(0, 256, (32, 32, 3))

  def save(name, images):
    (folder / name).mkdir(parents=True)
    for number, image in enumerate(np.clip(images, 0, 255).astype(np.uint8)):
      Image.fromarray(image).save(folder / name / f'{number}.png')

  noise = lambda count: rng.integers(0, 256, (count, 32, 32, 3))
  save(f'generated/{COPIED}', picture + rng.normal(0.0, 4.0, (12, 32, 32, 3)))
  for name in FRESH:
    save(f'generated/{name}', noise(12))
  save('training', noise(40))
  save('holdout', noise(40))
  return folder


def config_of(root, **keys):
  config = folders_config.get_config()
  for name in ('generated', 'training', 'holdout'):
    config[name] = str(root / name)
  config.membership.num_resamples = 40
  config.prompts.of = 'folders'
  for key, value in keys.items():
    config.prompts[key] = value
  return config


@pytest.fixture(scope='module')
def finished(root, tmp_path_factory):
  folder = tmp_path_factory.mktemp('run') / 'run'
  run = stages.run_stages(
    config_of(root), str(folder), fail_if=['prompts.flagged > 0']
  )
  return run, folder


def test_the_prompt_that_is_copied_is_found_and_no_other(finished):
  run, folder = finished
  table = files.read_csv(by_prompt.Paths(run).prompts)
  assert table['prompt'].tolist() == [f"'{COPIED}", *FRESH]  # inert in CSV
  assert table['clique_size'].tolist() == [12, 0, 0]
  assert table['image'][0].startswith(f"'{COPIED}/")
  assert table['image'][1:].isna().all()
  text = run.report.read_text()
  assert 'Of 3 prompts, 1 have 10 or more' in text
  assert f'1. {COPIED}: 12 of 12' in text
  document = json.loads((folder / 'report.json').read_text())
  (rule,) = document['policies']
  assert rule['status'] == 'fail' and rule['observed']['low'] == 1.0


def test_rows_are_those_of_the_library(root, finished):
  run, _ = finished
  plan = plans_lib.make(config_of(root)).plan('prompts')
  names = np.array(plan.images_of(None).names)
  for row in files.read_csv(by_prompt.Paths(run).prompts).itertuples():
    own = [name for name in names if name.startswith(row.prompt.lstrip("'"))]
    images = np.stack(
      [np.asarray(Image.open(root / 'generated' / name)) for name in own]
    )
    found = cliques.scan_prompt(images, tau=0.1)
    assert found['clique_size'] == row.clique_size
    assert found['num_edges'] == row.num_edges
    if row.clique_size:
      assert row.image.lstrip("'") == own[found['medoid']]


def test_a_stopped_run_goes_on(root, finished, tmp_path, monkeypatch):
  run, _ = finished
  monkeypatch.setattr(by_prompt, '_PART', 1)
  plan = plans_lib.make(config_of(root)).plan('prompts')
  other = stages.run_stages(config_of(root), str(tmp_path / 'o'), ['sample'])
  with monkeypatch.context() as patch:
    patch.setattr(preemption, 'asked', lambda: True)
    with pytest.raises(preemption.Preempted):
      by_prompt.find(plan, other)
  assert [path.name for path in (other.path / 'prompts/parts').iterdir()] == [
    '00000000.npz'
  ]
  by_prompt.find(plan, other)
  paths = [by_prompt.Paths(one).prompts for one in (run, other)]
  assert paths[0].read_bytes() == paths[1].read_bytes()


@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_a_table_says_it_as_well(root, tmp_path, kind):
  names = plans_lib.make(config_of(root)).plan('prompts').images_of(None).names
  rows = [(name, name.split('/')[0]) for name in names]
  if kind == 'csv':
    lines = ['file_name,prompt', *(f'{a},{b}' for a, b in rows)]
  else:
    lines = [json.dumps({'file_name': a, 'text': b}) for a, b in rows]
  table = tmp_path / f'metadata.{kind}'
  table.write_text('\n'.join(lines))
  told = prompts_lib.of(str(table), names, 'prompts.of')
  assert told == prompts_lib.of('folders', names, 'prompts.of')
  # Images that the table leaves out have no prompt.
  table.write_text('\n'.join(lines[:8]))
  told = prompts_lib.of(str(table), names, 'prompts.of')
  assert sum(map(bool, told)) == (7 if kind == 'csv' else 8)


@pytest.mark.parametrize(
  ('text', 'words'),
  [
    ('file,prompt\na,b\n', 'wants the columns file_name and prompt'),
    ('file_name,prompt\nno.png,b\nno.png,b\n', 'row 2: no.png is there twice'),
    ('file_name,prompt\nno.png,b\n', 'no.png, which is no generated image'),
    ('file_name,prompt\na cat/0.png,b\n', 'gives no prompt twice'),
    ('', 'no whole table'),
  ],
)
def test_a_table_that_is_none_is_refused(root, tmp_path, text, words):
  table = tmp_path / 'metadata.csv'
  table.write_text(text)
  with pytest.raises(inputs.InputError, match=words):
    plans_lib.make(config_of(root, of=str(table)))


@pytest.mark.parametrize('kind', ['csv', 'jsonl'])
def test_a_table_may_lie_among_its_images(root, tmp_path, kind):
  """As Hugging Face's imagefolder has it."""
  shutil.copytree(root / 'generated', tmp_path / 'generated')
  names = sorted(
    str(path.relative_to(tmp_path / 'generated'))
    for path in (tmp_path / 'generated').rglob('*.png')
  )
  rows = [{'file_name': name, 'text': name.split('/')[0]} for name in names]
  table = tmp_path / 'generated' / f'metadata.{kind}'
  if kind == 'csv':
    pd.DataFrame(rows).to_csv(table, index=False)
  else:
    table.write_text('\n'.join(map(json.dumps, rows)))
  config = config_of(root, of=str(table))
  config.generated = str(tmp_path / 'generated')
  plan = plans_lib.make(config).plan('prompts')
  assert {key: len(rows) for key, rows in plan.rows().items()} == {
    COPIED: 12, 'a cat': 12, 'a dog': 12,
  }  # fmt: skip
  # Sub-folders stay classes, and images without a caption stay.
  assert len(set(plan.images_of(None).labels)) == 3
  text = table.read_text().splitlines()
  table.write_text('\n'.join(text[:-2]))
  plan = plans_lib.make(config).plan('prompts')
  assert len(plan.images_of(None)) == 36 and plan.prompts.count('') == 2
  # What says more than captions is not passed over.
  more = {'file_name': names[-1], 'text': 'a dog', 'label': 'dog'}
  if kind == 'jsonl':
    table.write_text('\n'.join([*text, json.dumps(more)]))
    with pytest.raises(inputs.InputError, match='labels and groups are read'):
      plans_lib.make(config)


def test_prompts_of_few_images_are_not_called_clean(root, tmp_path):
  config = config_of(root, min_size=13)
  with pytest.raises(inputs.InputError, match='no prompt has 13 images'):
    plans_lib.make(config)
  shutil.copytree(root / 'generated', tmp_path / 'generated')
  (tmp_path / 'generated' / 'a cat' / '3.png').unlink()
  shutil.copy(root / 'training' / '0.png', tmp_path / 'generated')
  config = config_of(root, min_size=12)
  config.generated = str(tmp_path / 'generated')
  run = stages.run_stages(
    config, str(tmp_path / 'run'), fail_if=['prompts.flagged > 1']
  )
  assert len(files.read_csv(by_prompt.Paths(run).prompts)) == 2
  text = run.report.read_text()
  assert '1 prompts of fewer images, and 1 images without a prompt' in text
  document = json.loads(run.document.read_text())
  assert [rule['status'] for rule in document['policies']] == ['pass']


def test_shards_are_no_prompts_and_names_are_as_they_are_shown():
  names = ['a.tar/cat/0.png', 'a.tar/cat/1.png', 'b.tar/dog/0.png']
  told = prompts_lib.of('folders', names, 'prompts.of', sharded=True)
  assert told == ('cat', 'cat', 'dog')
  names = ['how to open x.zip/0.png', 'how to open x.zip/1.png', 'y/0.png']
  told = prompts_lib.of('folders', names, 'prompts.of')
  assert told == ('how to open x.zip', 'how to open x.zip', 'y')
  with pytest.raises(inputs.InputError, match='all images are in the sub-'):
    prompts_lib.of('folders', ['x/0.png', 'x/1.png'], 'prompts.of')
  with pytest.raises(inputs.InputError, match='in no sub-folders'):
    prompts_lib.of(
      'folders', ['a.parquet/row 0', 'b.parquet/row 0'], 'prompts.of',
      sharded=True,
    )  # fmt: skip


def test_a_table_may_name_what_is_left_out(tmp_path):
  table = tmp_path / 'metadata.csv'
  lines = ['file_name,prompt', 'a\u00a0cat.png,cat', 'b.png,cat', 'c.png,dog']
  table.write_text('\n'.join([*lines, 'broken.png,dog']))
  names = [inputs.name_of('a\u00a0cat.png'), 'b.png', 'c.png']
  told = prompts_lib.of(str(table), names, 'prompts.of', ['broken.png'])
  assert told == ('cat', 'cat', 'dog')


def test_a_torn_part_is_made_again(root, finished):
  run, _ = finished
  paths = by_prompt.Paths(run)
  before, part = paths.prompts.read_bytes(), paths.part(0)
  whole = part.read_bytes()
  part.write_bytes(whole[:-40])
  by_prompt.find(plans_lib.make(config_of(root)).plan('prompts'), run)
  assert part.read_bytes() == whole and paths.prompts.read_bytes() == before


def test_values_that_make_no_sense_are_refused(root, tmp_path):
  with pytest.raises(inputs.InputError, match='multiple of prompts.grid'):
    plans_lib.make(config_of(root, image_size=30))
  with pytest.raises(inputs.InputError, match='leave nothing'):
    plans_lib.make(config_of(root, grid=64))
  config = config_of(root)
  config.generated = str(root / 'generated' / 'a cat')
  with pytest.raises(inputs.InputError, match='in no sub-folders'):
    plans_lib.make(config)


def test_prompts_that_change_are_another_run(root, tmp_path):
  config = config_of(root)
  stages.run_stages(config, str(tmp_path / 'run'), ['sample'])
  names = plans_lib.make(config).plan('prompts').images_of(None).names
  table = tmp_path / 'metadata.csv'
  table.write_text(
    '\n'.join(['file_name,prompt', *(f'{name},all the same' for name in names)])
  )
  before = tiny.digests(tmp_path / 'run')
  with pytest.raises(inputs.InputError, match='prompts'):
    stages.opened(config_of(root, of=str(table)), str(tmp_path / 'run'))
  assert tiny.digests(tmp_path / 'run') == before


def test_a_closed_model_is_audited_by_its_images_alone(root, tmp_path):
  config = config_of(root)
  config.training = config.holdout = ''
  run = stages.run_stages(config, str(tmp_path / 'run'))
  table = files.read_csv(by_prompt.Paths(run).prompts)
  assert table['clique_size'].tolist() == [12, 0, 0]
  text = run.report.read_text()
  assert 'no training image to compare them with' in text
  assert not (run.path / 'extraction').exists()


@pytest.mark.parametrize(
  ('keys', 'words'),
  [
    ({'prompts.of': '', 'holdout': ''}, 'training: name a folder'),
    ({}, 'holdout: is compared with training images'),
    (
      {'holdout': '', 'second_opinion.embeddings': 'e.npz'},
      'second_opinion: is about training images',
    ),
  ],
)
def test_without_training_images_there_is_nothing_to_compare(root, keys, words):
  config = config_of(root)
  config.training = ''
  config.update_from_flattened_dict(keys)
  with pytest.raises(inputs.InputError, match=words):
    plans_lib.make(config)
