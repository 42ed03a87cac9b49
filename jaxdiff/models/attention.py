"""Scaled dot-product attention, in blocks that stay near where they are used.

(1)  o = softmax(q k^T / sqrt(D)) v

The CPU backend makes [B, heads, T, T] in memory several times over, at D = 8
and T = 256 for twice what the whole rest of a U-Net costs. Here some heads at a
time go through (1), and p of (1) is made once more backwards (Dao et al. 2022,
without tiles):

(2)  p = exp(q k^T / sqrt(D) - lse),  delta = sum_d g o
     ds = p (g v^T - delta)
     dq = ds k / sqrt(D),  dk = ds^T q / sqrt(D),  dv = p^T g

Products over the first axis of p and ds are made as dk^T and dv^T: as they
stand they are three times as slow. Measured on 2 cores of a Xeon, [32, 256, 16,
8], one device: forward 36 ms instead of 193, with gradients 138 instead of 484
(torch: 24 and 80 to 94); 258 with both made twice, as they are and transposed.

On a TPU large p goes in tiles that stay in its fast memory, and (1) becomes

(3)  o = p [v 1], its last column divided out,  p = exp(q k^T / sqrt(D) - max)

so that the matrix unit sums p, too. By the compiler's cycles for v5e, [16,
4096, 8, 40] in bfloat16: 8.7 ms instead of 31.6; [16, 1024, 8, 80]: 0.9 instead
of 2.1; below 1,024 keys it gains nothing. A CPU does so with
rows of one head: [2, 4096, 8, 40] in float32 takes 0.75 s instead of 1.25.

Where it is trained with fewer keys, p of (3) is kept for the way back as it is,
in the numbers that it is multiplied in, and its divisor d apart:

(4)  g' = g / d,  ds = p (g' v^T - sum_d g' o),  dv = p^T g'

No pass over p divides, and none is in float32. Likewise, [128, 256, 4, 64]: 1.6
ms forward and back instead of 4.5, and 152 MB between the two instead of 269.
"""

import jax
import jax.numpy as jnp

# Entries of p at a time, about: of a few MB.
_ENTRIES = 2**19
# Entries of p that a device may hold at once, 4 bytes each.
_HELD = 2**28
# Entries of a tile, heads that share one where they can, and keys from which
# tiles are worth it.
_TILE, _TILE_HEADS, _LEAST_KEYS = 2**23, 8, 1024


def attention(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Equation (1): q [B, T, heads, D], k and v [B, S, heads, D] -> like q.

  What a program is lowered for decides, not the machine that traces it. Where p
  is too large to be held, queries go a part at a time.
  """
  if min(q.shape[1], k.shape[1]) >= _LEAST_KEYS:
    return jax.lax.platform_dependent(
      q, k, v, tpu=in_tiles, cpu=_in_cache, default=_in_parts
    )
  return _in_parts(q, k, v)


def _in_parts(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  batch, length, heads, _ = q.shape
  rows = max(1, _HELD // (batch * heads * k.shape[1]))
  if rows >= length:
    return _whole(q, k, v)
  rows = max(n for n in range(1, rows + 1) if length % n == 0)
  parts = q.reshape(batch, -1, rows, *q.shape[2:]).swapaxes(0, 1)
  # Backwards p of a part is made again.
  out = jax.lax.map(jax.checkpoint(lambda part: _whole(part, k, v)), parts)
  return out.swapaxes(0, 1).reshape(q.shape)


def _whole(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  return jax.lax.platform_dependent(
    q, k, v, cpu=in_blocks, tpu=held, default=jax.nn.dot_product_attention
  )


@jax.custom_vjp
def held(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`attention` for a TPU, equation (4) backwards; shapes as there."""
  return jax.nn.dot_product_attention(q, k, v)


def _held_forward(q: jax.Array, k: jax.Array, v: jax.Array):
  scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
  logits = _of_heads('bthd,bshd->bhts', q * scale, k)
  p = jnp.exp(logits - logits.max(axis=-1, keepdims=True)).astype(v.dtype)
  # Of the rounded numbers, which are those that are mixed.
  total = p.astype(jnp.float32).sum(axis=-1)
  total = total.transpose(0, 2, 1)[..., None]
  out = (_of_heads('bhts,bshd->bthd', p, v) / total).astype(q.dtype)
  return out, (q, k, v, out, p, total)


def _held_backward(saved, g: jax.Array):
  q, k, v, out, p, total = saved
  scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
  g = g.astype(jnp.float32) / total
  delta = (g * out.astype(jnp.float32)).sum(axis=-1).transpose(0, 2, 1)
  g = g.astype(v.dtype)
  dp = _of_heads('bthd,bshd->bhts', g, v)
  ds = (p.astype(jnp.float32) * (dp - delta[..., None])).astype(v.dtype)
  dq = _of_heads('bhts,bshd->bthd', ds, k * scale)
  dk = _of_heads('bhts,bthd->bshd', ds, q * scale)
  dv = _of_heads('bhts,bthd->bshd', p, g)
  return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype)


held.defvjp(_held_forward, _held_backward)


def _of_heads(what: str, a: jax.Array, b: jax.Array) -> jax.Array:
  """A product, summed in float32."""
  return jnp.einsum(what, a, b, preferred_element_type=jnp.float32)


def in_tiles(
  q: jax.Array,
  k: jax.Array,
  v: jax.Array,
  tile: int = _TILE,
  together: int = _TILE_HEADS,
) -> jax.Array:
  """`attention` for a TPU, equation (3); backwards p is made again.

  Args:
    q: [B, T, heads, D].
    k: [B, S, heads, D].
    v: like k.
    tile: entries of p at a time, at most; a row at least.
    together: heads that share a tile where they can.
  """
  batch, length, heads, dim = q.shape
  keys = k.shape[1]
  most = max(1, tile // (keys * together))
  rows = max(n for n in range(1, min(length, most) + 1) if length % n == 0)
  most = max(1, tile // (keys * rows))
  some = max(n for n in range(1, most + 1) if batch * heads % n == 0)
  q = q * jnp.asarray(dim**-0.5, q.dtype)
  q, k, v = (
    x.transpose(0, 2, 1, 3).reshape(-1, some, *x.shape[1::2]) for x in (q, k, v)
  )

  @jax.checkpoint
  def of_rows(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    logits = jnp.einsum(
      'ntd,nsd->nts', q, k, preferred_element_type=jnp.float32
    )
    largest = jax.lax.stop_gradient(logits.max(axis=-1, keepdims=True))
    p = jnp.exp(logits - largest).astype(v.dtype)
    extended = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
    out = jnp.einsum(
      'nts,nsd->ntd', p, extended, preferred_element_type=jnp.float32
    )
    return (out[..., :-1] / out[..., -1:]).astype(q.dtype)

  def of_heads(group: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
    q, k, v = group
    if rows == length:
      return of_rows(q, k, v)
    parts = q.reshape(some, -1, rows, dim).swapaxes(0, 1)
    out = jax.lax.map(lambda part: of_rows(part, k, v), parts)
    return out.swapaxes(0, 1).reshape(q.shape)

  out = jax.lax.map(of_heads, (q, k, v))
  return out.reshape(batch, heads, length, dim).transpose(0, 2, 1, 3)


def _in_cache(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """Tiles for a CPU: rows of one head, whose p its cache holds."""
  return in_tiles(q, k, v, _ENTRIES, 1)


@jax.custom_vjp
def in_blocks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
  """`attention` for a CPU; computes in float32."""
  return _forward(q, k, v)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array):
  scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
  out, lse = _map(_forward_heads, scaled, k, v)
  return _unfold(out, q.shape).astype(q.dtype), (q, k, v, out, lse)


def _forward_heads(q: jax.Array, k: jax.Array, v: jax.Array):
  """[n, T or S, D] -> o [n, T, D], log of the softmax's divisor [n, T]."""
  logits = _rows(q, k)
  largest = logits.max(axis=-1, keepdims=True)
  p = jnp.exp(logits - largest)
  total = p.sum(axis=-1, keepdims=True)
  return _mix(p, v) / total, (largest + jnp.log(total))[..., 0]


def _backward(saved, g: jax.Array):
  q, k, v, out, lse = saved
  scale = jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
  g = _fold(g)
  delta = (g * out).sum(axis=-1)
  dq, dk_t, dv_t = _map(_backward_heads, q * scale, k, v, g, lse, delta)
  dk, dv = (x.swapaxes(1, 2) for x in (dk_t, dv_t))
  pairs = ((dq * scale, q), (dk, k), (dv, v))
  return tuple(_unfold(x, like.shape).astype(like.dtype) for x, like in pairs)


def _backward_heads(q, k, v, g, lse, delta):
  """Equation (2) with q scaled: [n, T or S, D], [n, T] -> dq, dk^T, dv^T.

  XLA would make dk and dv by the slow product again if they were turned here.
  """
  p = jnp.exp(_rows(q, k) - lse[:, :, None])
  ds = p * (_rows(g, v) - delta[:, :, None])
  return _mix(ds, k), _mix_rows(q, ds), _mix_rows(g, p)


in_blocks.defvjp(_forward, _backward)


def _rows(a: jax.Array, b: jax.Array) -> jax.Array:
  """All products of rows: [n, T, D], [n, S, D] -> [n, T, S]."""
  return jnp.einsum('ntd,nsd->nts', a, b)


def _mix(p: jax.Array, b: jax.Array) -> jax.Array:
  """[n, T, S], [n, S, D] -> [n, T, D]."""
  return jnp.einsum('nts,nsd->ntd', p, b)


def _mix_rows(b: jax.Array, p: jax.Array) -> jax.Array:
  """b^T p: [n, T, D], [n, T, S] -> [n, D, S]."""
  return jnp.einsum('ntd,nts->nds', b, p)


def _fold(x: jax.Array) -> jax.Array:
  """[B, T, heads, D] -> float32 [B heads, T, D]."""
  x = x.astype(jnp.float32).transpose(0, 2, 1, 3)
  return x.reshape(-1, *x.shape[2:])


def _unfold(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """[B heads, T, D] -> [B, T, heads, D]."""
  batch, length, heads, dim = shape
  return x.reshape(batch, heads, length, dim).transpose(0, 2, 1, 3)


def _map(kernel, q: jax.Array, k: jax.Array, *more: jax.Array):
  """kernel over some of the batch's heads at a time."""
  batch, length, heads, _ = q.shape
  arrays = [_fold(x) if x.ndim == 4 else x for x in (q, k, *more)]
  most = max(1, _ENTRIES // (length * k.shape[1]))
  some = max(n for n in range(1, most + 1) if batch * heads % n == 0)
  out = jax.lax.map(
    lambda part: kernel(*part),
    [x.reshape(-1, some, *x.shape[1:]) for x in arrays],
  )
  return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), out)
