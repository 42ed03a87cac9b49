"""How XLA is to compile a net's program for a CPU.

XLA has two libraries for convolutions there. YNNPACK, its default, sums the
gradient of a large kernel at a third of the other's rate, and gains little from
threads; Eigen's (over oneDNN's products) takes longer for small images of few
channels. Two cores of a Xeon (Emerald Rapids), float32, GFLOP/s, 3x3 kernels:

| forward, gradient to x, to the kernel | YNNPACK | Eigen |
|---|---|---|
| [32, 32, 32, 64], 64 features | 70, 83, 24 | 128, 159, 92 |
| [8, 16, 16, 256], 256 features | 98, 163, 118 | 132, 194, 176 |
| [64, 8, 8, 32], 32 features | 88, 50, 35 | 62, 36, 52 |

What is chosen depends on the weights alone, so that a program rounds alike
whatever the batch, the devices or the hour.
"""

import functools
import os
from typing import Any

from absl import logging
import jax
from jax.sharding import Mesh

from jaxdiff.runtime import mesh as mesh_lib

# Weights of a net from which Eigen convolves.
_LARGE = 2**20
# XLA's default less LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION: what else
# YNNPACK does is kept.
_NAME = 'xla_cpu_experimental_ynn_fusion_type'
_VALUE = 'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE'


def options(mesh: Mesh, weights: int) -> dict[str, Any] | None:
  """`compiler_options` of `jax.jit` for a program of a net.

  Args:
    mesh: that the program runs on.
    weights: how many numbers the net learns.

  Returns:
    None for XLA's own choice: on other devices than CPUs, for small nets, and
    where XLA_FLAGS has the option already or XLA does not know it.
  """
  if not mesh_lib.on_cpu(mesh) or weights < _LARGE or not _known():
    return None
  return {_NAME: _VALUE}


@functools.cache
def _known() -> bool:
  """Whether XLA takes the option, whose name says that it may go."""
  if _NAME in os.environ.get('XLA_FLAGS', ''):
    return False
  try:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      jax.jit(lambda x: -x, compiler_options={_NAME: _VALUE})(0.0)
  except jax.errors.JaxRuntimeError as error:
    logging.warning(
      'this XLA has no choice of convolutions; large nets may train more '
      'slowly on this CPU: %s',
      error,
    )
    return False
  return True
