"""GANs: a whole run, resumed, on several devices; beside diffusion models."""

import shutil

from etils import epath
import jax
import numpy as np
import pandas as pd
import pytest

from configs import digits_gan
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.membership import paths as membership_paths
from jaxdiff.pipeline import attack_checkpoints, stages
from jaxdiff.report import compare
from jaxdiff.runs import files, layout
from jaxdiff.runtime import mesh
from jaxdiff.training import loop
from tests import tiny

pytestmark = pytest.mark.slow


def config(**overrides):
  c = digits_gan.get_config()
  c.num_models = 6
  c.num_samples = 64
  c.data.num_examples = 64
  c.model.latent_size = 4
  c.model.generator_channels = (16,)
  c.model.discriminator_channels = (16,)
  c.train.num_steps = 20
  c.train.batch_size = 16
  c.train.log_every = 5
  c.train.checkpoint_every = 10
  c.train.max_to_keep = 0
  c.sample.batch_size = 32
  c.sample.block_size = 32
  c.signals.fakes = 8
  c.signals.batch_size = 32
  c.signals.block_size = 48
  c.membership.num_resamples = 40
  for key, value in overrides.items():
    c.update_from_flattened_dict({key.replace('__', '.'): value})
  return c


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """GANs and diffusion models of the same images, every checkpoint attacked."""
  root = tmp_path_factory.mktemp('families')
  attack_checkpoints.run_steps(config(), str(root / 'gan'))
  attack_checkpoints.run_steps(
    tiny.config(train__max_to_keep=0, num_models=6), str(root / 'diffusion')
  )
  return root


def runs_of(folder):
  return {
    name: layout.Run(epath.Path(folder / name)) for name in ('diffusion', 'gan')
  }


def test_the_report_says_what_was_done_and_what_not(folder):
  run = runs_of(folder)['gan']
  document = files.read_json(run.document)
  assert 'GANs, each trained for 20 steps' in document['subject']['description']
  stages_of = {metric['stage'] for metric in document['metrics']}
  assert stages_of >= {'membership', 'extraction', 'nearest_sample'}
  assert any('relativistic' in line for line in document['tested'])
  page = run.report.read_text()
  section = page.split('id="membership"')[1].split('<h2')[0]
  assert 'relativistic' in section and 'timestep' not in section
  assert 'noise predictor' in page  # why inpainting was not done
  names = set(files.read_csv(membership_paths.Paths(run).summary)['attack'])
  assert names >= {'relativistic', 'relativistic_lira', 'discriminator_rmia'}


def test_training_resumes_to_the_same_bits_on_devices_as_many(folder, tmp_path):
  plan = plans_lib.make(config()).subject.train
  block = layout.ModelBlock(epath.Path(tmp_path), 0, 3)
  on = lambda count, models: mesh.make(models, jax.devices()[:count])
  whole = loop.fit_block(plan, block, on(4, 4))
  (block.checkpoints / 'manifest-20.json').unlink()
  block.metrics_part(20).unlink()
  again = loop.fit_block(plan, block, on(4, 4))
  assert tiny.largest_difference(whole, again) == 0.0
  alone = loop.fit_block(
    plan, layout.ModelBlock(epath.Path(tmp_path) / 'alone', 2, 2), on(4, 1)
  )
  mine = jax.tree.map(lambda leaf: leaf[2:3], whole)
  assert tiny.largest_difference(mine.params, alone.params) <= 1e-4
  names = set(files.read_csv(runs_of(folder)['gan'].metrics)['name'])
  assert names == {
    'loss', 'generator_loss', 'penalty', 'grad_norm', 'param_norm',
  }  # fmt: skip


def test_it_stops_where_numbers_are_none(tmp_path):
  c = config(train__learning_rate=10.0, train__gamma=1e9, train__num_steps=200)
  c.model.discriminator_channels = (16,) * 6
  with pytest.raises(FloatingPointError, match=r'lower train.learning_rate'):
    stages.run_stages(c, str(tmp_path / 'run'), ['train'])


def test_families_side_by_side(folder, tmp_path):
  page = compare.write(runs_of(folder), epath.Path(tmp_path))
  table = files.read_csv(epath.Path(tmp_path) / 'compare.csv')
  assert set(table['family']) == {'diffusion', 'gan'}
  assert set(table['step']) == {10, 20}
  auc = (
    table[table['metric'] == 'membership auc'].groupby('family')['of'].first()
  )
  assert auc.to_dict() == {
    'diffusion': 'strong_lira',
    'gan': 'relativistic_lira',
  }
  shared = files.read_csv(epath.Path(tmp_path) / 'overlap.csv')
  assert (shared['population'] == 64).all() and len(shared) == 2
  text = page.read_text()
  for line in compare.in_words(table):
    assert line.endswith('.') and line.split(':')[0] in text


def test_words_follow_from_the_numbers(folder):
  run = runs_of(folder)['gan']
  table = compare.results('a', run)
  other = table.assign(family='b')
  row = other['metric'] == 'membership auc'
  table.loc[row, ['value', 'low', 'high']] = [0.6, 0.5, 0.7]
  for low, high, said in (
    (0.8, 0.9, 'b gives away more'), (0.1, 0.2, 'a gives away more'),
    (0.65, 0.9, 'cannot be told apart'),
  ):  # fmt: skip
    other.loc[row, ['value', 'low', 'high']] = [(low + high) / 2, low, high]
    lines = compare.in_words(pd.concat([table, other], ignore_index=True))
    of = next(line for line in lines if 'membership auc' in line)
    assert said in of


def test_what_cannot_be_compared(folder, tmp_path):
  runs = runs_of(folder)
  copy = tmp_path / 'copy'
  shutil.copytree(folder / 'gan', copy)
  other = layout.Run(epath.Path(copy))
  for name, change, said in (
    ('provenance', {'data_sha256': '0'}, 'of other images'),
    ('config', {'num_samples': 7}, 'who draws more finds more'),
  ):
    path = getattr(other, name)
    before = files.read_json(path)
    files.write_json(path, before | change)
    with pytest.raises(inputs.InputError, match=said):
      compare.check(runs | {'other': other})
    files.write_json(path, before)
  with pytest.raises(inputs.InputError, match='two runs at least'):
    compare.check({'gan': runs['gan']})
  with pytest.raises(inputs.InputError, match='no finished audit'):
    compare.check(runs | {'x': layout.Run(epath.Path(tmp_path / 'none'))})


@pytest.mark.parametrize(
  ('changes', 'said'),
  [
    ({'model__net': 'vit'}, "model.net: no 'vit'"),
    ({'signals__kinds': ('loss',)}, 'signals.kinds'),
    ({'model__generator_channels': ()}, 'model.generator_channels'),
    (
      {'model__net': 'conv', 'model__cardinality': 3},
      'model.cardinality: 3 does not divide',
    ),
    (
      {'model__net': 'conv', 'model__discriminator_channels': (8,) * 5},
      'model.discriminator_channels: 5 levels need images',
    ),
    ({'sample__classes': ('x',)}, "no class 'x'"),
    ({'membership__variance': 'none'}, 'membership.variance'),
  ],
)
def test_bad_configs(changes, said):
  with pytest.raises(inputs.InputError) as error:
    plans_lib.make(config(**changes))
  assert said in str(error.value) and '\n' not in str(error.value)


def test_samples_have_the_labels_that_were_asked_for():
  subject = plans_lib.make(config(sample__classes=('3', '5'))).subject
  assert subject.sample.classes == (3, 5)
  params = subject.train.init_fn(jax.random.key(0))
  x0 = subject.sample.sample_fn(
    params, jax.random.key(1), np.arange(4), np.array([3, 5, 3, 5])
  )
  assert x0.shape == (4, 8, 8, 1) and len(np.unique(x0[:, 0, 0, 0])) == 4
