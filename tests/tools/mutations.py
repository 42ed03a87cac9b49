"""Seeded damage to bytes: flips, overwrites, cuts, insertions, copies."""

from collections.abc import Callable, Sequence
import json
import random
import struct
from typing import Any

# Numbers at which parsers go wrong.
_EDGES = (0, 1, 2, 3, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1,
          2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**64 - 1)  # fmt: skip
_WORDS = (
  b'\0', b'\n', b'\r\n', b'"', b',', b'-', b'-1', b'0', b'1e999', b'nan', b'NA',
  b'\xff\xfe', b'\xef\xbb\xbf', b'../', b'/', b'\x1b[31m', b'[' * 3000,
  b'(' * 3000, b'9' * 400, b'{}', b'null',
)  # fmt: skip
_VALUES = (
  None, True, False, 0, -1, 1, 2, 3, 7, 1.5, 10**6, 10**9, 10**12, 10**30,
  1e308, float('nan'), float('inf'), -float('inf'), '', 'a', 'DownBlock2D',
  'this.Feature', [], [[]], {}, {'a': 1}, [8, 8], [0, 4], [-4, 4], ['a', 'b'],
  [None, None], [4.5, 4], [4, 10**9], [4] * 40,
)  # fmt: skip


def mutate(rng: random.Random, content: bytes) -> bytes:
  """One to three changes; the head and the tail are hit most."""
  for _ in range(rng.choice((1, 1, 1, 2, 3))):
    content = rng.choice(_KINDS)(rng, content)
  return content


def _place(rng: random.Random, size: int) -> int:
  if not size:
    return 0
  where = rng.random()
  if where < 0.35:
    return rng.randrange(min(size, 64))
  if where < 0.5:
    return size - 1 - rng.randrange(min(size, 64))
  return rng.randrange(size)


def _flip(rng: random.Random, content: bytes) -> bytes:
  out = bytearray(content)
  for _ in range(rng.choice((1, 1, 1, 2, 8)) if out else 0):
    out[_place(rng, len(out))] ^= 1 << rng.randrange(8)
  return bytes(out)


def _overwrite(rng: random.Random, content: bytes) -> bytes:
  at = _place(rng, len(content))
  new = rng.choice((b'\0', b'\xff', b'\x7f', b'\x80', rng.randbytes(4)))
  return content[:at] + new + content[at + len(new) :]


def _number(rng: random.Random, content: bytes) -> bytes:
  """A number at an edge, of 1 to 8 bytes of either order."""
  at, kind = _place(rng, len(content)), rng.choice('BHIQ')
  size = struct.calcsize(kind)
  value = rng.choice(_EDGES) % 256**size
  new = struct.pack(rng.choice('<>') + kind, value)
  return content[:at] + new + content[at + size :]


def _cut(rng: random.Random, content: bytes) -> bytes:
  return content[: _place(rng, len(content))]


def _delete(rng: random.Random, content: bytes) -> bytes:
  at = _place(rng, len(content))
  return content[:at] + content[at + rng.choice((1, 2, 4, 16, 512)) :]


def _insert(rng: random.Random, content: bytes) -> bytes:
  at = _place(rng, len(content))
  new = rng.choice((*_WORDS, rng.randbytes(rng.choice((1, 4, 64)))))
  return content[:at] + new + content[at:]


def _copy(rng: random.Random, content: bytes) -> bytes:
  """A piece that comes twice, there or elsewhere."""
  at = _place(rng, len(content))
  piece = content[at : at + rng.choice((1, 8, 64, 512))]
  to = rng.choice((at, _place(rng, len(content))))
  return content[:to] + piece + content[to:]


_KINDS: Sequence[Callable[[random.Random, bytes], bytes]] = (
  _flip, _flip, _overwrite, _number, _cut, _delete, _insert, _copy,
)  # fmt: skip


def mutate_json(rng: random.Random, content: bytes) -> bytes:
  """A value of JSON that is another, gone, or new."""
  tree = json.loads(content)
  places = list(_places(tree))
  node, key = rng.choice(places) if places else (tree, None)
  what = rng.random()
  if key is None or what < 0.1:
    if isinstance(tree, dict):
      tree[rng.choice(('unknown', '_x', '', 'dtype', 'name'))] = rng.choice(
        _VALUES
      )
  elif what < 0.2:
    del node[key]
  else:
    node[key] = rng.choice(_VALUES)
  if rng.random() < 0.02:
    return json.dumps(rng.choice(_VALUES)).encode()
  return json.dumps(tree).encode()


def _places(tree: Any):
  """(container, key) of every value."""
  items = ()
  if isinstance(tree, dict):
    items = list(tree.items())
  elif isinstance(tree, list):
    items = list(enumerate(tree))
  for key, value in items:
    yield tree, key
    yield from _places(value)
