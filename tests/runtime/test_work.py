"""Operations counted by their products, as often as they are done."""

import jax
import jax.numpy as jnp
import pytest

from jaxdiff.models import attention
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import work


def xla(fn, *shapes):
  return jax.jit(fn).lower(*shapes).compile().cost_analysis()['flops']


def array(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_are_those_that_xla_counts():
  def dense(x, w):
    return jnp.tanh(jnp.einsum('bij,jk->bik', x, w))

  shapes = array(2, 30, 40), array(40, 50)
  assert work.products(dense, *shapes) == 2 * 2 * 30 * 40 * 50
  assert work.products(dense, *shapes) == pytest.approx(
    xla(dense, *shapes), rel=0.03
  )

  def convolved(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (2, 2), 'SAME', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )

  shapes = array(2, 64, 64, 16), array(3, 3, 16, 32)
  assert work.products(convolved, *shapes) == pytest.approx(
    xla(convolved, *shapes), rel=0.05
  )


def test_a_transposed_convolution_skips_what_is_put_between_pixels():
  def upsampled(x, w):
    return jax.lax.conv_general_dilated(
      x, w, (1, 1), [(2, 2), (2, 2)], lhs_dilation=(2, 2),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )  # fmt: skip

  shapes = array(1, 64, 64, 16), array(4, 4, 16, 16)
  assert work.products(upsampled, *shapes) == pytest.approx(
    xla(upsampled, *shapes), rel=0.05
  )


def test_loops_count_as_often_as_they_run():
  def looped(x, w):
    return jax.lax.scan(lambda x, _: (x @ w, None), x, None, length=7)[0]

  assert work.products(looped, array(4, 8), array(8, 8)) == 7 * 2 * 4 * 8 * 8

  def nested(x):
    return jax.lax.map(
      lambda row: jax.checkpoint(lambda r: jnp.outer(r, r) @ r)(row), x
    )

  # A product of an outer one, which is none, with a vector.
  assert work.products(nested, array(5, 8)) == 5 * 2 * 8 * 8


@pytest.mark.parametrize('length', [64, 1024])
def test_attention_in_tiles_is_counted_whole(length):
  q = array(2, length, 4, 32)
  want = 2 * 2.0 * 2 * 4 * length * length * 32
  # A column more sums the rows.
  assert work.products(attention.attention, q, q, q) == pytest.approx(
    want, rel=0.04
  )


def test_devices_count_together():
  mesh = mesh_lib.make(1, jax.devices()[:4])

  def shared(x, w):
    return jax.shard_map(
      lambda x, w: x @ w, mesh=mesh,
      in_specs=(mesh_lib.PER_EXAMPLE, mesh_lib.REPLICATED),
      out_specs=mesh_lib.PER_EXAMPLE,
    )(x, w)  # fmt: skip

  assert work.products(shared, array(8, 16), array(16, 16)) == 2 * 8 * 16 * 16


def test_branches_are_those_of_the_platform():
  def fn(x):
    return jax.lax.platform_dependent(
      x, tpu=lambda x: x @ x, default=lambda x: x @ x @ x
    )

  one = 2 * 8 * 8 * 8
  assert work.products(fn, array(8, 8)) == one
  assert work.products(fn, array(8, 8), platform='cuda') == 2 * one
