"""Which product a machine gets; test_index: that none changes an answer."""

import numpy as np
import pytest

from jaxdiff.nearest import index as index_lib
from jaxdiff.nearest import kernels, pca_bound
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products, topologies

UINT8, FLOAT = np.dtype(np.uint8), np.dtype(np.float32)


@pytest.fixture
def rates(monkeypatch):
  """As of a CPU with AMX, or of one without."""

  def set_to(float32, bfloat16, int8):
    found = {'float32': float32, 'bfloat16': bfloat16, 'int8': int8}
    monkeypatch.setattr(products, '_measured', lambda: found)
    return mesh_lib.make(1)

  return set_to


def test_the_fastest_is_taken(rates):
  amx = rates(139.0, 484.0, 821.0)
  assert products.of(amx, UINT8, 50_000, 3072) == 'int8'
  # v would not fit 32 bits; and floats are exact in neither.
  assert products.of(amx, UINT8, 50_000, 2**15 + 1) == 'bfloat16'
  assert products.of(amx, FLOAT, 50_000, 3072) == 'float32'
  other = rates(221.0, 133.0, 300.0)
  assert products.of(other, UINT8, 50_000, 3072) == 'int8'
  assert products.of(other, UINT8, 50_000, 2**15 + 1) == 'float32'
  assert products.of(rates(221.0, 133.0, 228.0), UINT8, 50_000, 3072) == (
    'float32'
  )


def test_tiles_take_the_fastest_too(rates):
  mesh = rates(139.0, 484.0, 821.0)
  assert products.of_whole(mesh, 2**24) == 'int8'
  assert products.of_whole(mesh, 2**24 - 1) == 'float32'
  assert products.of_whole(rates(184.0, 366.0, 294.0), 2**24) == 'bfloat16'
  tpu = mesh_lib.make(1, topologies.devices('v5e:2x2'))
  assert products.of_whole(tpu, 10) == 'int8'


def test_the_full_path_gains_what_its_product_does(rates):
  rates(100e9, 200e9, 600e9)
  assert products.seconds('float32') == 2e-11
  slow, fast = (
    pca_bound.full_cost(1, 3072, 50_000, products.seconds(product), False)
    for product in ('float32', 'int8')
  )
  assert slow / 6 < fast < slow / 5


@pytest.mark.parametrize('product', products.PRODUCTS)
def test_whole_numbers_are_multiplied_without_rounding(product):
  """Of the largest numbers there are, and of as many as are let in."""
  rng = np.random.default_rng(0)
  shape = (2, products.WHOLE_PIXELS)
  features = np.where(rng.random(shape) < 0.01, rng.integers(-128, 128), -128)
  features[1] = 127
  norms = np.square(features).sum(axis=1)
  typed = features.astype(products.TYPES[product])
  v = kernels.values(typed, typed, norms.astype(np.int32))
  assert v.dtype == np.int32
  np.testing.assert_array_equal(v, 2 * features @ features.T - norms)


@pytest.mark.parametrize('product', products.PRODUCTS)
def test_every_pixel_is_centred(product):
  pixels = np.arange(256, dtype=np.uint8)
  found = products.centred(pixels, product)
  assert found.dtype == products.TYPES[product]
  np.testing.assert_array_equal(found.astype(int), np.arange(-128, 128))


def test_where_values_are_whole():
  cpu = mesh_lib.make(1)
  tpu = mesh_lib.make(1, topologies.devices('v5e:2x2'))
  assert products.whole(cpu, UINT8, 3072, 'float32')
  assert products.whole(tpu, UINT8, 3072, 'int8')
  assert not products.whole(tpu, UINT8, 3072, 'bfloat16')
  assert not products.whole(cpu, UINT8, 2**15 + 1, 'float32')
  assert not products.whole(cpu, FLOAT, 3072, 'float32')


def test_little_work_is_not_worth_a_measurement(monkeypatch):
  monkeypatch.setattr(products, '_measured', None)
  assert products.of(mesh_lib.make(1), UINT8, 1797, 64) == 'float32'


def test_other_platforms_are_asked_of_the_mesh():
  mesh = mesh_lib.make(1, topologies.devices('v5e:2x2'))
  assert products.of(mesh, UINT8, 10, 64) == 'int8'
  assert products.of(mesh, FLOAT, 10, 64) == 'bfloat16'
  assert products.of(mesh, UINT8, 10, 2**15 + 1) == 'bfloat16'


def test_every_product_is_measured():
  products._measured.cache_clear()
  found = products._measured()
  assert found.keys() == set(products.PRODUCTS)
  assert all(rate > 1e8 for rate in found.values())


def test_an_index_takes_what_is_fastest(rates, monkeypatch):
  rates(1.0, 2.0, 3.0)
  monkeypatch.setattr(products, '_LEAST', 0)
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (40, 16), dtype=np.uint8)
  fast, slow = (
    index_lib.Index(images),
    index_lib.Index(images, product='float32'),
  )
  assert fast._product == 'int8'
  for a, b in zip(
    fast.nearest(images, 3), slow.nearest(images, 3), strict=True
  ):
    np.testing.assert_array_equal(a, b)
