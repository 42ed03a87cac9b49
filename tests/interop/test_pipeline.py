"""Pipelines in diffusers' layout: read, sampled as diffusers does, refused."""

import functools
import json
import pathlib
import struct

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff.interop import pipeline, schedulers, tensors
from jaxdiff.sampling import text_to_image
from tests.goldens import unet_configs

pytestmark = pytest.mark.slow

KINDS = ('sd1', 'sd2', 'sdxl')
UNET = 'unet/diffusion_pytorch_model.safetensors'
VAE = 'vae/diffusion_pytorch_model.safetensors'
TEXT = 'text_encoder/model.safetensors'


@functools.cache
def goldens():
  path = pathlib.Path(__file__).parents[1] / 'goldens' / 'pipelines.npz'
  with np.load(path, allow_pickle=False) as file:
    return dict(file)


def weights(kind, file):
  """The weights of a file of a golden's pipeline, by their names in it."""
  shapes = json.loads(str(goldens()[f'{kind}/shapes']))[file]
  bare = {key: key.removeprefix('text_model.') for key in shapes}
  made = unet_configs.weights({bare[k]: tuple(v) for k, v in shapes.items()})
  return {key: made[bare[key]] for key in shapes}


def write(folder, kind):
  """A golden's pipeline as diffusers saves it."""
  prefix = f'{kind}/files/'
  for key, content in goldens().items():
    if key.startswith(prefix):
      path = folder / key.removeprefix(prefix)
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(content.tobytes())
  for file in json.loads(str(goldens()[f'{kind}/shapes'])):
    (folder / file).write_bytes(safetensors_numpy.save(weights(kind, file)))
  return folder


@pytest.fixture
def sd1(tmp_path):
  return write(tmp_path / 'sd1', 'sd1')


@pytest.mark.parametrize('kind', KINDS)
def test_a_guided_image_of_20_steps_equals_diffusers(kind, tmp_path):
  found = pipeline.read(str(write(tmp_path, kind)))
  texts = [str(x) for x in goldens()['prompts']]
  nets = [part.net for part in found.text_encoders]
  params = [part.params() for part in found.text_encoders]

  def encoded(lines):
    tokens = [jnp.asarray(words(lines)) for words in found.tokenizers]
    return text_to_image.encode(nets, params, tokens)

  cond, empty = encoded(texts), encoded([''])
  if len(nets) > 1:
    cond = text_to_image.with_sizes(cond, 16, 16)
    empty = text_to_image.with_sizes(empty, 16, 16)
  null = jax.tree.map(lambda leaf: leaf[0], empty)
  null = text_to_image.null_of(null, found.zeros_for_empty)
  scheduler = found.scheduler
  sampled = jax.jit(
    lambda p, noise: text_to_image.denoise(
      found.denoiser.net, p, noise * scheduler.start(20),
      jax.random.split(jax.random.key(0), 2), cond, null,
      schedule=scheduler.schedule,
      prediction_type=scheduler.prediction_type,
      guidance_scale=5.0, sampler=scheduler.sampler, num_steps=20,
      **scheduler.options,
    )
  )  # fmt: skip
  noise = jnp.asarray(goldens()[f'{kind}/noise'])
  latents = sampled(found.denoiser.params(), noise)
  want = goldens()[f'{kind}/latent']
  np.testing.assert_allclose(latents, want, atol=1e-4 * np.abs(want).max())
  images = text_to_image.decode(
    found.autoencoder.net, found.autoencoder.params(), latents,
    found.scaling_factor, found.shift_factor,
  )  # fmt: skip
  np.testing.assert_allclose(
    images / 2 + 0.5, goldens()[f'{kind}/np'], atol=1e-3
  )


def test_both_key_layouts_variants_and_shards_are_read(sd1):
  plain = pipeline.read(str(sd1))
  want = plain.text_encoders[0].params()
  state = weights('sd1', TEXT)
  # As on the Hub: a prefix, and positions as numbers.
  hub = {
    f'text_model.{key.removeprefix("text_model.")}': value
    for key, value in state.items()
  }
  hub['text_model.embeddings.position_ids'] = np.arange(12)[None]
  (sd1 / TEXT).write_bytes(safetensors_numpy.save(hub))
  same = lambda a, b: jax.tree.map(np.testing.assert_array_equal, a, b)
  same(pipeline.read(str(sd1)).text_encoders[0].params(), want)

  state, want = weights('sd1', UNET), plain.denoiser.params()
  names = sorted(state)
  stem = 'diffusion_pytorch_model'
  (sd1 / UNET).unlink()
  index = {}
  for number, part in enumerate((names[::2], names[1::2])):
    file = f'{stem}-{number + 1:05}-of-00002.safetensors'
    content = safetensors_numpy.save({key: state[key] for key in part})
    (sd1 / 'unet' / file).write_bytes(content)
    index |= dict.fromkeys(part, file)
  path = sd1 / 'unet' / f'{stem}.safetensors.index.json'
  path.write_text(json.dumps({'metadata': {}, 'weight_map': index}))
  same(pipeline.read(str(sd1)).denoiser.params(), want)

  path.unlink()
  half = {key: value.astype(np.float16) for key, value in state.items()}
  (sd1 / 'unet' / f'{stem}.fp16.safetensors').write_bytes(
    safetensors_numpy.save(half)
  )
  rough = pipeline.read(str(sd1)).denoiser.params()
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-6),
    rough,
    want,
  )


def test_bfloat16_is_widened_and_other_types_are_refused(tmp_path):
  value = np.array([1.0, -2.5, 3.140625], np.float32)
  raw = (value.view('<u4') >> 16).astype('<u2').tobytes()
  header = {
    'a': {'dtype': 'BF16', 'shape': [3], 'data_offsets': [0, 6]},
    'b': {'dtype': 'F8_E4M3', 'shape': [2], 'data_offsets': [6, 8]},
  }
  text = json.dumps(header).encode()
  path = tmp_path / 'x.safetensors'
  path.write_bytes(struct.pack('<Q', len(text)) + text + raw + b'\0\0')
  found = tensors.Tensors([path])
  np.testing.assert_array_equal(found['a'], value)
  with pytest.raises(inputs.InputError, match="'b' is of F8_E4M3"):
    found['b']


def test_old_attention_layers_of_an_autoencoder(sd1):
  """SD 1.4's: other names, and keys of its config that were not there yet."""
  want = pipeline.read(str(sd1)).autoencoder.params()
  old = {
    'to_q': 'query',
    'to_k': 'key',
    'to_v': 'value',
    'to_out.0': 'proj_attn',
  }
  state = {}
  for key, value in weights('sd1', VAE).items():
    for new, name in old.items():
      key = key.replace(f'.{new}.', f'.{name}.')
    state[key] = value
  (sd1 / VAE).write_bytes(safetensors_numpy.save(state))
  path = sd1 / 'vae' / 'config.json'
  config = json.loads(path.read_text())
  for key in ('scaling_factor', 'force_upcast', 'shift_factor', 'latents_mean'):
    config.pop(key)
  path.write_text(json.dumps(config))
  found = pipeline.read(str(sd1))
  jax.tree.map(np.testing.assert_array_equal, found.autoencoder.params(), want)
  assert found.scaling_factor == 0.18215


def change(path, **keys):
  config = json.loads(path.read_text())
  path.write_text(json.dumps(config | keys))


@pytest.mark.parametrize(
  'part, keys, message',
  [
    ('model_index.json', {'_class_name': 'FluxPipeline'}, "'FluxPipeline'"),
    ('unet/config.json', {'_class_name': 'UNet3D'}, "'UNet3D' is not supp"),
    ('unet/config.json', {'block_out_channels': [10**6]}, 'whole numbers'),
    ('unet/config.json', {'block_out_channels': [8, 12]}, 'is of no U-Net'),
    ('unet/config.json', {'attention_head_dim': [2, 2]}, 'attention_head_dim'),
    ('unet/config.json', {'cross_attention_dim': 24}, 'cross_attention_dim'),
    ('unet/config.json', {'class_embed_type': 'timestep'}, 'class_embed_type'),
    ('unet/config.json', {'new_key\n': 3}, r'new_key.* = 3 is not supported'),
    ('unet/config.json', {'act_fn': 'gelu'}, "act_fn 'gelu'"),
    ('unet/config.json', {'out_channels': 5}, 'conv_out'),
    ('unet/config.json', {'in_channels': 9}, 'conv_in.weight'),
    ('unet/config.json', {'norm_eps': 10**400}, 'norm_eps is 1000'),
    (
      'unet/config.json',
      {'transformer_layers_per_block': [64, 64, 64], 'layers_per_block': 4},
      'more than 1024 blocks',
    ),
    (
      'unet/config.json',
      {'transformer_layers_per_block': 65},
      'up to 64',
    ),
    ('vae/config.json', {'act_fn': 'gelu'}, "act_fn 'gelu'"),
    ('vae/config.json', {'latent_channels': 8}, 'conv_in'),
    ('vae/config.json', {'up_block_types': ['A', 'B']}, "up_block_types 'A'"),
    ('vae/config.json', {'latents_mean': [1.0]}, 'latents_mean'),
    ('text_encoder/config.json', {'architectures': ['T5']}, "'T5'"),
    ('text_encoder/config.json', {'hidden_act': 'relu'}, "'relu'"),
    ('text_encoder/config.json', {'vocab_size': 20}, 'token_embedding'),
    ('text_encoder/config.json', {'hidden_size': '16'}, 'hidden_size is'),
    (
      'scheduler/scheduler_config.json',
      {'_class_name': 'LMSDiscreteScheduler'},
      'LMSDiscreteScheduler',
    ),
    ('scheduler/scheduler_config.json', {'trained_betas': [0.1]}, 'trained_b'),
    (
      'scheduler/scheduler_config.json',
      {'_class_name': 'EulerDiscreteScheduler', 'timestep_spacing': 'linspace'},
      'linspace of a EulerDiscreteScheduler',
    ),
    (
      'scheduler/scheduler_config.json',
      {'timestep_spacing': 'linspace'},
      'linspace of a PNDMScheduler',
    ),
    (
      'scheduler/scheduler_config.json',
      {'prediction_type': 'v_prediction'},
      'blends outputs',
    ),
    (
      'scheduler/scheduler_config.json',
      {
        '_class_name': 'DPMSolverMultistepScheduler',
        'lambda_min_clipped': -1.0,
      },
      'lambda_min_clipped',
    ),
  ],
)
def test_configs_that_are_not_ours_are_refused_by_name(
  part, keys, message, sd1
):
  change(sd1 / part, **keys)
  with pytest.raises(inputs.InputError, match=message) as found:
    pipeline.read(str(sd1))
  assert '\n' not in str(found.value)


@pytest.mark.parametrize(
  'file',
  [
    'model_index.json', 'unet/config.json', UNET, TEXT,
    'scheduler/scheduler_config.json', 'tokenizer/tokenizer.json',
  ],
)  # fmt: skip
def test_what_is_missing_is_named(file, sd1):
  (sd1 / file).unlink()
  missing = file if 'tokenizer' not in file else 'vocab.json'
  with pytest.raises(inputs.InputError, match=f'no .*{missing}'):
    pipeline.read(str(sd1))


@pytest.mark.parametrize(
  'part, keys, message',
  [
    ('unet', {'addition_embed_type': None}, 'must be text_time'),
    ('unet', {'addition_time_embed_dim': 4}, 'dim is 56; .* make 44'),
    ('text_encoder_2', {'architectures': ['CLIPTextModel']}, 'text_projection'),
  ],
)
def test_parts_that_do_not_go_together(part, keys, message, tmp_path):
  sdxl = write(tmp_path, 'sdxl')
  change(sdxl / part / 'config.json', **keys)
  if keys == {'addition_embed_type': None}:
    state = weights('sdxl', UNET)
    kept = {k: v for k, v in state.items() if 'add_embedding' not in k}
    (sdxl / UNET).write_bytes(safetensors_numpy.save(kept))
  with pytest.raises(inputs.InputError, match=message):
    pipeline.read(str(sdxl))


def test_memory_is_asked_for_before_weights_are_read(sd1, monkeypatch):
  found = pipeline.read(str(sd1))
  monkeypatch.setattr(inputs, 'free_memory', lambda: 1000)
  with pytest.raises(inputs.InputError, match='unet'):
    found.denoiser.params()


def test_weights_that_are_broken_are_named(sd1):
  whole = (sd1 / UNET).read_bytes()
  pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\n'
  for content, message in (
    (whole[:-5], 'no whole safetensors'),
    (pointer, 'run git lfs pull'),
  ):
    (sd1 / UNET).write_bytes(content)
    with pytest.raises(inputs.InputError, match=message):
      pipeline.read(str(sd1))
  state = weights('sd1', UNET)
  name = 'conv_in.weight'
  for value, message in (
    (state[name][:4], r"'conv_in.weight' has shape \(4, "),
    (state[name].astype(np.int8), "'conv_in.weight' is of I8"),
  ):
    (sd1 / UNET).write_bytes(safetensors_numpy.save(state | {name: value}))
    with pytest.raises(inputs.InputError, match=message):
      pipeline.read(str(sd1))
  nan = {name: np.full_like(state[name], np.nan)}
  (sd1 / UNET).write_bytes(safetensors_numpy.save(state | nan))
  with pytest.raises(inputs.InputError, match="'conv_in.weight' holds numbers"):
    pipeline.read(str(sd1)).denoiser.params()
  more = {'text_model.final_layer_norm.bias': np.zeros(16, np.float32)}
  whole_text = weights('sd1', TEXT)
  bare = {k.removeprefix('text_model.'): v for k, v in whole_text.items()}
  (sd1 / TEXT).write_bytes(safetensors_numpy.save(bare | more))
  with pytest.raises(inputs.InputError, match='are the same tensor'):
    pipeline.read(str(sd1))
  (sd1 / TEXT).write_bytes(safetensors_numpy.save(whole_text))
  (sd1 / UNET).unlink()
  (sd1 / 'unet' / 'diffusion_pytorch_model.bin').write_bytes(b'\x80\x04')
  with pytest.raises(inputs.InputError, match='is a pickle, which is not read'):
    pipeline.read(str(sd1))


def test_old_files_mean_what_their_pipeline_made_of_them(sd1):
  """The first SD 1.4: no offset, clipped samples; SDXL: a flag that is null."""
  path = sd1 / 'scheduler' / 'scheduler_config.json'
  change(path, steps_offset=0, clip_sample=True)
  change(sd1 / 'unet' / 'config.json', upcast_attention=None)
  found = pipeline.read(str(sd1))
  assert found.scheduler.options['steps_offset'] == 1
  assert not found.scheduler.options['clip_sample']
  assert found.denoiser.net.upcast_attention is False
  with pytest.raises(inputs.InputError, match='clip_sample = True'):
    schedulers.read(path.parent)
  change(path, skip_prk_steps=False)
  with pytest.raises(inputs.InputError, match='skip_prk_steps must be true'):
    pipeline.read(str(sd1))


def test_keys_that_old_folders_have_are_passed_over(sd1):
  """SD 2.1's DDIM has a key of PNDM, SDXL's Euler several of others."""
  change(
    sd1 / 'scheduler' / 'scheduler_config.json',
    _class_name='EulerDiscreteScheduler', set_alpha_to_one=False,
    skip_prk_steps=True, sample_max_value=1.0, clip_sample=False,
    timestep_spacing='leading', interpolation_type='linear',
  )  # fmt: skip
  change(
    sd1 / 'unet' / 'config.json', sample_size=64, center_input_sample=False
  )
  found = pipeline.read(str(sd1)).scheduler
  assert (found.sampler, found.options['final_alpha']) == ('ddim', True)
  assert found.start(50) == 1.0
  change(
    sd1 / 'scheduler' / 'scheduler_config.json', timestep_spacing='trailing'
  )
  assert 0.99 < pipeline.read(str(sd1)).scheduler.start(50) < 1.0
