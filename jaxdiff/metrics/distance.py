"""Exact nearest neighbours of images by root-mean-square error.

(1)  l2(a, b) = sqrt(mean_i (a_i - b_i)^2),  pixels in [0, 1]

This is the paper's distance (section 4.1; Balle et al. 2022). In float32
|a|^2 + |b|^2 - 2 a.b loses near-duplicates, the very signal, in rounding: the
product only proposes candidates, which are ranked by true differences
(integers for uint8).
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

# Candidates beyond k: room for the rounding of the product.
SLACK = 32
# Sums of 8-bit squares this long fit int32.
_INT_SUM = 2**15
# References a block of the product, and floats a gather of candidates.
_REFERENCE_BLOCK = 2**16
_GATHER_FLOATS = 2**25


def nearest(
  queries: np.ndarray, references: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
  """The k nearest references of every query, nearest first.

  Args:
    queries: [S, ...] images, uint8 or float in [0, 1].
    references: [N, ...] images of the same shape and dtype, N >= k.
    k: number of neighbours.

  Returns:
    distance float32 [S, k], RMSE on pixels in [0, 1], and index int32 [S, k]
    into `references`. Ties go to the lower index.

  Raises:
    ValueError: for any other dtype or range, unequal shapes, or too few
      references.
  """
  queries, references = _checked(queries), _checked(references)
  if queries.dtype != references.dtype:
    raise ValueError(
      f'queries are {queries.dtype}, references {references.dtype}'
    )
  if queries.shape[1] != references.shape[1]:
    raise ValueError(
      f'queries have {queries.shape[1]} pixels, references '
      f'{references.shape[1]}'
    )
  if not 1 <= k <= len(references):
    raise ValueError(f'k is {k}; there are {len(references)} references')

  pixels = queries.shape[1]
  candidates = min(k + SLACK, len(references))
  blocks = -(-len(references) // _REFERENCE_BLOCK)
  batch = max(1, min(1024, _GATHER_FLOATS // (candidates * blocks * pixels)))
  on_device = jnp.asarray(references)
  distances, indices = [], []
  for i in range(0, len(queries), batch):
    rows = queries[i : i + batch]
    # One compiled shape: the last batch is filled up and cut again.
    padded = np.pad(rows, ((0, batch - len(rows)), (0, 0)), mode='edge')
    distance, index = _nearest_batch(jnp.asarray(padded), on_device, k=k)
    distances.append(np.asarray(distance)[: len(rows)])
    indices.append(np.asarray(index)[: len(rows)])
  if not distances:
    return np.zeros((0, k), np.float32), np.zeros((0, k), np.int32)
  return np.concatenate(distances), np.concatenate(indices)


def _checked(images: np.ndarray) -> np.ndarray:
  """[n, ...] -> [n, D], or ValueError."""
  images = np.asarray(images)
  if images.dtype != np.uint8:
    if not np.issubdtype(images.dtype, np.floating):
      raise ValueError(f'images are uint8 or float, not {images.dtype}')
    images = images.astype(np.float32)
    # Written so that NaN fails too.
    if images.size and not (images.min() >= 0.0 and images.max() <= 1.0):
      raise ValueError('float images for distances must lie in [0, 1]')
  return images.reshape(len(images), math.prod(images.shape[1:]))


@functools.partial(jax.jit, static_argnames='k')
def _nearest_batch(
  queries: jax.Array, references: jax.Array, *, k: int
) -> tuple[jax.Array, jax.Array]:
  """[B, D], [N, D] -> distance, index [B, k]."""
  proposed = [
    start
    + _propose(
      queries,
      references[start : start + _REFERENCE_BLOCK],
      min(k + SLACK, len(references) - start, _REFERENCE_BLOCK),
    )
    for start in range(0, len(references), _REFERENCE_BLOCK)
  ]
  index = jnp.concatenate(proposed, axis=1)
  squared = _squared_differences(queries, references[index])
  squared, index = jax.lax.sort((squared, index), num_keys=2)
  squared = squared[:, :k].astype(jnp.float32)
  scale = 255.0 if queries.dtype == jnp.uint8 else 1.0
  return jnp.sqrt(squared / queries.shape[1]) / scale, index[:, :k]


def _propose(
  queries: jax.Array, references: jax.Array, count: int
) -> jax.Array:
  """Indices int32 [B, count] with the smallest |r|^2 - 2 q.r."""
  # Centred, so that the product cancels less.
  centre = 127.5 if queries.dtype == jnp.uint8 else 0.5
  q = queries.astype(jnp.float32) - centre
  r = references.astype(jnp.float32) - centre
  product = jnp.matmul(q, r.T, precision=jax.lax.Precision.HIGHEST)
  bound = 2.0 * product - jnp.square(r).sum(axis=1)[None, :]
  return jax.lax.top_k(bound, count)[1].astype(jnp.int32)


def _squared_differences(queries: jax.Array, chosen: jax.Array) -> jax.Array:
  """[B, D], [B, c, D] -> [B, c], exact for uint8 up to 32,768 pixels."""
  if queries.dtype != jnp.uint8:
    return jnp.square(chosen - queries[:, None, :]).sum(axis=-1)
  total = 0
  for start in range(0, queries.shape[1], _INT_SUM):
    part = slice(start, start + _INT_SUM)
    difference = chosen[..., part].astype(jnp.int32) - queries[
      :, None, part
    ].astype(jnp.int32)
    sums = jnp.square(difference).sum(axis=-1)
    # A single int32 sum stays exact; several may not fit and become float32.
    total = (
      sums if queries.shape[1] <= _INT_SUM else total + sums.astype(jnp.float32)
    )
  return total
