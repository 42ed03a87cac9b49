"""Products of whole numbers without rounding, by the fastest type there is.

Pixels of 8 bits less 128 are whole numbers of 128 at most, exact in each of
PRODUCTS; what differs is the rate. On a TPU that is int8, which its matrix
units do at twice the rate of bfloat16. CPUs differ: with AMX, int8 is six times
as fast as float32; an EPYC with AVX-512 does bfloat16 at twice its rate, and a
Xeon at half of it. There they are timed, once a process, where the work is
worth it.
"""

from collections.abc import Sequence
import functools
import math
import threading
import time

from absl import logging
import jax
import jax.numpy as jnp
import numpy as np

from jaxdiff.runtime import mesh as mesh_lib

PRODUCTS = ('float32', 'bfloat16', 'int8')

# Types of what is multiplied.
TYPES = {
  'float32': np.dtype(np.float32),
  'bfloat16': np.dtype(jnp.bfloat16),
  'int8': np.dtype(np.int8),
}

# What 8-bit pixels are centred by, and how many products of such numbers a
# float32 sums without rounding: 2^24 / 128^2.
WHOLE_CENTRE, WHOLE_TERMS = 128.0, 2**10
# Squared distances of more 8-bit pixels may not fit 32 bits.
WHOLE_PIXELS = 2**15

# Blocks of references, queries by references by pixels of what is timed, and
# how often, in turn; of each the fastest counts, because others may use the
# machine. Blocks are cut out in a loop, as by who uses this: bfloat16 loses a
# third of its rate by that on an EPYC (Zen 5), and is slower than int8 then.
_SHAPE, _TIMES = (4, 512, 1024, 2048), 8
# Numbers of the references from which it is worth the second that it takes.
_LEAST = 2**24
# How much faster than float32 another must be.
_MARGIN = 1.15
_LOCK = threading.Lock()


def of_whole(
  mesh: jax.sharding.Mesh, numbers: int, among: Sequence[str] = PRODUCTS
) -> str:
  """One of PRODUCTS for 8-bit images; it changes no answer.

  Args:
    mesh: whose devices.
    numbers: of the images that all others are multiplied with.
    among: which; float32 and bfloat16 are two of them.
  """
  platform = mesh.devices.flat[0].platform
  if platform == 'tpu':
    return 'int8' if 'int8' in among else 'bfloat16'
  if platform != 'cpu':
    return 'bfloat16'
  if numbers < _LEAST:
    return 'float32'
  rates = _rates()
  best = max(among, key=lambda product: rates[product])
  return best if rates[best] > _MARGIN * rates['float32'] else 'float32'


def of(
  mesh: jax.sharding.Mesh, dtype: np.dtype, count: int, pixels: int
) -> str:
  """One of PRODUCTS for a search whose answers are proven; it changes none.

  Args:
    mesh: whose devices.
    dtype: of the images.
    count: references.
    pixels: numbers of an image.
  """
  if dtype != np.uint8:
    return 'float32' if mesh_lib.on_cpu(mesh) else 'bfloat16'
  among = [
    name
    for name in PRODUCTS
    if name != 'int8' or whole(mesh, dtype, pixels, name)
  ]
  return of_whole(mesh, count * pixels, among)


def whole(
  mesh: jax.sharding.Mesh, dtype: np.dtype, pixels: int, product: str
) -> bool:
  """Whether a search multiplies images as integers, without rounding.

  int8 is so everywhere. Float products are summed in pieces for it on CPUs
  alone: elsewhere that was not measured.
  """
  integers = product == 'int8' or mesh_lib.on_cpu(mesh)
  return integers and dtype == np.uint8 and pixels <= WHOLE_PIXELS


def centred(images: jax.Array, name: str) -> jax.Array:
  """uint8 pixels less WHOLE_CENTRE, in the type of a product."""
  # In two's complement that is another first bit; no number is converted.
  flipped = jax.lax.bitcast_convert_type(images ^ np.uint8(128), jnp.int8)
  return flipped.astype(TYPES[name])


def product(
  a: jax.Array, b: jax.Array, dtype: jnp.dtype, num_batch_axes: int = 0
) -> jax.Array:
  """a b^T of `dtype`: [B, F], [M, F] -> [B, M], of each of some batch axes.

  int32 of float features, which are whole numbers of 128 at most, is without
  rounding: they are multiplied WHOLE_TERMS at a time. As one float32 sum, it
  leaves queries open where many references are about as far: half of the time
  for 50 neighbours among overlapping tiles of photographs.
  """
  at_once = jnp.issubdtype(a.dtype, jnp.integer) or dtype != jnp.int32
  some = a.shape[-1] if at_once else WHOLE_TERMS
  batch = tuple(range(num_batch_axes))
  parts = [
    jax.lax.dot_general(
      a[..., start : start + some],
      b[..., start : start + some],
      (((a.ndim - 1,), (b.ndim - 1,)), (batch, batch)),
      precision=jax.lax.Precision.HIGHEST,
      preferred_element_type=dtype if at_once else jnp.float32,
    ).astype(dtype)
    for start in range(0, a.shape[-1], some)
  ]
  return functools.reduce(jnp.add, parts)


def seconds(name: str) -> float:
  """A multiply-add of a product on this machine's CPU."""
  return 2.0 / _rates()[name]


def _rates() -> dict[str, float]:
  """`_measured`, by one thread alone."""
  with _LOCK:
    return _measured()


@functools.cache
def _measured() -> dict[str, float]:
  """Operations a second of each product on this machine's CPU."""
  blocks, queries, references, pixels = _SHAPE
  device = jax.local_devices(backend='cpu')[0]
  rng = np.random.default_rng(0)
  drawn = [
    rng.integers(-128, 128, (*rows, pixels))
    for rows in ((queries,), (blocks, references))
  ]

  @jax.jit
  def multiply(a: jax.Array, blocks: jax.Array) -> jax.Array:
    return jax.lax.map(lambda b: product(a, b, jnp.int32).max(axis=0), blocks)

  given = {}
  times: dict[str, list[float]] = {name: [] for name in PRODUCTS}
  with jax.default_device(device):
    for name in PRODUCTS:
      given[name] = [jnp.asarray(rows.astype(TYPES[name])) for rows in drawn]
      jax.block_until_ready(multiply(*given[name]))  # compiles
    for _ in range(_TIMES):
      for name in PRODUCTS:
        begun = time.perf_counter()
        jax.block_until_ready(multiply(*given[name]))
        times[name].append(time.perf_counter() - begun)
  work = 2.0 * math.prod(_SHAPE)
  rates = {name: work / min(taken) for name, taken in times.items()}
  listed = ', '.join(f'{k} {v / 1e9:.0f}' for k, v in rates.items())
  logging.info('products of this CPU, GOP/s: %s', listed)
  return rates
