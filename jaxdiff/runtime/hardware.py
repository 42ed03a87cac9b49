"""What the machine has, and how much of it is used."""

import ctypes
import ctypes.util
import dataclasses
import functools
import sys

import jax


@dataclasses.dataclass(frozen=True)
class Chip:
  """By its maker's data sheet.

  Attributes:
    peak: dense bfloat16 operations a second.
    memory: bytes.
    clock: cycles a second of a TPU's matrix units, that is the peak over what
      they do in a cycle; 0 for others.
  """

  peak: float
  memory: float
  clock: float = 0.0


# By JAX's `device_kind`. In a cycle a matrix unit of 128 x 128 does 2^15
# operations; there are 4 on v5e, 8 on v4 and v5p, and on v6e 4 of 256 x 256.
CHIPS = {
  'TPU v4': Chip(275e12, 32e9, 275e12 / 2**18),
  'TPU v5 lite': Chip(197e12, 16e9, 197e12 / 2**17),
  'TPU v5': Chip(459e12, 95e9, 459e12 / 2**18),
  'TPU v6 lite': Chip(918e12, 32e9, 918e12 / 2**19),
  'NVIDIA A100-SXM4-40GB': Chip(312e12, 40e9),
  'NVIDIA A100-SXM4-80GB': Chip(312e12, 80e9),
  'NVIDIA H100 80GB HBM3': Chip(989e12, 80e9),
  'NVIDIA H200': Chip(989e12, 141e9),
}


def peak() -> float | None:
  """Operations a second of one of this process's devices; None if unknown."""
  chip = CHIPS.get(jax.local_devices()[0].device_kind)
  return None if chip is None else chip.peak


def memory() -> float | None:
  """Bytes of one of this process's devices; None if unknown."""
  chip = CHIPS.get(jax.local_devices()[0].device_kind)
  return None if chip is None else chip.memory


def memory_in_use() -> float | None:
  """GB of the fullest device, or of the process on a CPU; None if unknown."""
  stats = [device.memory_stats() for device in jax.local_devices()]
  if all(stats):
    return max(one['bytes_in_use'] for one in stats) / 1e9
  try:
    with open('/proc/self/status') as status:
      line = next(line for line in status if line.startswith('VmRSS'))
  except OSError:
    return None
  return int(line.split()[1]) * 1024 / 1e9


def give_back_memory() -> None:
  """Returns freed memory to the system, which malloc keeps after a compilation.

  What compiling a U-Net leaves is as much as the net's whole training state.
  """
  trim = _malloc_trim()
  if trim is not None:
    trim(0)


@functools.cache
def _malloc_trim():
  """glibc's; other systems have none."""
  if not sys.platform.startswith('linux'):
    return None
  try:
    return ctypes.CDLL(ctypes.util.find_library('c')).malloc_trim
  except (OSError, AttributeError):
    return None
