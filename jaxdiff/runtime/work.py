"""How many operations a function takes, by its products.

XLA's own analysis counts the body of a loop once, whatever the loop: of
attention that goes in tiles it sees one tile. Here a function is traced and its
matrix products and convolutions are counted, 2 operations a multiply-add, those
of a scan as often as it runs; taps beyond a border count, too. All else is a
few per cent.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any

import jax
from jax.extend import core


def products(
  fn: Callable[..., Any], *shapes: Any, platform: str = 'tpu'
) -> float:
  """Operations of products in fn(*shapes).

  Of other branches than those by platform the dearest counts, and the body of a
  loop of unknown length once.

  Args:
    fn: a function of JAX.
    *shapes: trees of arrays, or of `jax.ShapeDtypeStruct`.
    platform: that it is lowered for: tpu, cuda or cpu.
  """
  return of_traced(jax.jit(fn).trace(*shapes), platform)


def of_traced(traced: jax.stages.Traced, platform: str = 'tpu') -> float:
  """The same of what was traced already; over all devices of a mesh."""
  return _count(traced.jaxpr.jaxpr, platform)


def _count(jaxpr: Any, platform: str) -> float:
  return sum(_of(equation, platform) for equation in jaxpr.eqns)


def _of(equation: Any, platform: str) -> float:
  name, params = equation.primitive.name, equation.params
  if name == 'dot_general':
    (contracted, _), _ = params['dimension_numbers']
    left = equation.invars[0].aval.shape
    return 2.0 * _size(equation) * math.prod(left[k] for k in contracted)
  if name == 'conv_general_dilated':
    kernel = equation.invars[1].aval.shape
    features = kernel[params['dimension_numbers'].rhs_spec[0]]
    # Of a transposed convolution most taps meet what was put between pixels.
    taps = math.prod(kernel) / features / math.prod(params['lhs_dilation'])
    return 2.0 * _size(equation) * taps
  if name == 'scan':
    return params['length'] * _count(params['jaxpr'].jaxpr, platform)
  inner = _inner(params)
  if name == 'cond':
    known = params['branches_platforms'] or ()
    of_platform = [k for k, x in enumerate(known) if x is None or platform in x]
    if of_platform:
      inner = [params['branches'][of_platform[0]].jaxpr]
    return max(_count(each, platform) for each in inner)
  total = sum(_count(each, platform) for each in inner)
  return params['mesh'].size * total if name == 'shard_map' else total


def _size(equation: Any) -> int:
  return math.prod(equation.outvars[0].aval.shape)


def _inner(params: dict[str, Any]) -> Iterator[Any]:
  """Functions that an operation calls."""
  for value in params.values():
    for each in value if isinstance(value, (tuple, list)) else (value,):
      if isinstance(each, core.ClosedJaxpr):
        yield each.jaxpr
      elif isinstance(each, core.Jaxpr):
        yield each
