"""Text-to-image nets equal those of diffusers and transformers, to 1e-5."""

import functools
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdiff import inputs
from jaxdiff.interop import names
from jaxdiff.models import attention
from jaxdiff.models.text_to_image import (
  autoencoder,
  clip_text,
  transformer,
  unet,
)
from tests.goldens import text_to_image_configs as configs
from tests.goldens import unet_configs

pytestmark = pytest.mark.slow

GOLDENS = pathlib.Path(__file__).parents[1] / 'goldens' / 'text_to_image.npz'


@functools.cache
def goldens():
  with np.load(GOLDENS, allow_pickle=False) as file:
    return {key: file[key] for key in file}


def of(name):
  """The arrays of one net by their short names."""
  return {
    key.removeprefix(f'{name}/'): value
    for key, value in goldens().items()
    if key.startswith(f'{name}/')
  }


def made(net, golden, *args, change=lambda state: state, **options):
  """Parameters of the golden's weights; their names must be the golden's."""
  like = jax.eval_shape(
    functools.partial(net.init, **options), jax.random.key(0), *args
  )['params']
  shapes = names.shapes(like)
  assert sorted(shapes) == list(golden['keys'])
  return {'params': names.fill(like, change(unet_configs.weights(shapes)))}


def own(net, config, **options):
  """A net of the keys of a configuration that are attributes of ours."""
  known = {key: value for key, value in config.items() if hasattr(net, key)}
  return net(**known | options)


def nhwc(x):
  return jnp.asarray(x.transpose(0, 2, 3, 1))


def equal(found, want, atol=1e-5):
  want = want if want.ndim < 4 else want.transpose(0, 2, 3, 1)
  np.testing.assert_allclose(found, want, rtol=1e-5, atol=atol)


def text_case(name):
  golden = of(f'text/{name}')
  net = own(clip_text.TextEncoder, configs.TEXTS[name])
  tokens = jnp.asarray(golden['tokens'])
  return net, made(net, golden, tokens), tokens, golden


@pytest.mark.parametrize('name', configs.TEXTS)
def test_text_encoders(name):
  net, params, tokens, golden = text_case(name)
  found = net.apply(params, tokens)
  equal(found.last, golden['last'])
  equal(found.penultimate, golden['penultimate'])
  if found.projected is not None:
    equal(found.projected, golden['projected'])
  else:
    equal(found.pooled, golden['pooled'])


def unet_case(name):
  golden, config = of(f'unet/{name}'), configs.UNETS[name]
  net = own(unet.ConditionalUNet, config)
  cond = {
    key: jnp.asarray(golden[key])
    for key in ('tokens', 'pooled', 'time_ids')
    if key in golden
  }
  args = nhwc(golden['x']), jnp.asarray(golden['t']), cond
  return net, made(net, golden, *args), args, golden


@pytest.mark.parametrize('name', configs.UNETS)
def test_denoisers(name):
  net, params, args, golden = unet_case(name)
  equal(jax.jit(net.apply)(params, *args), golden['out'])


@pytest.mark.parametrize('name', configs.UNETS)
def test_bfloat16_stays_near_float32(name):
  net, params, args, golden = unet_case(name)
  rough = net.copy(dtype=jnp.bfloat16)
  found = jax.jit(rough.apply)(params, *args)
  assert found.dtype == jnp.float32
  want = golden['out'].transpose(0, 2, 3, 1)
  error = np.sqrt(np.square(found - want).mean() / np.square(want).mean())
  assert 1e-4 < error < 0.03


@pytest.mark.parametrize('name', configs.TRANSFORMERS)
def test_transformers_where_the_epsilons_tell(name):
  golden, config = of(f'transformer/{name}'), configs.TRANSFORMERS[name]
  net = transformer.Transformer(
    config['num_attention_heads'],
    config['num_layers'],
    config['norm_num_groups'],
    config['use_linear_projection'],
  )
  args = nhwc(golden['x']), jnp.asarray(golden['tokens'])
  params = made(net, golden, *args, change=configs.quieter)
  equal(net.apply(params, *args), golden['out'])


@pytest.mark.parametrize('name', configs.AUTOENCODERS)
def test_autoencoders(name):
  golden = of(f'autoencoder/{name}')
  net = own(autoencoder.Autoencoder, configs.AUTOENCODERS[name])
  x = nhwc(golden['x'])
  params = made(net, golden, x)
  latents = net.apply(params, x, method='encode')
  equal(latents.mean, golden['mean'])
  equal(latents.deviation, golden['deviation'])
  equal(net.apply(params, latents.mean, method='decode'), golden['image'])
  equal(net.apply(params, x), golden['image'])


def test_attention_in_parts_is_the_same(monkeypatch):
  net, params, args, golden = unet_case('sd1')
  monkeypatch.setattr(attention, '_HELD', 600)
  equal(jax.jit(lambda p, *a: net.apply(p, *a))(params, *args), golden['out'])


def test_tensors_that_do_not_fit_are_named():
  net, params, tokens, golden = text_case('sd1')
  like = params['params']
  shapes = names.shapes(like)
  names.check(like, shapes, 'encoder')
  key = 'encoder.layers.1.mlp.fc1.weight'
  for change, message in (
    ({key: (3, 4)}, r'encoder: .*\(3, 4\).*\(24, 16\)'),
    ({'mid': (3, 4)}, "1 tensors .* 'mid'"),
  ):
    with pytest.raises(inputs.InputError, match=message):
      names.check(like, shapes | change, 'encoder')
  del shapes[key]
  with pytest.raises(inputs.InputError, match=f'no tensor .{key}'):
    names.check(like, shapes, 'encoder')
