"""Slices of TPUs that are elsewhere: devices to compile for.

Their compiler is a library, libtpu, which needs no TPU.
"""

import glob
import importlib.util
import os

import jax
from jax.experimental import topologies

from jaxdiff import inputs

# Without them libtpu asks a cloud's machine what it is; the last lets several
# processes compile at a time.
_ENVIRONMENT = {
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_ACCELERATOR_TYPE': 'v5litepod-16',
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
}


def use_cpu() -> None:
  """Keeps JAX itself on the CPU; call before any JAX work."""
  jax.config.update('jax_platforms', 'cpu')
  _expect_no_tpu()


def settle() -> None:
  """Keeps libtpu quiet on a machine without a TPU; call before any JAX work."""
  if not glob.glob('/dev/accel*') and not glob.glob('/dev/vfio/[0-9]*'):
    _expect_no_tpu()


def _expect_no_tpu() -> None:
  for name, value in _ENVIRONMENT.items():
    os.environ.setdefault(name, value)


def devices(name: str) -> list[jax.Device]:
  """The devices of a slice, as processes of a run on it see them.

  Args:
    name: generation and chips along each axis, like v5e:4x4.

  Raises:
    InputError: without libtpu, or for a slice that it does not know.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise inputs.InputError(
      "--compile_for: the TPU's compiler, libtpu, is not installed: "
      'JAXDIFF_EXTRAS=preflight before launch/local.sh, or pip install '
      "'jaxdiff[preflight]'"
    )
  _expect_no_tpu()
  try:
    described = topologies.get_topology_desc(
      platform='tpu',
      topology_name=name,
      # Both cores of a chip are one device, as in any run.
      **({'chip_config_name': 'megacore'} if name.startswith('v4:') else {}),
    )
    return list(described.devices)
  except Exception as error:  # JaxRuntimeError, which is not public by name
    raise inputs.InputError(
      f'--compile_for: no slice {inputs.name_of(name)}: give a generation and '
      'its chips, like v5e:4x4, v5p:2x2x2, v6e:2x4 or v4:2x2x1 '
      f'({inputs.one_line(error, 200)})'
    ) from error


# Slices of one host, which have four chips.
_HOSTS = {
  'TPU v4': 'v4:2x2x1',
  'TPU v5 lite': 'v5e:2x2',
  'TPU v5': 'v5p:2x2x1',
  'TPU v6 lite': 'v6e:2x2',
}


def host_like(own: list[jax.Device]) -> list[jax.Device]:
  """The devices of a slice of one host, in place of those of one of many.

  The compiler takes no program for a part of a slice.
  """
  alone = devices(_HOSTS[own[0].device_kind])
  if len(alone) != len(own):
    raise ValueError(f'{len(own)} devices a host, not {len(alone)}')
  return alone
