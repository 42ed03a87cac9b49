"""What a user brings: one line that names it, before any long work."""

import dataclasses
import json
import multiprocessing
import os
import pathlib
import subprocess
import sys

from etils import epath
import jax
import numpy as np
import pandas as pd
import pytest
from safetensors import numpy as safetensors_numpy

from configs import common
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.extraction import annotations
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.data import datasets
from jaxdiff.data.readers import records
from jaxdiff.interop import diffusers, diffusers_config, diffusers_weights
from jaxdiff.pipeline import provenance, stages, sweep
from jaxdiff.plans import checks
from jaxdiff.plans import images as plans_images
from jaxdiff.runs import blocks, files, layout, locks, opening
from jaxdiff.sampling import quality as quality_lib
from jaxdiff.training import block_states, metrics_parts
from tests import tiny

pytestmark = pytest.mark.slow

ROOT = pathlib.Path(__file__).parents[1]


def test_a_message_is_one_harmless_line():
  forged = 'x.png\njaxdiff: all is well\x1b[2J'
  assert '\n' not in inputs.name_of(forged)
  assert '\x1b' not in inputs.name_of(forged)
  assert inputs.name_of('a\udcffb').encode()
  assert inputs.one_line('one\ntwo') == 'one'
  with (
    pytest.raises(inputs.InputError, match='x.png.*cannot be read: KeyError'),
    inputs.reading('x.png'),
  ):
    raise KeyError


@pytest.mark.parametrize('kind', ['pipe', 'folder', 'nothing', 'loop'])
def test_what_is_no_regular_file_is_not_opened(kind, tmp_path):
  path = tmp_path / 'x'
  if kind == 'pipe':
    os.mkfifo(path)
  elif kind == 'folder':
    path.mkdir()
  elif kind == 'loop':
    path.symlink_to(path)
  with pytest.raises(inputs.InputError, match='x'):
    inputs.read_bytes(path)


def test_a_file_larger_than_its_kind_or_the_memory_is_refused(tmp_path):
  path = tmp_path / 'x'
  path.write_bytes(b'12345')
  with pytest.raises(inputs.InputError, match='more than such a file'):
    inputs.read_bytes(path, most=4)
  with open(path, 'wb') as file:
    file.truncate(2**42)
  with pytest.raises(inputs.InputError, match='GB in memory'):
    inputs.read_bytes(path)


@pytest.mark.parametrize(
  'address', ['http://x/y', 'gs://bucket/x', 'file:///etc/passwd', 'hf://a/b']
)
def test_addresses_are_refused_where_a_file_is_meant(address):
  with pytest.raises(inputs.InputError, match='address'):
    inputs.local(address, 'model.init_from')


# The run folder


def test_a_link_in_place_of_a_temporary_file_is_not_followed(
  tmp_path, monkeypatch
):
  victim = tmp_path / 'victim'
  victim.write_text('mine')
  monkeypatch.setattr(files.secrets, 'token_hex', lambda n: '0' * 16)
  (tmp_path / f'.report.html.{"0" * 16}.tmp').symlink_to(victim)
  with pytest.raises(FileExistsError):
    files.write(epath.Path(tmp_path / 'report.html'), b'page')
  assert victim.read_text() == 'mine'


def test_what_killed_writes_left_goes_and_nothing_else(tmp_path):
  left = tmp_path / 'samples' / f'.00000000.npz.{"a" * 16}.tmp'
  left.parent.mkdir()
  left.write_bytes(b'half')
  others = [tmp_path / '.mine.tmp', tmp_path / 'thesis.tmp']
  for other in others:
    other.write_text('mine')
  files.remove_leftovers(epath.Path(tmp_path))
  assert not left.exists() and all(other.exists() for other in others)


def hold(path, held, done):
  with locks.lock(epath.Path(path)):
    held.set()
    done.wait(60)


def test_a_folder_is_one_process_at_a_time(tmp_path):
  context = multiprocessing.get_context('spawn')
  held, done = context.Event(), context.Event()
  other = context.Process(target=hold, args=(str(tmp_path), held, done))
  other.start()
  assert held.wait(60)
  with (
    pytest.raises(inputs.InputError, match=rf'process {other.pid} on \S+'),
    locks.lock(epath.Path(tmp_path)),
  ):
    pass
  # However it ends, its lock ends with it.
  other.kill()
  other.join()
  with locks.lock(epath.Path(tmp_path)), locks.lock(epath.Path(tmp_path)):
    assert str(os.getpid()) in (tmp_path / 'run.lock').read_text()


def test_blocks_of_another_model_run_or_rows_are_absent(tmp_path):
  path = epath.Path(tmp_path / 'x.npz')
  rows = np.arange(4)
  blocks.write_block(path, 'this', 1, indices=rows, a=rows)
  assert blocks.read_block(path, 'this', 1, rows, 'a') is not None
  assert blocks.read_block(path, 'that', 1, rows, 'a') is None
  assert blocks.read_block(path, 'this', 2, rows, 'a') is None
  assert blocks.read_block(path, 'this', 1, rows + 4, 'a') is None
  assert blocks.read_block(path, 'this', 1, rows, 'b') is None


def test_tables_hold_no_formula(tmp_path):
  path = epath.Path(tmp_path / 'x.csv')
  cells = ['=cmd()', '+1', '-', '-1', '@x', '\tx', 'plain', '25/50']
  files.write_csv(path, pd.DataFrame({'x': cells}))
  got = files.read_csv(path)['x'].astype(str).tolist()
  assert got == ["'=cmd()", '+1', '-', '-1', "'@x", "'\tx", 'plain', '25/50']


def test_a_damaged_part_of_the_metrics_is_refused(tmp_path):
  path = epath.Path(tmp_path / '00000010.csv')
  part = pd.DataFrame(
    {'model': [0], 'step': [5], 'name': ['loss'], 'value': [1.5]}
  )
  metrics_parts.write_part(path, part)
  pd.testing.assert_frame_equal(metrics_parts.read_part(path), part)
  whole = path.read_bytes()
  for damaged in (whole[:-3], whole.replace(b'1.5', b'1.6'), b''):
    path.write_bytes(damaged)
    with pytest.raises(inputs.InputError, match='00000010.csv is damaged'):
      metrics_parts.read_part(path)


def test_a_table_that_was_changed_is_not_reported(tmp_path):
  run = layout.Run(epath.Path(tmp_path))
  files.write_csv(
    quality_lib.Paths(run).quality, pd.DataFrame({'value': [1, 2]})
  )
  reported = quality_lib.Paths.reported()
  files.write_json(run.tables, opening.table_digests(run, reported))
  opening.check_tables(run, reported)
  whole = quality_lib.Paths(run).quality.read_bytes()
  for damage in (lambda p: p.write_bytes(whole[:-2]), lambda p: p.unlink()):
    damage(quality_lib.Paths(run).quality)
    with pytest.raises(inputs.InputError, match='quality.csv.*launch.attack'):
      opening.check_tables(run, reported)
    quality_lib.Paths(run).quality.write_bytes(whole)
  run.tables.unlink()
  with pytest.raises(inputs.InputError, match='tables.json'):
    opening.check_tables(run, reported)


@pytest.mark.parametrize(
  ('content', 'message'),
  [
    (b'', 'no table'),
    ('model,sample,memorised\n0,1,yes\n'.encode('utf-16'), 'no table|columns'),
    (b'model,sample,memorised\n0,1,"yes\n', 'no table'),
    (b'model,sample\n0,1\n', 'columns'),
    (b'model,sample,memorised\nmodel-000,1,yes\n', "model is 'model-000'"),
    (b'model,sample,memorised\n1.5,1,yes\n', "model is '1.5'"),
    (b'model,sample,memorised\n,1,yes\n', "model is ''"),
    (b'model,sample,memorised\n9,1,yes\n', 'one of 0 to 3'),
    (b'model,sample,memorised\n0,64,yes\n', 'line 2: sample'),
    (b'model,sample,memorised\n0,1,\n', 'yes or no'),
    (b'model,sample,memorised\n0,1,yes\n0,1,no\n', 'two verdicts'),
    (b'model,sample,memorised\n99999999999999999999,1,yes\n', 'its number'),
  ],
)
def test_annotations_are_checked(content, message, tmp_path):
  run = layout.Run(epath.Path(tmp_path))
  extraction_paths.Paths(run).annotations.write_bytes(content)
  with pytest.raises(inputs.InputError, match=message) as error:
    annotations.read_annotations(run, 4, 64)
  assert '\n' not in str(error.value)
  extraction_paths.Paths(run).annotations.write_bytes(
    b'model,sample,memorised\n0,1,Yes\n3,2,0\n'
  )
  said = annotations.read_annotations(run, 4, 64)
  assert said['memorised'].tolist() == [1, 0]


# Configs


@pytest.mark.parametrize(
  ('key', 'value', 'message'),
  [
    ('train__num_steps', None, 'train.num_steps: None must be a whole number'),
    ('train__learning_rate', float('inf'), 'finite'),
    ('train__learning_rate', 1e15, 'within'),
    ('diffusion__beta_start', 0.0, 'diffusion.beta_start: 0.0 must be within'),
    ('diffusion__beta_end', 1.0, 'diffusion.beta_end: 1.0 must be within'),
    ('diffusion__beta_start', 0.5, 'is above'),
    ('model__layers_per_block', 10**9, 'model.layers_per_block'),
    ('model__block_out_channels', (16,) * 1000, '1000 levels'),
    ('model__block_out_channels', (-16, 32), 'whole numbers'),
    ('model__attn_norm_num_groups', -1, 'attn_norm_num_groups'),
    ('model__norm_eps', float('nan'), 'norm_eps'),
    ('model__freq_shift', float('inf'), 'freq_shift'),
    ('model__mid_block_scale_factor', 0.0, 'mid_block_scale_factor'),
    ('model__freq_shift', 4.0, 'freq_shift'),
    ('model__attn_norm_num_groups', 7, 'attn_norm_num_groups'),
    ('side__num_clusters', 1, 'side.num_clusters'),
    ('num_models', 10**12, 'num_models'),
    ('data__channels', 5, 'data.channels'),
    ('side__learning_rate', float('inf'), 'side.learning_rate'),
    ('side__scale', float('inf'), 'side.scale'),
    ('membership__num_resamples', 1, 'membership.num_resamples'),
    ('sample__classes', ('cat',), 'class-conditional'),
    ('split', 'thirds', 'split'),
  ],
)
def test_values_are_refused_before_any_work(key, value, message):
  c = tiny.config()
  with c.ignore_type():
    *path, leaf = key.split('__')
    node = c
    for name in path:
      node = node[name]
    node[leaf] = value
  with pytest.raises(inputs.InputError, match=message) as error:
    plans_lib.check(c)
  assert '\n' not in str(error.value)


def test_a_key_with_a_typing_error_is_no_new_key():
  c = common.get_defaults()
  with pytest.raises((AttributeError, KeyError), match='num_steps'):
    c.train.num_step = 5
  with c.unlocked():
    c.train.num_step = 5
  with pytest.raises(inputs.InputError, match='did you mean train.num_steps'):
    plans_lib.check(c)


def test_classes_are_asked_for_by_name():
  images = np.zeros((3, 2, 2, 1), np.uint8)
  codes, names = datasets.codes(['10', '2', '1'])
  numbers = datasets.make(images, codes, ['a', 'b', 'c'], names=names)
  assert codes.tolist() == [2, 1, 0] and names == ('1', '2', '10')
  assert checks.labels_of((1, '10'), numbers) == (0, 2)
  with pytest.raises(ValueError, match='no class 0'):
    checks.labels_of((0,), numbers)
  codes, names = datasets.codes(['dog', 'cat', 'dog'])
  words = datasets.make(images, codes, ['a', 'b', 'c'], names=names)
  assert checks.labels_of(('dog', 0), words) == (1, 0)
  for wrong in ('bird', 2, -1, 1.5):
    with pytest.raises(ValueError, match='sample.classes'):
      checks.labels_of((wrong,), words)


# What a run depends on


def test_settings_of_the_environment_change_nothing(tmp_path):
  program = (
    'from jaxdiff.runtime import settings; settings.fix(); import jax; '
    'print(jax.random.normal(jax.random.key(3), (3,)).tolist())'
  )
  said = []
  for extra in (
    {}, {'JAX_DEFAULT_PRNG_IMPL': 'rbg', 'JAX_THREEFRY_PARTITIONABLE': '0',
         'JAX_ENABLE_X64': '1', 'JAX_RANDOM_SEED_OFFSET': '5'},
  ):  # fmt: skip
    said.append(
      subprocess.run(
        [sys.executable, '-c', program],
        cwd=ROOT, env=os.environ | extra, capture_output=True, text=True,
        check=True,
      ).stdout
    )  # fmt: skip
  assert said[0] == said[1]


def small(**overrides):
  return tiny.config(
    num_models=2, train__models_per_block=2, train__num_steps=4,
    train__log_every=2, train__checkpoint_every=4, **overrides,
  )  # fmt: skip


def test_a_folder_says_what_it_was_made_from_and_keeps_to_it(tmp_path):
  folder = tmp_path / 'run'
  stages.run_stages(small(), str(folder), ['train'])
  assert (folder.stat().st_mode & 0o077) == 0
  record = json.loads((folder / 'provenance.json').read_text())
  assert record['settings']['jax_default_prng_impl'] == 'threefry2x32'

  def sealed(**changes):
    changed = {k: v for k, v in (record | changes).items() if k != 'sha256'}
    return json.dumps(changed | {'sha256': provenance._digest(changed)})

  other = record['settings'] | {'jax_enable_x64': True}
  for content, message in (
    (sealed(settings=other), 'jax_enable_x64'),
    (sealed(inputs={'model.init_from': 'x'}), 'init_from'),
    (sealed(data_sha256='x'), 'other images'),
    (json.dumps(record | {'data_sha256': 'x'}), 'SHA-256 differs'),
    ('{"data', 'damaged'),
    ('[]', 'damaged'),
    (None, 'provenance.json is missing'),
  ):
    path = folder / 'provenance.json'
    path.unlink(missing_ok=True)
    if content is not None:
      path.write_text(content)
    with pytest.raises(inputs.InputError, match=message):
      stages.run_stages(small(), str(folder), ['train'])
  path.write_text(json.dumps(record))
  # The same images elsewhere are the same images.
  stages.run_stages(small(data__path='/elsewhere'), str(folder), ['train'])
  # Weights of another run are no weights of this one.
  other = small()
  plans = plans_lib.make(other)
  run = layout.Run(epath.Path(folder), identity='another')
  train = plans.subject.train
  assert not block_states.is_trained(train, train.ensemble.blocks(run)[0])


# diffusers folders


@pytest.fixture(scope='module')
def net_folder(tmp_path_factory):
  plans = tiny.plans()
  folder = tmp_path_factory.mktemp('net') / 'net'
  params = plans.subject.train.init_fn(jax.random.key(0))
  plans.export(params, str(folder))
  return folder


def copied(net_folder, tmp_path):
  folder = tmp_path / 'net'
  tmp_path.mkdir(exist_ok=True)
  subprocess.run(['cp', '-r', net_folder, folder], check=True)
  return folder


def test_an_export_removes_nothing_that_it_did_not_make(tmp_path, monkeypatch):
  thesis = tmp_path / 'x.tmp'
  thesis.mkdir()
  (thesis / 'file').write_text('mine')
  plans = tiny.plans()
  params = plans.subject.train.init_fn(jax.random.key(0))
  plans.export(params, str(tmp_path / 'x'))
  assert (thesis / 'file').read_text() == 'mine'
  with pytest.raises(inputs.InputError, match='exists'):
    plans.export(params, str(tmp_path / 'x'))

  def fail(*args, **kwargs):
    raise OSError('no space')

  monkeypatch.setattr(diffusers.files, 'write', fail)
  with pytest.raises(OSError, match='no space'):
    plans.export(params, str(tmp_path / 'y'))
  assert sorted(p.name for p in tmp_path.iterdir()) == ['x', 'x.tmp']


@pytest.mark.parametrize('key', diffusers_config._SCHEMA)
def test_values_of_another_kind_are_named(key, net_folder, tmp_path):
  folder = copied(net_folder, tmp_path)
  file = folder / 'unet' / 'config.json'
  if key in json.loads(
    (folder / 'scheduler/scheduler_config.json').read_text()
  ):
    file = folder / 'scheduler' / 'scheduler_config.json'
  config = json.loads(file.read_text())
  for value in ({}, [[]], -1, 'x' * 100, 1e400, [None], 10**9):
    if diffusers_config._SCHEMA[key][0](value):
      continue
    file.write_text(json.dumps(config | {key: value}))
    with pytest.raises(inputs.InputError, match=key) as error:
      diffusers.read(str(folder))
    assert '\n' not in str(error.value)


@pytest.mark.parametrize(
  'dtype', ['int8', 'bool', 'nan', 'bfloat16', 'float16']
)
def test_weights_are_finite_floats(dtype, net_folder, tmp_path):
  import ml_dtypes

  folder = copied(net_folder, tmp_path)
  path = folder / 'unet' / diffusers_weights.WEIGHTS
  state = safetensors_numpy.load_file(path)
  before = diffusers.read(str(folder)).params
  if dtype == 'nan':
    name = min(state)
    state[name] = np.full_like(state[name], np.nan)
  else:
    kind = ml_dtypes.bfloat16 if dtype == 'bfloat16' else np.dtype(dtype)
    state = {name: value.astype(kind) for name, value in state.items()}
  safetensors_numpy.save_file(state, path)
  if dtype in ('bfloat16', 'float16'):
    after = diffusers.read(str(folder)).params
    assert 0 < tiny.largest_difference(before, after) < 0.02
  else:
    with pytest.raises(inputs.InputError, match='finite|floating'):
      diffusers.read(str(folder))


def test_another_schedule_than_the_folders_is_refused(net_folder, tmp_path):
  for key, value in (
    ('prediction_type', 'v_prediction'), ('beta_schedule', 'squaredcos_cap_v2'),
  ):  # fmt: skip
    folder = copied(net_folder, tmp_path / key)
    file = folder / 'scheduler' / 'scheduler_config.json'
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {key: value}))
    with pytest.raises(inputs.InputError, match=key):
      plans_lib.make(tiny.config(model__init_from=str(folder)))
  plans_lib.make(tiny.config(model__init_from=str(net_folder)))


def test_features_that_name_a_module_are_not_imported(tmp_path):
  folder = tmp_path / 'mine' / '1.0.0'
  folder.mkdir(parents=True)
  good = 'tensorflow_datasets.core.features.features_dict.FeaturesDict'
  for bad in (
    'this.Feature', 'os.path.Feature',
    'tensorflow_datasets.core.features.image_feature_evil.x.Y',
  ):  # fmt: skip
    found = {'pythonClassName': good, 'inner': [{'pythonClassName': bad}]}
    (folder / 'features.json').write_text(json.dumps(found))
    with pytest.raises(inputs.InputError, match='not admitted'):
      records.tfds(str(tmp_path), 'mine', 'train')
  for name in ('../mine', 'http://x/y', 'os.path:Builder'):
    with pytest.raises(inputs.InputError, match='tfds_name'):
      records.tfds(str(tmp_path), name, 'train')


def test_a_dataset_of_few_groups_is_refused():
  images = np.random.default_rng(0).integers(0, 256, (32, 8, 8, 1), np.uint8)
  few = datasets.make(
    images, np.zeros(32, np.int32), np.arange(32), group=np.arange(32) // 16
  )
  with pytest.raises(inputs.InputError, match='2 groups'):
    plans_lib.make(tiny.config(data__num_examples=32), few)
  equal = datasets.make(
    np.zeros_like(images), np.zeros(32, np.int32), np.arange(32)
  )
  joined = plans_images.join_duplicates(equal, 0.02, False)
  assert dataclasses.asdict(joined)['image'].max() == 0
  with pytest.raises(inputs.InputError, match='near-duplicates'):
    plans_lib.make(tiny.config(data__num_examples=32), joined)


def test_a_sweep_without_points_has_nothing_to_run():
  with pytest.raises(inputs.InputError, match='no points'):
    sweep.sweep_configs(tiny.config(), [])


def test_a_bucket_without_its_package_is_one_line(monkeypatch):
  class Missing:
    def __init__(self, path):
      pass

    def exists(self):
      raise ImportError('Please install gcsfs')

  monkeypatch.setattr(layout.epath, 'Path', Missing)
  with pytest.raises(inputs.InputError, match='gcsfs .JAXDIFF_EXTRAS=tpu'):
    layout.folder('gs://bucket/run')
