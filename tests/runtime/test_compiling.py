"""Options for XLA: which programs have them, and that they change no answer."""

import dataclasses
import types

import jax
import numpy as np
import pytest

from jaxdiff.runs import blocks
from jaxdiff.runtime import compiling, mesh, programs
from jaxdiff.training import loop
from tests import tiny

LARGE = 2**21


@pytest.fixture
def fresh():
  """What XLA knows is asked anew, before and after."""
  compiling._if_known.cache_clear()
  yield
  compiling._if_known.cache_clear()


def convolve(x, kernel):
  return jax.lax.conv_general_dilated(
    x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
  )


def gradients(x, kernel):
  return jax.vjp(convolve, x, kernel)[1](x)


def test_convolutions_are_the_same_and_not_by_ynnpack():
  rng = np.random.default_rng(0)
  x = rng.normal(size=(4, 16, 16, 32)).astype(np.float32)
  kernel = rng.normal(size=(3, 3, 32, 32)).astype(np.float32)
  how = compiling.options(mesh.make(1), LARGE)
  ours = jax.jit(gradients, compiler_options=how).lower(x, kernel).compile()
  default = jax.jit(gradients).lower(x, kernel).compile()
  assert not _convolves_by_ynnpack(ours.as_text())
  assert _convolves_by_ynnpack(default.as_text())
  for one, two in zip(ours(x, kernel), default(x, kernel), strict=True):
    np.testing.assert_allclose(
      one, two, rtol=1e-4, atol=1e-4 * np.abs(two).max()
    )


def test_small_nets_and_other_devices_are_left_alone():
  assert compiling.options(mesh.make(1), LARGE)
  assert compiling.options(mesh.make(1), 2**20 - 1) is None
  chip = types.SimpleNamespace(platform='tpu')
  pod = types.SimpleNamespace(devices=np.array([chip]))
  assert compiling.options(pod, LARGE) is None
  assert not compiling.is_small(pod, 8)


def test_the_older_emitters_make_the_same(fresh, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '')
  how = compiling.older_emitters()
  assert how == {'xla_cpu_use_fusion_emitters': False}
  rng = np.random.default_rng(0)
  x, y = rng.normal(size=(2, 64, 48)).astype(np.float32)

  def slope(x, y):
    return jax.grad(lambda x: (jax.nn.silu(x) * y).sum())(x)

  np.testing.assert_allclose(
    jax.jit(slope, compiler_options=how)(x, y),
    jax.jit(slope)(x, y),
    rtol=1e-5,
    atol=1e-6,
  )


def test_an_option_of_the_user_stays(fresh, monkeypatch):
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_experimental_ynn_fusion_type=')
  assert compiling.options(mesh.make(1), LARGE) is None
  assert compiling.older_emitters()
  monkeypatch.setenv('XLA_FLAGS', '--xla_cpu_use_fusion_emitters=true')
  compiling._if_known.cache_clear()
  assert compiling.older_emitters() is None


@pytest.mark.parametrize(
  'what, option, gone',
  [
    ('_EIGEN', ('xla_nonesuch', ''), 'xla_nonesuch'),
    ('_EIGEN', (compiling._EIGEN[0], 'NONESUCH'), 'NONESUCH'),
    ('_OLDER_EMITTERS', ('xla_nonesuch', False), 'xla_nonesuch'),
  ],
)
def test_an_xla_that_does_not_know_an_option_is_said(
  what, option, gone, fresh, monkeypatch, caplog
):
  monkeypatch.setattr(compiling, what, option)
  if what == '_EIGEN':
    assert compiling.options(mesh.make(1), LARGE) is None
  else:
    assert compiling.older_emitters() is None
  assert gone in caplog.text


def test_training_and_whatever_maps_rows_are_compiled_so(monkeypatch):
  asked = []
  monkeypatch.setattr(
    compiling,
    'options',
    lambda mesh, weights: asked.append(weights) or {'xla_nonesuch': weights},
  )
  devices = jax.devices()[:1]
  grid = mesh.make(1, devices)
  plan = dataclasses.replace(tiny.plans().subject.train, elementwise=False)
  weights = programs.numbers_of(plan.shapes.params)
  step = loop.make_step_fn(plan, grid, plan.examples.keep[:1])
  lowered = step.lower(*loop.step_args(plan, grid, plan.examples.keep[:1]))
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_nonesuch'):
    lowered.compile()
  mapped = blocks.MapRows(
    lambda params, model, rows: rows * params['a'] + params['b'][0],
    grid, batch_size=2, most=2,
  )  # fmt: skip
  params = {'a': np.ones(1, np.float32), 'b': np.ones((1, 4), np.float32)}
  with pytest.raises(jax.errors.JaxRuntimeError, match='xla_nonesuch'):
    mapped(params, np.array([0]), np.ones(2, np.float32))
  assert asked == [weights, 5]


def _convolves_by_ynnpack(text: str) -> bool:
  """Whether a computation of YNNPACK's has a convolution in it."""
  called = {
    line.split('calls=%')[1].split(',')[0]
    for line in text.splitlines()
    if 'kind=kCustom' in line
  }
  inside, found = '', False
  for line in text.splitlines():
    if line.startswith('%'):
      inside = line.split()[0][1:]
    found |= inside in called and ' convolution(' in line
  return found
