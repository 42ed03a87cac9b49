"""A model in a diffusers folder, audited from the folder alone."""

import json
import shutil

import numpy as np
from PIL import Image
import pytest

from configs import diffusers as diffusers_config
from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.pipeline import stages
from jaxdiff.runs import files
from jaxdiff.runtime import mesh
from tests import tiny

pytestmark = pytest.mark.slow

FOLDERS = 4


@pytest.fixture(scope='module')
def brought(tmp_path_factory):
  """Three folders of tiny nets with weights that matter, and their images."""
  root = tmp_path_factory.mktemp('brought')
  plans = tiny.plans(num_models=4, train__models_per_block=4)
  params = tiny.random_params(plans.subject.train, 4)
  for number in range(FOLDERS):
    one = {
      'params': _pick(params['params'], number),
    }  # fmt: skip
    plans.export(one, str(root / f'net{number}'))
  images = plans.dataset.images
  np.savez(root / 'training.npz', images=images[:32])
  np.savez(root / 'holdout.npz', images=images[32:])
  return {
    'model': str(root / 'net0'),
    'training': str(root / 'training.npz'),
    'holdout': str(root / 'holdout.npz'),
    'references': ','.join(str(root / f'net{k}') for k in (1, 2, 3)),
  }, params, plans  # fmt: skip


def _pick(tree, number):
  if isinstance(tree, dict):
    return {name: _pick(leaf, number) for name, leaf in tree.items()}
  # Nets differ: a little noise of their own.
  rng = np.random.default_rng(number)
  return tree[number] + 0.01 * rng.standard_normal(tree[number].shape).astype(
    np.float32
  )


def config_of(**keys):
  config = diffusers_config.get_config()
  config.num_samples = 64
  config.sample.num_steps = 4
  config.sample.block_size = 64
  config.sample.batch_size = 32
  config.signals.timesteps = (50, 100, 400)
  config.signals.draws = 2
  config.signals.batch_size = 32
  config.signals.block_size = 48
  config.membership.num_resamples = 40
  config.update(keys)
  return config


@pytest.fixture(scope='module')
def finished(tmp_path_factory, brought):
  folder = tmp_path_factory.mktemp('audit') / 'run'
  return stages.run_stages(config_of(**brought[0]), str(folder))


def test_it_is_sampled_attacked_and_reported(finished):
  table = files.read_csv(finished.path / 'membership' / 'comparison.csv')
  assert {'threshold', 'offline_lira', 'offline_rmia'} <= set(table['attack'])
  assert not {'lira', 'rmia'} & set(table['attack'])
  scores = files.read_csv(finished.path / 'membership' / 'scores.csv')
  assert set(scores['model']) == {0}
  extraction = files.read_csv(finished.path / 'extraction' / 'summary.csv')
  assert set(extraction['setting']) == {'controlled', 'paper'}
  text = finished.report.read_text()
  assert 'Samples of this model give away' in text
  assert '64 samples (DDPM, 4 steps); 3 reference models' in text
  assert 'inpainting: it needs models that trained on other images' in text
  found = json.loads(finished.document.read_text())
  fields = {row['field'] for row in found['metrics']}
  assert 'membership.offline_rmia.auc' in fields


def test_losses_and_samples_are_those_of_the_same_weights(finished, brought):
  """What a folder gives is what its net gave before it was written."""
  keys, written, plans = brought
  config = config_of(**keys)
  made = plans_lib.make(config)
  (block,) = made.subject.ensemble.blocks(finished)[:1]
  params = made.subject.ensemble.restore(block, mesh.make(1))
  x0 = np.zeros((2, 8, 8, 1), np.float32)
  t = np.array([100, 400])
  one = _pick(written['params'], 0)
  ours = made.subject.eps_fn_of({'params': _first(params['params'])})
  theirs = plans.subject.eps_fn_of({'params': one})
  np.testing.assert_allclose(
    ours(x0 + 0.3, t, None)[0], theirs(x0 + 0.3, t, None)[0], atol=1e-5
  )


def _first(tree):
  if isinstance(tree, dict):
    return {name: _first(leaf) for name, leaf in tree.items()}
  return np.asarray(tree)[0]


SCHEDULERS = {
  'DDIMScheduler': {'set_alpha_to_one': True, 'steps_offset': 0},
  'DPMSolverMultistepScheduler': {
    'algorithm_type': 'dpmsolver++', 'solver_order': 2,
    'use_flow_sigmas': False, 'use_karras_sigmas': False,
    'final_sigmas_type': 'zero',
    'lambda_min_clipped': -float('inf'), 'variance_type': None,
    'timestep_spacing': 'linspace', 'euler_at_final': False,
  },
  'EulerDiscreteScheduler': {
    'interpolation_type': 'linear', 'sigma_max': None, 'sigma_min': None,
    'timestep_type': 'discrete', 'use_karras_sigmas': False,
    'rescale_betas_zero_snr': False, 'steps_offset': 1,
  },
}  # fmt: skip


@pytest.mark.parametrize('kind', SCHEDULERS)
def test_every_scheduler_gives_the_noise_of_training(tmp_path, brought, kind):
  shutil.copytree(brought[0]['model'], tmp_path / 'net')
  path = tmp_path / 'net' / 'scheduler' / 'scheduler_config.json'
  config = json.loads(path.read_text())
  for name in ('variance_type', 'clip_sample', 'timestep_spacing'):
    config.pop(name)
  config |= {'_class_name': kind, **SCHEDULERS[kind]}
  path.write_text(json.dumps(config))
  made = plans_lib.make(
    config_of(**brought[0] | {'model': str(tmp_path / 'net')})
  )
  plans = brought[2]
  np.testing.assert_array_equal(
    made.subject.schedule.signal_scale(np.arange(1000)),
    plans.subject.schedule.signal_scale(np.arange(1000)),
  )
  said = made.subject.told.subject
  assert 'DDIM, 4 steps' in said
  assert ('in place of' in said) == (kind != 'DDIMScheduler')


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'_class_name': 'FlowMatchEulerDiscreteScheduler'}, 'not supported'),
    ({'_class_name': 'EulerDiscreteScheduler',
      'use_flow_sigmas': True}, 'flow'),
    ({'_class_name': 'EulerDiscreteScheduler',
      'rescale_betas_zero_snr': True}, 'rescale_betas_zero_snr'),
    ({'thresholding': True}, 'thresholding'),
    (None, 'no scheduler_config.json'),
  ],
)  # fmt: skip
def test_noise_that_is_not_known_here_is_refused(
  tmp_path, brought, change, message
):
  shutil.copytree(brought[0]['model'], tmp_path / 'net')
  path = tmp_path / 'net' / 'scheduler' / 'scheduler_config.json'
  if change is None:
    path.unlink()
  else:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
  with pytest.raises(inputs.InputError, match=message):
    plans_lib.make(config_of(**brought[0] | {'model': str(tmp_path / 'net')}))


@pytest.mark.parametrize(
  ('keys', 'message'),
  [
    ({'model': ''}, 'model: name a folder'),
    ({'model': '/nowhere'}, 'model: no folder'),
    ({'references': '/nowhere'}, 'references: no folder'),
    ({'references': 'model'}, 'references: number 1 is model itself'),
    (
      {
        'signals.published': True,
        'signals.kinds': ('loss', 'secmi'),
        'signals.timesteps': (100, 995),
        'signals.stride': 5,
      },
      'secmi needs',
    ),
    ({'signals.timesteps': (100, 5000)}, 'must lie in 0 .. 999'),
    ({'signals.kinds': ('loss', 'gsa')}, 'gsa'),
    ({'sample.sampler': 'euler'}, "sample.sampler: no 'euler'"),
    ({'num_samples': 65}, 'num_samples: 65'),
  ],
)
def test_bad_values_are_one_line(brought, keys, message):
  if keys.get('references') == 'model':
    keys = {'references': brought[0]['model']}
  config = config_of(**brought[0])
  config.update_from_flattened_dict(keys)
  with pytest.raises(inputs.InputError, match=message):
    plans_lib.make(config)


def test_without_a_hold_out_it_is_sampled_and_compared(tmp_path, brought):
  keys = {name: brought[0][name] for name in ('model', 'training')}
  run = stages.run_stages(config_of(**keys), str(tmp_path / 'run'))
  assert not (run.path / 'membership').exists()
  text = run.report.read_text()
  assert 'cannot be said without held-out images' in text
  assert 'images that were not trained on, which a diffusers' in text


@pytest.fixture(scope='module')
def conditional(tmp_path_factory):
  """A net that is told ten classes."""
  folder = tmp_path_factory.mktemp('conditional') / 'net'
  plans = tiny.plans(num_models=1, model__class_conditional=True)
  params = tiny.random_params(plans.subject.train, 1)
  one = {'params': _first(params['params'])}
  plans.export(one, str(folder))
  return str(folder)


def classes(root, images, names):
  for change, name in enumerate(names, start=1):
    (root / name).mkdir(parents=True)
    for number in range(12):
      pixels = images[number, ..., 0] ^ (16 * change)
      Image.fromarray(pixels.astype(np.uint8)).save(
        root / name / f'{number}.png'
      )
  return str(root)


def test_classes_are_the_numbers_of_the_sub_folders(
  tmp_path, conditional, brought
):
  images = brought[2].dataset.images
  some = ('1', '4', '9')
  keys = {
    'model': conditional,
    'training': classes(tmp_path / 'training', images, some),
    'holdout': classes(tmp_path / 'holdout', 255 - images, some),
  }
  examples = plans_lib.make(config_of(**keys)).subject.examples
  assert set(examples.cond) == {1, 4, 9}
  other = classes(tmp_path / 'other', 255 - images, ('1', '4'))
  with pytest.raises(inputs.InputError, match='10 classes'):
    plans_lib.make(config_of(**keys | {'holdout': other}))
  words = classes(tmp_path / 'words', images, ('cat', 'dog'))
  with pytest.raises(inputs.InputError, match='10 classes'):
    plans_lib.make(config_of(**keys | {'training': words, 'holdout': ''}))


def test_a_reference_of_another_net_is_refused(tmp_path, brought):
  plans = tiny.plans(num_models=1, model__block_out_channels=(16,))
  params = tiny.random_params(plans.subject.train, 1)
  one = {'params': _first(params['params'])}
  plans.export(one, str(tmp_path / 'other'))
  with pytest.raises(inputs.InputError, match='another net'):
    plans_lib.make(
      config_of(**brought[0] | {'references': str(tmp_path / 'other')})
    )
