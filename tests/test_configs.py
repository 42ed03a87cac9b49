"""Configs: arguments are parsed, unknown ones refused, all of them build."""

import importlib
import pathlib

import jax
import numpy as np
from PIL import Image
import pytest

from configs import common
from jaxdiff import plans as plans_lib
from jaxdiff import schema
from tests import tiny
from tests.data.readers import test_archives, test_image_files
from tests.interop import test_pipeline as pipelines

pytestmark = pytest.mark.slow

CONFIGS = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)


# Of subjects that are brought.
OTHERS = ('diffusers', 'folders', 'pipeline', 'scores')


@pytest.fixture(scope='module')
def data(tmp_path_factory):
  """A small set in each format that configs read."""
  root = tmp_path_factory.mktemp('data')
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (130, 28, 28), np.uint8)
  labels = rng.integers(0, 10, 130).astype(np.uint8)
  test_archives.mnist(
    root / 'fashion', test_archives.idx(images), test_archives.idx(labels)
  )
  batches = {}
  for i in range(1, 6):
    rows = rng.integers(0, 256, (26, 3073)).astype(np.uint8)
    rows[:, 0] %= 10
    batches[f'data_batch_{i}.bin'] = rows.tobytes()
  test_archives.tar(root / 'cifar.tar.gz', batches)
  (root / 'folder').mkdir()
  for i in range(130):
    pixels = rng.integers(0, 256, (9, 12, 3), np.uint8)
    file = test_image_files.encode(Image.fromarray(pixels))
    (root / 'folder' / f'{i}.png').write_bytes(file)
  np.savez(root / 'some.npz', images=images)
  plans = tiny.plans(num_models=1)
  params = plans.subject.train.init_fn(jax.random.key(0))
  plans.export(params, str(root / 'net'))
  (root / 'prompts.txt').write_text('a cat\na dog\n')
  np.save(root / 'in.npy', rng.random(50))
  np.save(root / 'out.npy', rng.random(50))
  return {
    'digits': '', 'openmoji': '', 'fashion_mnist': root / 'fashion',
    'cifar10': root / 'cifar.tar.gz', 'image_folder': root / 'folder',
    'folders': {
      'generated': str(root / 'folder'), 'training': str(root / 'some.npz'),
    },
    'diffusers': {
      'model': str(root / 'net'), 'training': str(root / 'some.npz'),
    },
    'scores': {
      'members': str(root / 'in.npy'), 'non_members': str(root / 'out.npy'),
    },
    'pipeline': {
      'model': str(pipelines.write(root / 'sd', 'sd1')),
      'prompts': str(root / 'prompts.txt'),
    },
  }  # fmt: skip


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds_and_states_its_command(name, data):
  module = importlib.import_module(f'configs.{name}')
  assert f'--config=configs/{name}.py' in module.__doc__
  args = (
    [None] if name in ('digits', 'digits_gan', *OTHERS) else [None, 'runlocal']
  )
  for arg in args:
    c = module.get_config(arg)
    if name in OTHERS:
      c.update(data[name])
    else:
      c.data.path = str(data[c.data.name])
    if name == 'fashion_mnist_private':
      c.train.batch_size = 16  # a share of few images here
    assert plans_lib.make(c).name == name


@pytest.mark.parametrize(
  ('name', 'arg'),
  [('digits', 'paper'), ('cifar10', 'paper'), ('cifar10', 'paper,runlocal'),
   ('fashion_mnist', 'paper'), ('fashion_mnist', 'paper,runlocal')],
)  # fmt: skip
def test_every_attack_is_a_word_away(name, arg, data):
  c = importlib.import_module(f'configs.{name}').get_config(arg)
  c.data.path = str(data[c.data.name])
  c.inpainting.num_images = min(c.inpainting.num_images, 4)  # of few here
  plans = plans_lib.make(c)
  assert (
    plans.plan('inpainting') and plans.plan('side') and plans.plan('canaries')
  )
  assert set(c.signals.kinds) == set(common.ALL_KINDS)


@pytest.mark.parametrize('name', ['ablations', 'cifar10_shadow', 'defences'])
@pytest.mark.parametrize('arg', [None, 'runlocal'])
def test_every_point_of_a_sweep_builds(name, arg, data):
  module = importlib.import_module(f'configs.{name}')
  points = module.sweep(arg)
  names = {}
  for point in points:
    c = module.get_config(arg)
    c.data.path = str(data[c.data.name])
    with c.ignore_type():
      c.update_from_flattened_dict(point['overrides'])
    plans_lib.make(c)
    assert names.setdefault(point['run'], c.to_dict()) == c.to_dict()
  assert len({(p['knob'], p['value']) for p in points}) == len(points)


@pytest.mark.parametrize(
  ('name', 'millions'), [('cifar10', 35.7), ('cifar10_improved', 52.5)]
)
def test_sizes_are_those_of_the_papers(name, millions, data):
  c = importlib.import_module(f'configs.{name}').get_config()
  c.data.path = str(data['cifar10'])
  shapes = jax.eval_shape(
    plans_lib.make(c).subject.train.init_fn, jax.random.key(0)
  )
  size = sum(leaf.size for leaf in jax.tree.leaves(shapes))
  assert round(size / 1e6, 1) == millions


def test_arguments():
  got = common.parse_arg('fast,res=32', fast=False, res=64, name='x')
  assert got.fast is True and got.res == 32 and got.name == 'x'
  assert common.parse_arg(None, fast=False).fast is False
  with pytest.raises(ValueError, match='fast'):
    common.parse_arg('slow', fast=False)


def test_the_documentation_is_that_of_the_schema():
  path = pathlib.Path(__file__).parents[1] / 'docs' / 'configuration.md'
  assert path.read_text() == '\n'.join(schema.lines()) + '\n', (
    'run: launch/local.sh python -m jaxdiff.schema > docs/configuration.md'
  )


def test_every_default_is_within_its_range_and_has_a_meaning():
  for name, key in (
    item for keys in schema.KEYS.values() for item in keys.items()
  ):
    assert key.meaning and (type(key.default) in (int, float)) == (
      key.low is not None
    ), name
    assert key.low is None or key.low <= key.default <= key.high, name
