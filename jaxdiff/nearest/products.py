"""Which product the full search takes; it changes no answer.

All of them propose, and what they propose is proven by exact differences, so
that the fastest may be taken. On a TPU that is int8, which its matrix units do
at twice the rate of bfloat16. CPUs differ: with AMX, int8 is six times as fast
as float32; an EPYC with AVX-512 does bfloat16 at twice its rate, and a Xeon at
half of it. There they are timed, once a process, where the work is worth it.
"""

import functools
import time

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.nearest import kernels
from jaxdiff.runtime import mesh as mesh_lib

# Queries by references by pixels of what is timed, and how often; of each the
# fastest counts, because others may use the machine.
_SHAPE, _TIMES = (256, 1024, 2048), 5
# Numbers of the references from which it is worth the second that it takes.
_LEAST = 2**24
# How much faster than float32 another must be.
_MARGIN = 1.15


def of(
  mesh: jax.sharding.Mesh, dtype: np.dtype, count: int, pixels: int
) -> str:
  """One of `kernels.PRODUCTS`.

  Args:
    mesh: whose devices.
    dtype: of the images.
    count: references.
    pixels: numbers of an image.
  """
  platform = mesh.devices.flat[0].platform
  if platform == 'tpu':
    return 'int8' if whole(mesh, dtype, pixels, 'int8') else 'bfloat16'
  if platform != 'cpu':
    return 'bfloat16'
  if dtype != np.uint8 or count * pixels < _LEAST:
    return 'float32'
  rates = _measured()
  best = max(rates, key=lambda product: rates[product])
  if best == 'int8' and not whole(mesh, dtype, pixels, best):
    best = 'bfloat16'
  return best if rates[best] > _MARGIN * rates['float32'] else 'float32'


def whole(
  mesh: jax.sharding.Mesh, dtype: np.dtype, pixels: int, product: str
) -> bool:
  """Whether v of images is a sum of integers, without rounding.

  int8 is so everywhere. Float products are summed in pieces for it on CPUs
  alone: elsewhere that was not measured.
  """
  integers = product == 'int8' or mesh_lib.on_cpu(mesh)
  return integers and dtype == np.uint8 and pixels <= kernels.WHOLE_PIXELS


def seconds(product: str) -> float:
  """A multiply-add of a product on this machine's CPU."""
  return 2.0 / _measured()[product]


@functools.cache
def _measured() -> dict[str, float]:
  """Operations a second of each product on this machine's CPU."""
  queries, references, pixels = _SHAPE
  device = jax.local_devices(backend='cpu')[0]
  rng = np.random.default_rng(0)
  drawn = [
    rng.integers(-128, 128, (rows, pixels)) for rows in (queries, references)
  ]
  rates = {}
  with jax.default_device(device):
    for product in kernels.PRODUCTS:
      given = [
        jnp.asarray(rows.astype(kernels.FEATURES[product])) for rows in drawn
      ]
      norms = jnp.zeros(references, jnp.int32)
      multiply = jax.jit(kernels.values).lower(*given, norms).compile()
      seconds = []
      for _ in range(_TIMES):
        begun = time.perf_counter()
        jax.block_until_ready(multiply(*given, norms))
        seconds.append(time.perf_counter() - begun)
      rates[product] = 2.0 * queries * references * pixels / min(seconds)
  listed = ', '.join(f'{k} {v / 1e9:.0f}' for k, v in rates.items())
  logging.info('neighbours: products of this CPU, GOP/s: %s', listed)
  return rates
