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

Most of the memory that a small net trains in is XLA's while it compiles: 1.3 MB
for every kernel that differs from the others, of which a step of the digits'
net has 444. XLA's older emitters keep none of that; where a kernel writes over
what it reads they do not vectorise, so that what such a step is given is not
donated to it, and norms keep other things (`models/norms.py`).

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

# Weights of a net from which it is large.
_LARGE = 2**20
# For Eigen: XLA's default less LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION. What
# else YNNPACK does is kept.
_EIGEN = (
  'xla_cpu_experimental_ynn_fusion_type',
  'LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT,LIBRARY_FUSION_TYPE_REDUCE',
)
_OLDER_EMITTERS = 'xla_cpu_use_fusion_emitters', False


def is_small(mesh: Mesh, weights: int) -> bool:
  """Whether a net is small, and its mesh of CPUs."""
  return mesh_lib.on_cpu(mesh) and weights < _LARGE


def older_emitters() -> dict[str, Any] | None:
  """`compiler_options` for the training step of a small net, as `options`.

  The step must not be donated what it replaces.
  """
  return _if_known(*_OLDER_EMITTERS)


def options(mesh: Mesh, weights: int) -> dict[str, Any] | None:
  """`compiler_options` of `jax.jit` for a program of a net.

  Args:
    mesh: that the program runs on.
    weights: how many numbers the net learns.

  Returns:
    None for XLA's own choice: on other devices than CPUs, for small nets, and
    where XLA_FLAGS has the option already or XLA does not know it.
  """
  if not mesh_lib.on_cpu(mesh) or weights < _LARGE:
    return None
  return _if_known(*_EIGEN)


@functools.cache
def _if_known(name: str, value: Any) -> dict[str, Any] | None:
  """An option if XLA takes it: it has no promise that these stay."""
  if name in os.environ.get('XLA_FLAGS', ''):
    return None
  try:
    with jax.default_device(jax.local_devices(backend='cpu')[0]):
      jax.jit(lambda x: -x, compiler_options={name: value})(0.0)
  except jax.errors.JaxRuntimeError as error:
    logging.warning(
      'this XLA has no %s, which on this CPU may cost nets time or memory: %s',
      name,
      error,
    )
    return None
  return {name: value}
