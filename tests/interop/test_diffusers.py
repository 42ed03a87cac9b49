"""diffusers folders: parity by goldens, exchange both ways, bad folders."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff.diffusion import processes, samplers, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import diffusers, diffusers_weights
from jaxdiff.models import unet
from tests.goldens.unet_configs import UNETS, weights

pytestmark = pytest.mark.slow

HERE = pathlib.Path(__file__).parents[1] / 'goldens'
SHAPE = (8, 8, 3)


def model(name, diffusion=None, sample=None):
  net = unet.UNet(**UNETS[name])
  shape = (32, 32, 3) if name == 'cifar10' else SHAPE
  state = weights(diffusers_weights.shapes(net, shape))
  params = diffusers_weights.from_state_dict(state, net, shape)
  return diffusers.Pretrained(net, params, shape, diffusion, sample)


def nhwc(array):
  return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize('name', UNETS)
def test_forward_equals_diffusers(name):
  golden = np.load(HERE / f'diffusers_unet_{name}.npz')
  ours = model(name)
  assert sorted(diffusers_weights.shapes(ours.net, ours.image_shape)) == list(
    golden['keys']
  )
  labels = jnp.asarray(golden['labels']) if 'labels' in golden.files else None
  got = jax.jit(ours.net.apply)(
    ours.params, nhwc(golden['x']), jnp.asarray(golden['t']), labels
  )
  np.testing.assert_allclose(got, nhwc(golden['out']), atol=1e-4)


def test_a_whole_ddim_image_equals_the_pipeline_s():
  golden = np.load(HERE / 'diffusers_unet_cifar10.npz')
  ours = model('cifar10')
  size = sum(leaf.size for leaf in jax.tree.leaves(ours.params))
  assert round(size / 1e6, 1) == 35.7
  schedule = schedules.make()
  eps_fn = processes.make_eps_fn(
    lambda x, t, _: ours.net.apply(ours.params, x, t), schedule, 'epsilon'
  )
  steps = steps_lib.make_steps(schedule, 10, 'leading')
  run = jax.jit(
    lambda x: samplers.ddim(eps_fn, x, None, None, steps, clip_sample=True)
  )
  got = run(nhwc(golden['x'][:1]))
  np.testing.assert_allclose(got, nhwc(golden['ddim']), atol=1e-3)


@pytest.mark.parametrize('name', sorted(set(UNETS) - {'cifar10'}))
def test_a_folder_comes_back_as_it_was(name, tmp_path):
  diffusion = {
    'beta_schedule': 'squaredcos_cap_v2', 'num_train_timesteps': 400,
    'beta_start': 1e-4, 'beta_end': 0.02, 'prediction_type': 'v_prediction',
  }  # fmt: skip
  sample = {
    'timestep_spacing': 'linspace', 'variance': 'learned_range',
    'clip_sample': False,
  }  # fmt: skip
  ours = model(name, diffusion, sample)
  diffusers.write(tmp_path / 'out', ours)
  back = diffusers.read(tmp_path / 'out')
  assert back.net == ours.net
  assert back.image_shape == SHAPE
  assert (back.diffusion, back.sample) == (diffusion, sample)
  for one, two in zip(
    jax.tree.leaves(ours.params), jax.tree.leaves(back.params), strict=True
  ):
    np.testing.assert_array_equal(one, two)
  with pytest.raises(inputs.InputError, match='exists'):
    diffusers.write(tmp_path / 'out', ours)


def flat_folder(path, name='plain', config=None, state=None, scheduler=None):
  """A folder as old checkpoints have it: everything side by side."""
  ours = model(name)
  diffusers.write(path / 'made', ours)
  made = json.loads((path / 'made/unet/config.json').read_text())
  (path / 'config.json').write_text(json.dumps(made | (config or {})))
  state = (
    diffusers_weights.to_state_dict(ours.params) if state is None else state
  )
  (path / diffusers_weights.WEIGHTS).write_bytes(safetensors_numpy.save(state))
  if scheduler is not None:
    (path / 'scheduler_config.json').write_text(json.dumps(scheduler))
  return ours


def test_old_attention_names_and_flat_folders(tmp_path):
  state = diffusers_weights.to_state_dict(model('plain').params)
  old = {}
  for key, value in state.items():
    for legacy, today in (
      ('query', 'to_q'), ('key', 'to_k'), ('value', 'to_v'),
      ('proj_attn', 'to_out.0'),
    ):  # fmt: skip
      key = key.replace(f'.{today}.', f'.{legacy}.')
    old[key] = value
  assert set(old) != set(state)
  ours = flat_folder(
    tmp_path, state=old,
    scheduler={'_class_name': 'DDPMScheduler', 'variance_type': 'fixed_large'},
  )  # fmt: skip
  back = diffusers.read(tmp_path)
  assert back.sample['variance'] == 'large'
  assert back.diffusion['num_train_timesteps'] == 1000
  for one, two in zip(
    jax.tree.leaves(ours.params), jax.tree.leaves(back.params), strict=True
  ):
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
  ('config', 'message'),
  [
    ({'_class_name': 'UNet2DConditionModel'}, 'UNet2DConditionModel'),
    ({'down_block_types': ['SkipDownBlock2D', 'DownBlock2D']}, 'SkipDown'),
    ({'time_embedding_type': 'fourier'}, "'fourier' is not supported"),
    ({'class_embed_type': 'identity'}, "'identity' is not supported"),
    ({'resnet_time_scale_shift': 'spatial'}, "'spatial' is not supported"),
    ({'act_fn': 'tanh'}, "'tanh' is not supported"),
    ({'encoder_hid_dim': 7}, 'encoder_hid_dim = 7 is not supported'),
    ({'sample_size': None}, 'sample_size is missing'),
    ({'norm_num_groups': 4, 'layers_per_block': 2}, 'no tensor'),
    ({'layers_per_block': 1, 'add_attention': False}, 'knows nothing of'),
    ({'time_embedding_dim': 12}, 'has shape'),
  ],
)
def test_what_is_not_supported_is_named(config, message, tmp_path):
  flat_folder(tmp_path, config=config)
  with pytest.raises(inputs.InputError, match=message):
    diffusers.read(tmp_path)


@pytest.mark.parametrize(
  ('scheduler', 'message'),
  [
    ({'beta_schedule': 'sigmoid'}, "'sigmoid' is not supported"),
    ({'variance_type': 'learned'}, "'learned' is not supported"),
    ({'trained_betas': [0.1]}, 'trained_betas'),
    ({'set_alpha_to_one': False}, 'set_alpha_to_one'),
    ({'use_karras_sigmas': True}, 'use_karras_sigmas'),
  ],
)
def test_schedulers_that_are_not_supported_are_named(
  scheduler, message, tmp_path
):
  flat_folder(tmp_path, scheduler=scheduler)
  with pytest.raises(inputs.InputError, match=message):
    diffusers.read(tmp_path)


def test_broken_folders_are_refused_in_one_line(tmp_path):
  with pytest.raises(inputs.InputError, match='config.json'):
    diffusers.read(tmp_path)
  flat_folder(tmp_path)
  whole = (tmp_path / diffusers_weights.WEIGHTS).read_bytes()
  (tmp_path / diffusers_weights.WEIGHTS).write_bytes(whole[:-9])
  with pytest.raises(inputs.InputError, match='no whole safetensors'):
    diffusers.read(tmp_path)
  (tmp_path / diffusers_weights.WEIGHTS).unlink()
  (tmp_path / 'diffusion_pytorch_model.bin').write_bytes(b'a pickle')
  with pytest.raises(inputs.InputError, match='safetensors alone'):
    diffusers.read(tmp_path)
  (tmp_path / 'config.json').write_text('{')
  with pytest.raises(inputs.InputError, match='no JSON'):
    diffusers.read(tmp_path)
