"""Generate and filter in a stream (paper, section 4.2).

Of each prompt the generations are drawn, compared with one another and thrown
away; what stays is the graph's clique and a few images. Any image can be made
again from its prompt and seed (`launch.sample --prompt_id --image_seed`).

With `first`, a prompt is drawn no further if no two of so many seeds are within
tau. Of a prompt that draws from memory with probability q, that loses

(1)  (1 - q)^f + f q (1 - q)^(f - 1)

so what is lost is estimated from what was found: of n seeds with a clique of m,
two or more of the first f are in it with the hypergeometric probability p, and
each prompt found stands for 1 / p.
"""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from etils import epy
import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff.attacks.extraction import cliques
from jaxdiff.attacks.prompts import images as images_lib
from jaxdiff.attacks.prompts import paths
from jaxdiff.data import datasets
from jaxdiff.metrics import tiled_distance
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import multihost, programs
from jaxdiff.sampling import prompted

with epy.lazy_imports():  # slow to import, not always needed
  from scipy import stats

# Edges that are looked at beyond tau, in its units: where the threshold of a
# prompt is sought, by which prompts are ranked and thresholds calibrated.
_WIDER = 2.0

COLUMNS = (
  'number', 'num_images', 'num_edges', 'clique_size', 'mean_distance',
  'least_tau', 'medoid', 'gave_up',
)  # fmt: skip
# Of a block: whose they are, and the edges of all its prompts.
_EDGES = ('edge_prompt', 'edge_seeds', 'edge_distance')


@dataclasses.dataclass(frozen=True, kw_only=True)
class StreamPlan:
  """All that generating and filtering needs; made by `plans`.

  Attributes:
    prompted: how images are drawn from prompts, and which prompts.
    num_seeds: generations of a prompt.
    first: of these, how many decide whether the others are drawn; 0 draws all.
    tau: largest tiled distance of an edge, RMSE.
    min_size: of a clique that counts.
    grid: tiles along each side.
    size: sides that images are compared at, a multiple of grid.
    kept: images of a clique that are kept.
    block_size: prompts a file.
    chosen: run -> numbers of the prompts that are drawn.
    num_chosen: how many they are.
  """

  prompted: prompted.PromptedPlan
  num_seeds: int
  first: int
  tau: float
  min_size: int
  grid: int
  size: int
  kept: int
  block_size: int
  chosen: Callable[[layout.Run], np.ndarray]
  num_chosen: int

  def rows(self) -> float:
    """Rows of the denoiser that a prompt takes if none is stopped."""
    return self.num_seeds * self.prompted.num_steps * self.prompted.rows


def generate(plan: StreamPlan, run: layout.Run) -> None:
  """Writes every block of prompts that is absent or torn."""
  drawn = plan.prompted
  prompted.check_weights(drawn, 'stream', drawn.apart)
  chosen = choose(plan, run)
  fill = blocks.fill_apart if drawn.apart else blocks.fill
  fill(
    'stream',
    run,
    drawn.ensemble,
    path_of=paths.Paths(run).stream,
    names=('indices', *COLUMNS, *_EDGES),
    total=len(chosen),
    block_size=plan.block_size,
    make_compute=lambda mesh: make_compute(plan, run, chosen, mesh),
    unit='prompts',
  )


def choose(plan: StreamPlan, run: layout.Run) -> np.ndarray:
  """Numbers of the prompts that are drawn: chosen once, and then written down.

  Further models of a grown run rank prompts otherwise.
  """
  path = paths.Paths(run).chosen
  chosen = np.zeros(plan.num_chosen, np.int64)
  if multihost.is_first():
    known = blocks.read_block(path, run.identity, 0, None)
    if known is None:
      chosen[:] = plan.chosen(run)
      blocks.write_block(path, run.identity, 0, indices=chosen)
    else:
      chosen[:] = known['indices']
  return multihost.agree(chosen)


def read(plan: StreamPlan, run: layout.Run, model: int) -> dict[str, Any]:
  """COLUMNS [n] of all prompts of one model."""
  return blocks.read_rows(
    run,
    paths.Paths(run).stream,
    model,
    plan.num_chosen,
    plan.block_size,
    COLUMNS,
  )


def best(
  scores: Sequence[np.ndarray], texts: Sequence[str], count: int
) -> np.ndarray:
  """Numbers of the prompts of the largest scores, of any model: [n], rising.

  Of equal scores the texts decide, by their hash: not their place in the file.

  Args:
    scores: [P] of each model.
    texts: [P] the prompts.
    count: n.
  """
  drawn_lots = prompted.words_of(texts)[:, 0]
  # The rank of each prompt, by the model that ranks it first.
  ranks = [np.argsort(np.lexsort((drawn_lots, -x))) for x in scores]
  order = np.lexsort((drawn_lots, np.min(ranks, axis=0)))
  return np.sort(order[:count])


def make_compute(
  plan: StreamPlan, run: layout.Run, chosen: np.ndarray, mesh: Mesh
) -> blocks.ComputeFn:
  """(params [E, ...], models [E], places in `chosen` [n]) -> arrays by name."""
  drawn = plan.prompted
  sampler = prompted.make_sampler(drawn, mesh)

  def draw(params, models, numbers, seeds):
    """uint8 [E, n, S, H, W, C]."""
    indices = numbers[:, None] + len(drawn.texts) * seeds
    flat = indices.reshape(-1)
    images = [
      datasets.to_uint8(sampler(params, models, flat[part]))
      for part in images_lib.parts(len(flat), len(models), drawn.image_shape)
    ]
    return np.concatenate(images, axis=1).reshape(
      len(models), *indices.shape, *images[0].shape[2:]
    )

  def compute(params, models, places):
    # Of models that are nobody's to write there is nothing to find.
    own = np.ones(len(models), bool)
    if not drawn.apart:
      own = models % jax.process_count() == jax.process_index()
    found: list[list[dict[str, Any]]] = [[] for _ in models]
    step = images_lib.prompts_at_once(
      len(models) * plan.num_seeds, drawn.image_shape
    )
    for start in range(0, len(places), step):
      numbers = chosen[places[start : start + step]]
      first = plan.first or plan.num_seeds
      images = draw(params, models, numbers, np.arange(first))
      alive, further = np.ones(images.shape[:2], bool), None
      if plan.first:
        alive[:] = [
          [len(_edges(plan, x, plan.tau)[0]) > 0 for x in of_model]
          for of_model in images
        ]
      some = np.flatnonzero(alive.any(axis=0))
      if plan.first and len(some):
        rest = np.arange(first, plan.num_seeds)
        further = draw(params, models, numbers[some], rest)
      for place in np.flatnonzero(own):
        for k, number in enumerate(numbers):
          of_prompt = images[place, k]
          if further is not None and alive[place, k]:
            more = further[place, np.searchsorted(some, k)]
            of_prompt = np.concatenate([of_prompt, more])
          row = scan(plan, of_prompt)
          found[place].append({'number': number, **row})
          _keep(plan, run, int(models[place]), int(number), of_prompt, row)
    return _arrays(found)

  return compute


def _edges(
  plan: StreamPlan, images: np.ndarray, tau: float
) -> tuple[np.ndarray, np.ndarray]:
  """Pairs of one prompt's generations within tau, and their distances."""
  images = images_lib.resized(images, plan.size)
  return tiled_distance.tile_graph(images, tau, plan.grid)


def scan(plan: StreamPlan, images: np.ndarray) -> dict[str, Any]:
  """The largest clique among generations of a prompt, uint8 [n, H, W, C].

  Returns:
    COLUMNS but for `number`; `members` of the clique, seeds; and `edges` and
    `distances` within tau.
  """
  edges, distances = _edges(plan, images, _WIDER * plan.tau)
  near = distances <= np.float32(plan.tau)
  clique = cliques.largest_clique(edges[near], distances[near], plan.min_size)
  least = cliques.least_tau(edges, distances, plan.min_size)
  if not len(clique.members) and least <= np.float32(plan.tau):
    # The search gave up before it came to one that there is.
    few = distances <= np.float32(least)
    clique = cliques.largest_clique(edges[few], distances[few], plan.min_size)
    clique = dataclasses.replace(clique, gave_up=True)
  return {
    'num_images': len(images),
    'num_edges': int(near.sum()),
    'clique_size': len(clique.members),
    'mean_distance': clique.mean_distance,
    'least_tau': least,
    'medoid': clique.medoid,
    'gave_up': clique.gave_up,
    'members': clique.members,
    'edges': edges[near],
    'distances': distances[near],
  }


def _keep(
  plan: StreamPlan,
  run: layout.Run,
  model: int,
  number: int,
  images: np.ndarray,
  row: dict[str, Any],
) -> None:
  """Writes the medoid of a clique, and others of it, as PNG files."""
  others = [seed for seed in row['members'] if seed != row['medoid']]
  for seed in [row['medoid'], *others][: plan.kept if len(others) else 0]:
    path = paths.Paths(run).picture(model, number, int(seed))
    files.write(path, files.png_bytes(images[seed]))


def _arrays(found: list[list[dict[str, Any]]]) -> dict[str, Any]:
  """What a block holds, of each model: a list of as many arrays."""
  out: dict[str, Any] = {
    name: [np.array([row[name] for row in rows]) for rows in found]
    for name in COLUMNS
  }
  # No finite number says that there is none: blocks take no other.
  for name in ('mean_distance', 'least_tau'):
    out[name] = [np.where(np.isfinite(x), x, -1.0) for x in out[name]]
  none = {'edges': np.zeros((0, 2), np.int32), 'distances': np.zeros(0)}
  for rows in found:
    edges = [np.asarray(row['edges'], np.int32) for row in rows]
    out.setdefault('edge_prompt', []).append(
      np.repeat(
        np.array([row['number'] for row in rows], np.int64),
        [len(of_prompt) for of_prompt in edges],
      )
    )
    out.setdefault('edge_seeds', []).append(
      np.concatenate([none['edges'], *edges])
    )
    out.setdefault('edge_distance', []).append(
      np.concatenate([none['distances'], *(row['distances'] for row in rows)])
    )
  return out


def lost(
  clique_size: np.ndarray, num_images: np.ndarray, first: int
) -> np.ndarray:
  """Prompts that each one found stands for, beyond itself.

  Args:
    clique_size: [n], of prompts found.
    num_images: [n], their generations.
    first: seeds of which two had to be within tau; 0 lost nothing.
  """
  if not first:
    return np.zeros(len(clique_size))
  missed = stats.hypergeom.cdf(1, num_images, clique_size, first)
  return missed / (1.0 - missed)


def programs_of(
  plan: StreamPlan, devices: Sequence[Any]
) -> list[programs.Program]:
  """What drawing and comparing compile."""
  drawn = plan.prompted
  own = programs.of_one_process(devices)
  share = programs.num_processes(devices)
  used = own if drawn.apart else list(devices)
  count = -(-plan.num_chosen // (share if drawn.apart else 1))
  out: list[programs.Program] = []
  for place in drawn.ensemble.placements(used):
    together = place.mesh.shape[mesh_lib.ENSEMBLE]
    step = images_lib.prompts_at_once(
      together * plan.num_seeds, drawn.image_shape
    )
    texts, images = [], []
    for rows in blocks.spans(count, plan.block_size):
      for some in blocks.spans(len(rows), step):
        for part in images_lib.parts(
          len(some) * plan.num_seeds, together, drawn.image_shape
        ):
          images.append(part.stop - part.start)
          texts.append(min(len(some), images[-1]) + 1)
    out += prompted.programs_of_spans(drawn, place, texts, images)
  return out + tiled_distance.programs_of(
    'tiles of a prompt',
    plan.num_seeds,
    (plan.size, plan.size, drawn.image_shape[2]),
    plan.grid,
    own,
    drawn.ensemble.num_models * plan.num_chosen / share,
  )
