"""How many operations a function takes, by its products.

XLA's own analysis counts the body of a loop once, whatever the loop: of
attention that goes in tiles it sees one tile. Here a function is traced and its
matrix products and convolutions are counted, 2 operations a multiply-add, those
of a scan as often as it runs; all else is a few in a hundred.
"""

from collections.abc import Callable, Iterator
import math
from typing import Any

import jax
from jax.extend import core


def products(fn: Callable[..., Any], *shapes: Any) -> float:
  """Operations of products in fn(*shapes).

  Of branches the dearest counts, and the body of a loop of unknown length once.

  Args:
    fn: a function of JAX.
    *shapes: trees of arrays, or of `jax.ShapeDtypeStruct`.
  """
  return _count(jax.make_jaxpr(fn)(*shapes).jaxpr)


def _count(jaxpr: Any) -> float:
  return sum(_of(equation) for equation in jaxpr.eqns)


def _of(equation: Any) -> float:
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
    return params['length'] * _count(params['jaxpr'].jaxpr)
  if name == 'cond':
    return max(_count(branch.jaxpr) for branch in params['branches'])
  if name == 'shard_map':
    return params['mesh'].size * sum(map(_count, _inner(params)))
  return sum(map(_count, _inner(params)))


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
