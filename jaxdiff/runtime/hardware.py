"""What the machine has, and how much of it is used."""

import ctypes
import ctypes.util
import functools
import sys

import jax

# Dense bfloat16 operations a second of a chip, by JAX's `device_kind`; from the
# makers' data sheets.
PEAKS = {
  'TPU v4': 275e12,
  'TPU v5 lite': 197e12,
  'TPU v5': 459e12,
  'TPU v6 lite': 918e12,
  'NVIDIA A100-SXM4-40GB': 312e12,
  'NVIDIA A100-SXM4-80GB': 312e12,
  'NVIDIA H100 80GB HBM3': 989e12,
  'NVIDIA H200': 989e12,
}


def peak() -> float | None:
  """Operations a second of one of this process's devices; None if unknown."""
  return PEAKS.get(jax.local_devices()[0].device_kind)


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
