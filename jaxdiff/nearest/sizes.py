"""How much the neighbour search takes up at a time, and what it compiles."""

from collections.abc import Sequence
import math

import jax
import numpy as np

from jaxdiff.nearest import exact_pairs, kernels, pca_bound
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import products, programs

# Proposals beyond k, so that rounding seldom leaves a query open; on the pruned
# path most stay open anyway.
SLACK, FEW = 8, 3

# References a product on a CPU, which its cache bounds.
CPU_BLOCK = 1024

# References a group, where there are enough; their number is a multiple of
# CPU_BLOCK.
_GROUP, _LEAST_GROUPED = 16, 4096

# Queries a product, on each device, and their pixels.
_QUERIES, _QUERY_PIXELS = 1024, 2**26

# References a product, and pixels of all of them on a device.
_REFERENCES, _REFERENCE_PIXELS = 2**16, 2**28

# Numbers gathered by one call of the pair kernels.
_PAIR_NUMBERS = 2**23


def queries(number: int, pixels: int, shards: int) -> int:
  """Queries of `pixels` numbers that are worked on together by all devices."""
  share = max(-(-number // shards), 8)
  held = max(1, _QUERY_PIXELS // pixels)
  return shards * min(
    _QUERIES, 2 ** math.ceil(math.log2(share)), 2 ** (held.bit_length() - 1)
  )


def blocks(count: int, pixels: int) -> list[slice]:
  """References of `pixels` numbers that lie on a device together."""
  size = min(_REFERENCES, max(_GROUP, _REFERENCE_PIXELS // pixels))
  return [
    slice(start, min(start + size, count)) for start in range(0, count, size)
  ]


def groups(count: int, on_cpu: bool) -> tuple[int, int, int]:
  """How so many references are cut up.

  Returns:
    references a group; their number, filled up; and references a product.
  """
  if count < _LEAST_GROUPED:
    return 1, count, count
  total = count + -count % CPU_BLOCK
  return _GROUP, total, CPU_BLOCK if on_cpu else total


def pairs(number: int, width: int, shards: int) -> int:
  """Pairs of a call of the pair kernels, each of which gathers `width` numbers.

  Few of them take a smaller shape, one of few.
  """
  unit = exact_pairs.PAIRS * shards
  size = max(1, _PAIR_NUMBERS // width // unit) * unit
  while size // 2 >= max(number, 1) and size % (2 * unit) == 0:
    size //= 2
  return size


def programs_of(
  name: str,
  num_queries: int,
  num_references: int,
  pixels: int,
  k: int,
  devices: Sequence[jax.Device],
  calls: float,
  indexes: float = 1.0,
) -> list[programs.Program]:
  """What `Index.nearest` compiles for 8-bit images, by the full path.

  The pruned path, which only a CPU takes unasked, is there with no calls.

  Args:
    name: for people.
    num_queries: S of a call.
    num_references: N.
    pixels: of an image.
    k: neighbours.
    devices: of one process.
    calls: of `Index.nearest`.
    indexes: how many are made.
  """
  mesh = mesh_lib.make(1, list(devices))
  shards = mesh.shape[mesh_lib.DATA]
  step = queries(num_queries, pixels, shards)
  here = blocks(num_references, pixels)
  block = here[0]
  group, total, size = groups(block.stop, mesh_lib.on_cpu(mesh))
  product = products.of(mesh, np.dtype(np.uint8), num_references, pixels)
  count = min(k + SLACK, block.stop)
  batches = calls * -(-num_queries // step)

  def everywhere(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return programs.array(mesh, mesh_lib.REPLICATED, shape, dtype)

  def shared(shape: tuple[int, ...], dtype) -> jax.ShapeDtypeStruct:
    return programs.array(mesh, mesh_lib.PER_EXAMPLE, shape, dtype)

  kind = products.TYPES[product]
  whole = products.whole(mesh, np.dtype(np.uint8), pixels, product)
  squares = np.int32 if whole else np.float32
  options = {'mesh': mesh, 'count': count, 'block': size, 'group': group}
  alone = mesh_lib.make(1, list(devices)[:1])

  def features(rows: int, side: str, calls: float) -> programs.Program:
    return programs.Program(
      f'{name}: features, {side}',
      kernels.pixel_features,
      (
        programs.array(alone, mesh_lib.REPLICATED, (rows, pixels), np.uint8),
        programs.array(alone, mesh_lib.REPLICATED, (pixels,), np.float32),
      ),
      calls,
      {'product': product, 'side': side},
      x64=True,
    )

  # Of several blocks the last alone stays on the devices.
  loads = indexes if len(here) == 1 else calls * len(here)
  out = [
    features(block.stop, 'reference', loads),
    features(step, 'query', batches * len(here)),
    programs.Program(
      f'{name}: propose',
      kernels.propose,
      (
        shared((step, pixels), kind),
        everywhere((total, pixels), kind),
        everywhere((total,), squares),
      ),
      batches * len(here),
      options,
      held=0 if whole else block.stop * pixels,
    ),
  ]
  narrow = [m for m in pca_bound.SIZES if m <= pixels // 4]
  if narrow or not whole:
    numbers = pairs(step * count, pixels, shards)
    pair = shared((numbers,), np.int32)
    images = everywhere((step, pixels), np.uint8)
    references = everywhere((block.stop, pixels), np.uint8)
    out.append(
      programs.Program(
        f'{name}: exact distances' + (', pruned' if whole else ''),
        exact_pairs.exact,
        (images, references, pair, pair),
        0.0 if whole else batches * len(here) * -(-step * count // numbers),
        {'mesh': mesh},
        held=total * pixels * kind.itemsize,
      )
    )
  if narrow:
    width = narrow[-1] + 1
    out.append(
      programs.Program(
        f'{name}: propose, pruned',
        kernels.propose,
        (
          shared((step, width), np.float32),
          everywhere((total, width), np.float32),
          everywhere((total,), np.float32),
        ),
        0.0,
        options | {'count': min(k + FEW, block.stop)},
        held=block.stop * pixels,
      )
    )
  if group > 1:
    some = shared((pairs(1, group * pixels, shards),), np.int32)
    out.append(
      programs.Program(
        f'{name}: members of groups',
        exact_pairs.members,
        (
          everywhere((step, pixels), kind),
          everywhere((total, pixels), kind),
          everywhere((total,), squares),
          some,
          some,
        ),
        batches * len(here),
        {'mesh': mesh, 'block': size, 'group': group},
      )
    )
  return out
