"""Inception-v3 against pytorch-fid's, and weights that are not its."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from jaxdiff import inputs
from jaxdiff.interop import inception
from jaxdiff.models import inception as models
from tests.goldens import make_inception_goldens

GOLDEN = pathlib.Path(__file__).parents[1] / 'goldens' / 'inception.npz'


@pytest.fixture(scope='module')
def golden():
  with np.load(GOLDEN, allow_pickle=False) as arrays:
    arrays = dict(arrays)
  shapes = {
    str(name): tuple(json.loads(str(shape)))
    for name, shape in zip(arrays['names'], arrays['shapes'], strict=True)
  }
  return arrays, make_inception_goldens.weights(shapes)


def test_features_equal_those_of_pytorch_fid(golden, tmp_path, monkeypatch):
  monkeypatch.setattr(inception, '_BATCH', 2)
  arrays, state = golden
  path = tmp_path / 'inception.safetensors'
  safetensors_numpy.save_file(state, path)
  features = inception.load(str(path))
  found = features(arrays['images'])
  assert found.shape == (2, 2048)
  scale = np.abs(arrays['features']).max()
  np.testing.assert_allclose(found, arrays['features'], atol=1e-5 * scale)


def test_grey_images_have_features_too():
  net = models.Inception()
  shape = jax.eval_shape(
    lambda x: net.init_with_output(jax.random.key(0), x)[0],
    jnp.zeros((3, 28, 28, 1)),
  )
  assert shape.shape == (3, 2048)


def test_what_a_run_compiles_is_what_it_calls(golden, monkeypatch):
  monkeypatch.setattr(inception, '_BATCH', 2)
  arrays, state = golden
  features = inception.Features(inception.fold(state, 'x'))
  shape = arrays['images'].shape[1:]
  program = features.program([2, 3, 0], shape, jax.devices())
  assert program.calls == 3
  made = program.lower().compile()
  assert program.args[1].shape == (2, *shape)
  found = made(features._params, arrays['images'])
  np.testing.assert_allclose(found, features(arrays['images']), atol=1e-6)


def test_no_path_is_no_fid():
  assert inception.load('') is None


def test_wrong_weights_are_named(golden, tmp_path):
  _, state = golden
  path = tmp_path / 'inception.safetensors'
  with pytest.raises(inputs.InputError, match='no file'):
    inception.read(str(path))
  path.write_bytes(b'torn')
  with pytest.raises(inputs.InputError, match='no whole safetensors'):
    inception.read(str(path))
  name = 'Mixed_6e.branch7x7_2.bn.running_var'
  with pytest.raises(inputs.InputError, match=f'has no {name}'):
    inception.fold({k: v for k, v in state.items() if k != name}, 'x')
  with pytest.raises(inputs.InputError, match='not \\(192,\\)'):
    inception.fold(state | {name: state[name][1:]}, 'x')
