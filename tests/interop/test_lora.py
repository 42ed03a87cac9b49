"""Adapters: added to the weights that they name, others refused."""

import json

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff import plans as plans_lib
from jaxdiff.interop import lora, pipeline
from tests import adapters, captioned
from tests.interop import test_pipeline as folders

# Of the denoiser with the adapters of style 'peft'.
PEER = (682.8722349345599, 3418.2159650734507)
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def sd1(tmp_path_factory):
  return folders.write(tmp_path_factory.mktemp('lora') / 'sd1', 'sd1')


def shapes_of(model):
  return {
    name: {key: part.weights.shape(key) for key in part.weights}
    for name, part in model.parts.items()
    if name in adapters.MODULES
  }


def save(path, state, **metadata):
  path.write_bytes(safetensors_numpy.save(state, metadata or None))
  return str(path)


@pytest.mark.parametrize('style', adapters.STYLES)
def test_each_weight_is_its_own_and_the_product_of_its_factors(
  sd1, tmp_path, style
):
  model = pipeline.read(str(sd1))
  state, added = adapters.make(shapes_of(model), style)
  assert len(added) > 15 and len({part for part, _ in added}) == 2
  path = save(tmp_path / 'a.safetensors', state)
  adapted = lora.adapt(model, f'{path}*0.5, {path}')
  for name, part in adapted.parts.items():
    for key in part.weights:
      want = model.parts[name].weights[key].astype(np.float64)
      if (name, key) in added:
        want = want + 1.5 * added[name, key]
      np.testing.assert_allclose(part.weights[key], want, atol=1e-6)
  assert part.weights.shape(key) == want.shape
  # What diffusers 0.42.1 and peft 0.21.2 make of the same files: sums of all
  # weights and of their squares (fuse_lora, of the denoiser).
  if style != 'kohya':
    alone = lora.adapt(model, path).denoiser.weights
    values = np.concatenate([alone[key].ravel() for key in sorted(alone)])
    found = (
      values.sum(dtype=np.float64),
      np.square(values, dtype=np.float64).sum(),
    )
    np.testing.assert_allclose(found, PEER, rtol=1e-6)


def test_alphas_of_metadata(sd1, tmp_path):
  model = pipeline.read(str(sd1))
  state, added = adapters.make(shapes_of(model), 'peft')
  (part, key), *_ = added

  def moved(**told):
    path = save(
      tmp_path / 'a.safetensors', state,
      lora_adapter_metadata=json.dumps(told),
    )  # fmt: skip
    adapted = lora.adapt(model, path).parts[part].weights[key]
    return (adapted - model.parts[part].weights[key]) / added[part, key]

  np.testing.assert_allclose(moved(), 1.0, rtol=1e-3)
  told = {f'{part}.lora_alpha': 4, f'{part}.r': 2}
  np.testing.assert_allclose(moved(**told), 2.0, rtol=1e-3)
  told[f'{part}.use_rslora'] = True
  np.testing.assert_allclose(moved(**told), 4 / np.sqrt(2), rtol=1e-3)
  told = {f'{part}.alpha_pattern': {key.removesuffix('.weight'): 6}}
  np.testing.assert_allclose(moved(**told), 3.0, rtol=1e-3)
  with pytest.raises(inputs.InputError, match='is a DoRA'):
    moved(**{f'{part}.use_dora': True})


@pytest.mark.parametrize(
  ('name', 'place'),
  [
    (
      'lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q',
      ('unet', 'down_blocks_1_attentions_0_transformer_blocks_0_attn1_to_q'),
    ),
    (
      'lora_unet_middle_block_1_proj_in',
      ('unet', 'mid_block_attentions_0_proj_in'),
    ),
    (
      'lora_unet_output_blocks_5_1_proj_out',
      ('unet', 'up_blocks_1_attentions_2_proj_out'),
    ),
    (
      'unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.'
      'to_out_lora',
      ('unet', 'mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0'),
    ),
    (
      'lora_te2_text_model_encoder_layers_0_mlp_fc1',
      ('text_encoder_2', 'encoder_layers_0_mlp_fc1'),
    ),
    ('something.else', None),
  ],
)
def test_names_of_other_trainers(name, place):
  assert lora._place(name) == place


def test_bad_files_are_one_line(sd1, tmp_path):
  model = pipeline.read(str(sd1))
  whole, _ = adapters.make(shapes_of(model), 'peft')
  first = min(whole)
  alpha = first.replace('lora_A.weight', 'alpha')
  kohya, _ = adapters.make(shapes_of(model), 'kohya')
  key = 'unet.mid_block.attentions.0.proj_in.lora_A.weight'
  cases = [
    ({**whole, 'unet.x.lora_A.weight': whole[first],
      'unet.x.lora_B.weight': whole[first]}, 'unet.x.* is no module'),
    ({**whole, 'vae.x.lora_A.weight': whole[first],
      'vae.x.lora_B.weight': whole[first]}, 'vae.x.* is no module'),
    ({k: v for k, v in whole.items() if k != first}, 'lacks one'),
    ({**whole, first: whole[first][:1]}, 'has factors'),
    ({**whole, key: whole[key][:, :1]}, 'has factors'),
    ({**whole, 'unet.x.hada_w1_a': whole[first]}, 'is no part of a LoRA'),
    ({**whole, 'unet.x.dora_scale': whole[first]}, 'is no part of a LoRA'),
    ({**whole, alpha: np.zeros(0, np.float32)}, 'its alpha is no number'),
    ({**whole, alpha: np.array(1e30, np.float32)}, 'to be multiplied by'),
    ({**whole, first.replace('lora_A', 'lora_down'): whole[first]},
     'are the same factor'),
    ({**whole, **kohya}, 'under another name'),
    ({}, 'holds no LoRA'),
  ]  # fmt: skip
  for number, (state, words) in enumerate(cases):
    path = save(tmp_path / f'{number}.safetensors', state)
    with pytest.raises(inputs.InputError, match=words) as error:
      lora.adapt(model, path)
    assert '\n' not in str(error.value)
  for told in (
    [[1, 2]], {'unet.alpha_pattern': [1]}, {'unet.lora_alpha': [1]},
    {'unet.lora_alpha': 'x'},
  ):  # fmt: skip
    path = save(
      tmp_path / 'a.safetensors', whole,
      lora_adapter_metadata=json.dumps(told),
    )  # fmt: skip
    with pytest.raises(inputs.InputError, match='lora_adapter_metadata'):
      lora.adapt(model, path)
  path = save(
    tmp_path / 'a.safetensors', whole,
    lora_adapter_metadata='{"unet.lora_alpha": NaN}',
  )  # fmt: skip
  with pytest.raises(inputs.InputError, match='to be multiplied by nan'):
    lora.adapt(model, path)
  for value, words in (
    ('a.safetensors*x', 'lora: a.safetensors'),
    ('a.safetensors*nan', 'lora: a.safetensors'),
    (str(tmp_path / 'none.safetensors'), 'none.safetensors'),
    ('https://x.y/a.safetensors', 'is an address'),
  ):
    with pytest.raises(inputs.InputError, match=words):
      lora.adapt(model, value)


def test_a_run_is_of_its_adapters(sd1, tmp_path):
  model = pipeline.read(str(sd1))
  state, _ = adapters.make(shapes_of(model), 'kohya')
  path = save(tmp_path / 'a.safetensors', state)
  (tmp_path / 'p.txt').write_text('a cat')
  config = captioned.config_of(sd1, prompts=str(tmp_path / 'p.txt'))
  plain = plans_lib.make(config)
  config.lora = f'{path}*0.8'
  plans = plans_lib.make(config)
  assert set(plans.inputs) - set(plain.inputs) == {'lora 1'}
  assert plans.inputs['lora 1'].endswith(' 0.8')
  assert '1 adapters' in plans.subject.told.subject
