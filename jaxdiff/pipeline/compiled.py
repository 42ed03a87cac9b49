"""What a compiled program says of itself: memory, work, time, collectives.

A TPU's compiler leaves an estimate of cycles with every fusion. Their sum,
times what loops repeat, is the time of the matrix and vector units; what moves
between chips, sorts and gathers have no estimate and are counted beside it.

(1)  operations of a convolution or product = 2 |output| |contracted|,

padding left out, as XLA counts them; of a loop its body as often as it runs.
"""

from collections.abc import Iterator
import dataclasses
import math
import re
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

# Bytes of a number; smaller ones are rounded up.
_BYTES = {
  'pred': 1, 's8': 1, 'u8': 1, 's16': 2, 'u16': 2, 'bf16': 2, 'f16': 2,
  's32': 4, 'u32': 4, 'f32': 4, 's64': 8, 'u64': 8, 'f64': 8, 'c64': 8,
}  # fmt: skip
_SHAPE = re.compile(r'\b([a-z][a-z0-9]*)\[([\d,]*)\]')
_COMPUTATION = re.compile(r'(ENTRY )?%?([\w.\-]+) \(.*\{$')
_INSTRUCTION = re.compile(r'\s+(?:ROOT )?%([\w.\-]+) = (.*)')
_OPCODE = re.compile(r'(?:^|[)\]}] )([a-z][a-z0-9\-]*)\(')
_COLLECTIVES = (
  'all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all',
  'collective-permute', 'collective-broadcast',
)  # fmt: skip
# Those that return their operand, too, where they are started.
_BOTH = ('all-gather', 'collective-permute')
# What the compiler writes for cycles that it does not know is above it.
_NO_ESTIMATE = 2**62
# Heavy instructions that may come without an estimate.
_HEAVY = ('sort', 'gather', 'scatter', 'fft', 'cholesky')
# Likewise calls: the last is of any kernel, such as the compiler's own of
# attention, whose operations are not seen either.
_HEAVY_CALLS = 'TopK|Sort|Gather|Scatter|tpu_custom_call'


@dataclasses.dataclass(frozen=True)
class Collective:
  """What chips tell each other in one instruction.

  Attributes:
    kind: in XLA's words.
    axes: of the mesh; 'all' and others that are no axes stand as they are.
    bytes: that each chip takes part with, in all calls of one run.
    calls: of one run of the program.
  """

  kind: str
  axes: tuple[str, ...]
  bytes: int
  calls: int


@dataclasses.dataclass(frozen=True)
class Facts:
  """Of one program on one chip, for one call.

  Attributes:
    argument_bytes: of the arguments.
    output_bytes: of the outputs that take no argument's place.
    temporary_bytes: beside both, at most.
    flops: of products and convolutions, equation (1).
    counted_flops: of everything, as XLA counts it: bodies of loops once.
    bytes_accessed: likewise.
    optimal_seconds: the compiler's own estimate; below 0 where it has none.
    cycles: sum of the estimates; None where the compiler leaves none.
    unestimated: heavy instructions without one, by name.
    collectives: what chips tell each other.
    float64: whether 64-bit floats are computed with.
    unbounded: loops of unknown length, which count once.
  """

  argument_bytes: int
  output_bytes: int
  temporary_bytes: int
  flops: float
  counted_flops: float
  bytes_accessed: float
  optimal_seconds: float
  cycles: float | None
  unestimated: dict[str, int]
  collectives: tuple[Collective, ...]
  float64: bool
  unbounded: int

  @property
  def bytes(self) -> int:
    """On the chip, at most."""
    return self.argument_bytes + self.output_bytes + self.temporary_bytes


def facts(program: jax.stages.Compiled, mesh: Mesh) -> Facts:
  """Reads a program that was compiled for the devices of a mesh."""
  memory, cost = program.memory_analysis(), program.cost_analysis() or {}
  text = program.as_text()
  if memory is None or text is None:
    raise ValueError('the compiler says nothing of its program')
  read = _Reading(text, mesh)
  read.walk(read.entry, 1)
  return Facts(
    argument_bytes=memory.argument_size_in_bytes,
    output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
    temporary_bytes=memory.temp_size_in_bytes,
    flops=read.flops,
    counted_flops=float(cost.get('flops', 0.0)),
    bytes_accessed=float(cost.get('bytes accessed', 0.0)),
    optimal_seconds=float(cost.get('optimal_seconds', -1.0)),
    cycles=read.cycles if read.estimates else None,
    unestimated=read.unestimated,
    collectives=tuple(read.collectives),
    float64=' f64[' in text,
    unbounded=read.unbounded,
  )


class _Reading:
  """The text of an optimised program, walked from its entry."""

  def __init__(self, text: str, mesh: Mesh):
    self._mesh = mesh
    self._computations: dict[str, list[tuple[str, str]]] = {}
    self.entry = ''
    name = ''
    for line in text.splitlines():
      heading = _COMPUTATION.match(line)
      if heading:
        name = heading[2]
        self._computations[name] = []
        self.entry = name if heading[1] else self.entry
      elif name:
        instruction = _INSTRUCTION.match(line)
        if instruction:
          self._computations[name].append((instruction[1], instruction[2]))
    self.flops, self.cycles, self.estimates = 0.0, 0.0, 0
    self.unestimated: dict[str, int] = {}
    self.collectives: list[Collective] = []
    self.unbounded = 0
    self._overlapped: set[tuple] = set()

  def walk(self, name: str, times: int, fused: bool = False) -> None:
    """Counts what a computation, perhaps of a fusion, does in so many calls."""
    shapes = {
      name: rest.split(' ', 1)[0] for name, rest in self._computations[name]
    }
    for _, rest in self._computations[name]:
      found = _OPCODE.search(rest)
      opcode = found[1] if found else ''
      cycles = re.search(r'"estimated_cycles":"?(\d+)', rest)
      if cycles and int(cycles[1]) < _NO_ESTIMATE:
        self.cycles += times * int(cycles[1])
        self.estimates += 1
      elif cycles or opcode in _HEAVY:
        self.unestimated[opcode] = self.unestimated.get(opcode, 0) + times
      elif opcode == 'custom-call':
        target = re.search(r'custom_call_target="([^"]*)"', rest)
        if target and re.search(_HEAVY_CALLS, target[1]):
          key = target[1]
          self.unestimated[key] = self.unestimated.get(key, 0) + times
      if opcode.removesuffix('-start') in _COLLECTIVES:
        self._collective(opcode.removesuffix('-start'), rest, times, fused)
      if opcode in ('convolution', 'dot'):
        self.flops += times * _product_flops(opcode, rest, shapes)
      for inner, repeat in self._called(opcode, rest):
        self.walk(inner, times * repeat, fused or opcode == 'fusion')

  def _called(self, opcode: str, rest: str) -> Iterator[tuple[str, int]]:
    """Computations that an instruction runs, and how often."""
    if opcode == 'while':
      trips = self._trips(rest)
      self.unbounded += trips is None
      yield _named(rest, 'body'), trips or 1
    elif opcode == 'conditional':
      branches = re.search(r'branch_computations=\{([^}]*)\}', rest)
      names = (
        [x.strip().lstrip('%') for x in branches[1].split(',')]
        if branches
        else [_named(rest, f'{side}_computation') for side in ('true', 'false')]
      )
      yield max(names, key=self._cycles_of), 1
    elif opcode in ('fusion', 'async-start'):
      yield _named(rest, 'calls'), 1
    elif opcode == 'call':
      yield _named(rest, 'to_apply'), 1

  def _trips(self, rest: str) -> int | None:
    """How often a loop runs, if its condition compares with a constant.

    Loops of JAX count up from 0.
    """
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', rest)
    if known:
      return int(known[1])
    condition = self._computations[_named(rest, 'condition')]
    constants = {
      name: int(found[1])
      for name, text in condition
      if (found := re.search(r'\bconstant\((\d+)\)', text))
    }
    for _, text in condition:
      found = re.search(r' compare\(%[\w.\-]+, %([\w.\-]+)\)', text)
      if found and 'direction=LT' in text:
        return constants.get(found[1])
    return None

  def _cycles_of(self, name: str) -> int:
    return sum(
      int(x)
      for _, rest in self._computations[name]
      for x in re.findall(r'"estimated_cycles":"?(\d+)', rest)
    )

  def _collective(
    self, kind: str, rest: str, times: int, fused: bool = False
  ) -> None:
    operands = rest.split(f'{kind}(')[0].split(f'{kind}-start(')[0]
    channel = re.search(r'channel_id=(\d+)', rest)
    if fused and channel:
      # What is overlapped with other work is repeated in each part of it,
      # perhaps in another memory.
      same = (channel[1], *_SHAPE.findall(operands))
      if same in self._overlapped:
        return
      self._overlapped.add(same)
    if f'{kind}-start(' in rest and kind in _BOTH:
      # The operand's shape, then the result's.
      shapes = _SHAPE.findall(operands)
      operands = f'{shapes[1][0]}[{shapes[1][1]}]' if shapes[1:] else operands
    self.collectives.append(
      Collective(kind, self._axes(rest), times * _bytes_of(operands), times)
    )

  def _axes(self, rest: str) -> tuple[str, ...]:
    """Axes of the mesh along which the groups of a collective reach."""
    shape = self._mesh.devices.shape
    groups = _groups(rest)
    if groups is None:
      return tuple(self._mesh.axis_names)
    reach = np.zeros(len(shape), bool)
    for group in groups:
      place = np.array(np.unravel_index(group, shape))
      reach |= (place != place[:, :1]).any(axis=1)
    names = self._mesh.axis_names
    return tuple(str(name) for name, on in zip(names, reach, strict=True) if on)


def _groups(rest: str) -> list[list[int]] | None:
  """Positions in the mesh that take part together; None for all of them."""
  listed = re.search(r'replica_groups=\{(\{[\d,{} ]*\})\}', rest)
  if listed:
    return [
      [int(x) for x in group.split(',')]
      for group in re.findall(r'\{([\d, ]+)\}', listed[1])
    ]
  tiled = re.search(
    r'replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?', rest
  )
  if tiled:
    shape, dims = ([int(x) for x in tiled[k].split(',')] for k in (1, 2))
    numbers = np.arange(math.prod(dims)).reshape(dims)
    if tiled[3]:
      numbers = numbers.transpose([int(x) for x in tiled[3].split(',')])
    return numbers.reshape(shape).tolist()
  of_axes = re.search(
    r"replica_groups=mesh\[((?:'\w+'=\d+,?)+)\] \{((?:'\w+',? ?)*)\},", rest
  )
  if of_axes:
    sizes = dict(re.findall(r"'(\w+)'=(\d+)", of_axes[1]))
    names, along = list(sizes), re.findall(r"'(\w+)'", of_axes[2])
    shape = [int(size) for size in sizes.values()]
    numbers = np.arange(math.prod(shape)).reshape(shape)
    numbers = np.moveaxis(
      numbers, [names.index(name) for name in along], range(-len(along), 0)
    )
    together = math.prod(int(sizes[name]) for name in along)
    return numbers.reshape(-1, together).tolist()
  pairs = re.search(r'source_target_pairs=\{([\d,{} ]*)\}', rest)
  if pairs:
    return [
      [int(x) for x in pair.split(',')]
      for pair in re.findall(r'\{([\d, ]+)\}', pairs[1])
    ]
  if re.search(r'replica_groups=(?!\{\})', rest):
    raise ValueError(f'groups of a collective are written in a new way: {rest}')
  return None


def _named(rest: str, key: str) -> str:
  found = re.search(rf'\b{key}=%?([\w.\-]+)', rest)
  assert found, rest[:200]
  return found[1]


def _dims(shape: str) -> list[int]:
  found = _SHAPE.search(shape)
  return [int(x) for x in found[2].split(',') if x] if found else []


def _bytes_of(shapes: str) -> int:
  return sum(
    _BYTES.get(kind, 4) * math.prod(int(x) for x in dims.split(',') if x)
    for kind, dims in _SHAPE.findall(shapes)
  )


def _product_flops(opcode: str, rest: str, shapes: dict[str, str]) -> float:
  """Equation (1)."""
  operands = re.findall(
    r'%([\w.\-]+)', rest.split(f'{opcode}(', 1)[1].split(')', 1)[0]
  )
  left, right = (_dims(shapes.get(name, '')) for name in operands[:2])
  out = _dims(rest)
  if opcode == 'dot':
    found = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', rest)
    axes = [int(x) for x in found[1].split(',') if x] if found else []
    return 2.0 * math.prod(out) * math.prod(left[axis] for axis in axes)
  labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', rest)
  assert labels, rest[:200]
  window = re.search(r'window=\{([^}]*)\}', rest)
  fields = dict(
    field.split('=') for field in (window[1].split() if window else [])
  )
  taps = 1.0
  for place, label in enumerate(sorted(set(labels[1]) - {'b', 'f'})):
    taps *= _taps(
      fields,
      place,
      left[labels[1].index(label)],
      out[labels[3].index(label)],
    )
  inside = right[labels[2].index('i')]
  batch = out[labels[3].index('b')]
  features = out[labels[3].index('f')]
  return 2.0 * batch * features * inside * taps


def _taps(fields: dict[str, str], place: int, size: int, out: int) -> int:
  """Pairs of an output position and a kernel's tap that meets an input."""

  def number(key: str, default: int) -> int:
    return int(fields[key].split('x')[place]) if key in fields else default

  window, stride = number('size', 1), number('stride', 1)
  low = 0
  if 'pad' in fields:
    low = int(fields['pad'].split('x')[place].split('_')[0])
  dilated, spread = number('lhs_dilate', 1), number('rhs_dilate', 1)
  return taps_inside(size, out, window, stride, low, dilated, spread)


def taps_inside(
  size: int,
  out: int,
  window: int,
  stride: int,
  low: int,
  dilated: int,
  spread: int,
) -> int:
  """Pairs (output o, tap w) whose place o stride + w spread - low is an input.

  Inputs lie at 0, dilated, ..., (size - 1) dilated. Compilers lay whole batches
  along a window: nothing here is as large as outputs times taps, unless both
  are spread.
  """
  start = np.arange(out, dtype=np.int64) * stride - low
  last = (size - 1) * dilated
  if dilated == 1:
    first_tap = np.maximum(0, -(start // spread))
    last_tap = np.minimum(window - 1, (last - start) // spread)
    return int(np.maximum(0, last_tap - first_tap + 1).sum())
  if spread == 1:
    lowest = -(-np.maximum(0, start) // dilated)
    highest = np.minimum(last, start + window - 1) // dilated
    return int(np.maximum(0, highest - lowest + 1).sum())
  place = start[:, None] + np.arange(window)[None, :] * spread
  inside = (place >= 0) & (place <= last) & (place % dilated == 0)
  return int(inside.sum())


def as_json(found: Facts) -> dict[str, Any]:
  """Plain values."""
  return dataclasses.asdict(found)


def from_json(found: dict[str, Any]) -> Facts:
  """The inverse of `as_json`."""
  collectives = tuple(
    Collective(**(each | {'axes': tuple(each['axes'])}))
    for each in found['collectives']
  )
  return Facts(**(found | {'collectives': collectives}))
