"""Memorised prompts without the training set: cliques of generations.

Paper, section 4.2. Generations of one prompt differ, unless the model drew them
from memory. They are nodes, pairs at most tau apart (tiled distance) are edges;
a clique of 10 or more calls the prompt memorised, and prompts are ranked by the
mean distance within their largest clique, smallest first. The paper does not
state tau; public re-implementations use 0.05 to 0.15.

Finding the largest clique takes exponential time at worst. The search is cut to
the components and cores that can hold one, and stops after a number of maximal
cliques, saying so: then a larger one may exist.
"""

from collections.abc import Iterable
import dataclasses
import itertools
from typing import Any

import jax
import networkx as nx
import numpy as np
import pandas as pd

from jaxdiff.metrics import tiled_distance
from jaxdiff.runtime import progress

MIN_SIZE = 10
# Maximal cliques looked at before giving up.
MOST_CLIQUES = 100_000
# The same of each of a dozen thresholds that are tried for one prompt.
_MOST_OF_LEVEL = 2000

# Of a table of prompts, after the prompt itself.
COLUMNS = (
  'num_images', 'num_edges', 'clique_size', 'mean_distance', 'medoid',
  'gave_up',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Clique:
  """The largest clique of a graph.

  Attributes:
    members: int [m], rising; empty if none reaches the least size.
    mean_distance: over pairs of members; NaN if empty.
    medoid: the member nearest to the others on average; -1 if empty.
    gave_up: the search stopped early: a larger clique may exist.
  """

  members: np.ndarray
  mean_distance: float
  medoid: int
  gave_up: bool


def largest_clique(
  edges: np.ndarray,
  distances: np.ndarray,
  min_size: int = MIN_SIZE,
  most_cliques: int = MOST_CLIQUES,
) -> Clique:
  """The largest clique; of several, the one of smallest mean distance found.

  Args:
    edges: int [E, 2].
    distances: [E].
    min_size: smaller ones do not count; at least 2.
    most_cliques: maximal cliques looked at in all.
  """
  graph = nx.Graph()
  graph.add_weighted_edges_from(
    (int(a), int(b), float(d))
    for (a, b), d in zip(edges, distances, strict=True)
  )
  best: list[int] = []
  best_mean, seen, gave_up = np.inf, 0, False
  # A clique of m nodes lies in the (m - 1)-core.
  core = nx.k_core(graph, min_size - 1) if len(graph) else graph
  components = sorted(nx.connected_components(core), key=len, reverse=True)
  for component in components:
    if len(component) < max(min_size, len(best)):
      continue
    part = core.subgraph(component)
    left = most_cliques - seen
    for clique in itertools.islice(nx.find_cliques(part), left + 1):
      seen += 1
      if seen > most_cliques:
        gave_up = True
        break
      if len(clique) < max(min_size, len(best)):
        continue
      mean = _mean_distance(part, clique)
      if (len(clique), -mean) > (len(best), -best_mean):
        best, best_mean = sorted(clique), mean
    if gave_up:
      break
  if not best:
    return Clique(np.zeros(0, int), float('nan'), -1, gave_up)
  totals = nx.to_numpy_array(graph, best).sum(axis=1)
  medoid = best[int(np.argmin(totals))]
  return Clique(np.array(best), best_mean, medoid, gave_up)


def least_tau(
  edges: np.ndarray,
  distances: np.ndarray,
  min_size: int = MIN_SIZE,
  most_cliques: int = _MOST_OF_LEVEL,
) -> float:
  """The smallest largest distance within a clique that counts.

  That is the least tau by which a prompt would be called memorised: what
  prompts can be compared by whatever tau is. Where a search stops early, it is
  that of a clique which was found, not surely the least.

  Args:
    edges: as `largest_clique`, of all pairs up to some tau.
    distances: [E].
    min_size: of a clique.
    most_cliques: looked at for each tau that is tried.

  Returns:
    RMSE; infinity where these edges hold none.
  """
  if not len(edges):
    return float('inf')
  matrix = np.full((int(edges.max()) + 1,) * 2, np.inf)
  matrix[edges[:, 0], edges[:, 1]] = matrix[edges[:, 1], edges[:, 0]] = (
    distances
  )
  levels = np.unique(distances)
  low, high = 0, len(levels)
  while low < high:
    middle = (low + high) // 2
    if _has_clique(matrix <= levels[middle], min_size, most_cliques):
      high = middle
    else:
      low = middle + 1
  return float(levels[low]) if low < len(levels) else float('inf')


# Nodes from which a clique is grown before all are looked for.
_GROWN = 64


def _has_clique(near: np.ndarray, size: int, most_cliques: int) -> bool:
  """Whether a clique of a size is among the cliques that are looked at.

  Args:
    near: bool [n, n], symmetric, without its diagonal.
    size: at least 2.
    most_cliques: looked at.
  """
  near = near.copy()
  # A clique of m nodes lies in the (m - 1)-core.
  while True:
    degrees = near.sum(axis=1)
    few = (degrees > 0) & (degrees < size - 1)
    if not few.any():
      break
    near[few] = near[:, few] = False
  nodes = np.flatnonzero(degrees)
  if len(nodes) < size:
    return False
  near = near[np.ix_(nodes, nodes)]
  for start in np.argsort(-degrees[nodes], kind='stable')[:_GROWN]:
    members, left = 1, near[start].copy()
    while left.any():
      # Whoever keeps most of the others.
      others = np.flatnonzero(left)
      best = others[np.argmax(near[np.ix_(others, others)].sum(axis=1))]
      left &= near[best]
      members += 1
      if members >= size:
        return True
  found = nx.find_cliques(nx.from_numpy_array(near))
  return any(
    len(clique) >= size for clique in itertools.islice(found, most_cliques)
  )


def scan_prompts(
  prompts: Iterable[tuple[str, np.ndarray]],
  tau: float,
  *,
  total: int,
  grid: int = 4,
  min_size: int = MIN_SIZE,
  most_cliques: int = MOST_CLIQUES,
  mesh: jax.sharding.Mesh | None = None,
) -> pd.DataFrame:
  """Ranks prompts by how surely their generations are from memory.

  Args:
    prompts: (name, generations uint8 [n, H, W, C]) of each; one at a time is in
      memory.
    tau: largest distance of an edge, RMSE.
    total: number of prompts, for the progress bar.
    grid: tiles along each side.
    min_size: of a clique that counts.
    most_cliques: as `largest_clique`.
    mesh: as `tiled_distance.tile_graph`.

  Returns:
    One row a prompt: prompt, num_images, num_edges, clique_size,
    mean_distance (RMSE), medoid (index of a generation), gave_up; those with a
    clique first, by mean distance.
  """
  rows = []
  with progress.track('prompts', total, 'prompts') as advance:
    for name, images in prompts:
      found = scan_prompt(images, tau, grid, min_size, most_cliques, mesh)
      rows.append({'prompt': name} | found)
      advance(1)
  table = pd.DataFrame(rows, columns=['prompt', *COLUMNS])
  return table.sort_values(
    ['mean_distance', 'prompt'], kind='stable', ignore_index=True
  )


def scan_prompt(
  images: np.ndarray,
  tau: float,
  grid: int = 4,
  min_size: int = MIN_SIZE,
  most_cliques: int = MOST_CLIQUES,
  mesh: jax.sharding.Mesh | None = None,
) -> dict[str, Any]:
  """The largest clique among the generations of one prompt: a row of a table.

  Args:
    images: uint8 [n, H, W, C].
    tau: as `scan_prompts`, and so the others.
    grid: tiles along each side.
    min_size: of a clique that counts.
    most_cliques: looked at.
    mesh: of the devices.
  """
  edges, distances = tiled_distance.tile_graph(images, tau, grid, mesh)
  clique = largest_clique(edges, distances, min_size, most_cliques)
  return {
    'num_images': len(images),
    'num_edges': len(edges),
    'clique_size': len(clique.members),
    'mean_distance': clique.mean_distance,
    'medoid': clique.medoid,
    'gave_up': clique.gave_up,
  }


def _mean_distance(graph: nx.Graph, clique: list[int]) -> float:
  """Over pairs of members."""
  weights = nx.to_numpy_array(graph, clique)
  return float(weights[np.triu_indices(len(clique), 1)].mean())
