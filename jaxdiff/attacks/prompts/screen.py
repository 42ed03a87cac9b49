"""Screens of every prompt, in resumable blocks."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxdiff.attacks.prompts import images as images_lib
from jaxdiff.attacks.prompts import paths, screens
from jaxdiff.data import datasets
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.runtime import prng, programs
from jaxdiff.sampling import prompted

# Sides of the images that edges are looked for in.
_EDGES_SIZE = 256


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScreenPlan:
  """All that screening needs; made by `plans`.

  Attributes:
    prompted: how images are drawn from prompts, and which prompts.
    kinds: some of `screens.SCREENS`.
    draws: of noise, of the single calls.
    num_seeds: generations that agreement and edges compare.
    num_steps: denoising steps of these.
    guidance_scale: of all screens.
    size: sides that agreement is measured at, a multiple of grid.
    grid: tiles along each side.
    block_size: prompts a file.
  """

  prompted: prompted.PromptedPlan
  kinds: tuple[str, ...]
  draws: int
  num_seeds: int
  num_steps: int
  guidance_scale: float
  size: int
  grid: int
  block_size: int

  @property
  def single(self) -> bool:
    """Whether single calls are asked for."""
    return bool(set(self.kinds) & set(screens.SINGLE))

  @property
  def runs(self) -> bool:
    """Whether images of several steps are."""
    return bool({'wen_trajectory', 'agreement'} & set(self.kinds))

  @property
  def names(self) -> tuple[str, ...]:
    """Arrays of a block."""
    return ('indices', *map(_stored, self.kinds))

  @property
  def timesteps(self) -> tuple[int, int, int]:
    """Of the single calls."""
    stepwise = self.prompted.denoiser
    return screens.timesteps(
      stepwise.schedule,
      stepwise.options['timestep_spacing'],
      stepwise.options.get('steps_offset', 0),
    )

  def calls(self) -> dict[str, int]:
    """Rows through the denoiser that each screen takes of a prompt.

    Of single calls the row without a prompt is left out: a batch shares it.
    """
    images = 2 * self.num_seeds
    costs = dict.fromkeys(screens.SINGLE, self.draws) | {
      'wen_trajectory': images * self.num_steps,
      'agreement': images * self.num_steps,
      'edges': images,
    }
    return {kind: costs[kind] for kind in self.kinds}

  def rows(self) -> int:
    """Rows of the denoiser that all screens together take of a prompt."""
    calls = self.calls()
    out = len(self.timesteps) * self.draws if self.single else 0
    if self.runs:
      out += 2 * self.num_seeds * self.num_steps
    return out + calls.get('edges', 0)

  def agreement(self, images: np.ndarray) -> float:
    """Of one prompt's images uint8 [S, H, W, C]."""
    return screens.agreement(images_lib.resized(images, self.size), self.grid)

  def steps(self, num_steps: int) -> steps_lib.Step:
    """Of guided runs; the one step of edges is from the last timestep.

    Raises:
      ValueError: if the schedule has no such run.
    """
    stepwise = self.prompted.denoiser
    if num_steps == 1:
      last = np.array([len(stepwise.schedule) - 1])
      return steps_lib.between(stepwise.schedule, last)
    return steps_lib.make_steps(
      stepwise.schedule,
      num_steps,
      stepwise.options['timestep_spacing'],
      stepwise.options.get('steps_offset', 0),
      stepwise.options.get('final_alpha', True),
    )

  def decoded(self) -> int:
    """Images that are decoded of a prompt."""
    return self.num_seeds * len({'agreement', 'edges'} & set(self.kinds))


def measure(plan: ScreenPlan, run: layout.Run) -> None:
  """Writes every block of screens that is absent or torn."""
  drawn = plan.prompted
  prompted.check_weights(drawn, 'screen', drawn.apart)
  fill = blocks.fill_apart if drawn.apart else blocks.fill
  fill(
    'screen',
    run,
    drawn.ensemble,
    path_of=paths.Paths(run).screen,
    names=plan.names,
    total=len(drawn.texts),
    block_size=plan.block_size,
    make_compute=lambda mesh: make_compute(plan, mesh),
    unit='prompts',
  )


def read(plan: ScreenPlan, run: layout.Run, model: int) -> dict[str, Any]:
  """Scores [P] of every screen, of one model."""
  rows = blocks.read_rows(
    run,
    paths.Paths(run).screen,
    model,
    len(plan.prompted.texts),
    plan.block_size,
    plan.names[1:],
  )
  return {kind: rows[_stored(kind)] for kind in plan.kinds}


def _stored(kind: str) -> str:
  """Its array in a block; another name where the definition is another.

  Blocks of before are made again, and not read beside new ones.
  """
  return {'agreement': 'agreement_of_most'}.get(kind, kind)


def make_compute(plan: ScreenPlan, mesh: Mesh) -> blocks.ComputeFn:
  """(params [E, ...], models [E], prompts [n]) -> scores [E, n] by name."""
  drawn = plan.prompted
  nets = prompted.Nets(drawn, mesh)
  single = nets.mapped(_single_fn(plan))
  if plan.runs:
    run = nets.mapped(_run_fn(plan, plan.num_steps))
  if 'edges' in plan.kinds:
    one = nets.mapped(_run_fn(plan, 1))

  def compute(params, models, numbers):
    null, cond = nets.encoded(params, models, numbers)
    given = (params['denoise'], null)
    out: dict[str, np.ndarray] = {}
    if plan.single:
      scores = single(given, models, cond)
      out |= dict(zip(screens.SINGLE, np.moveaxis(scores, 2, 0), strict=True))
    found: dict[str, list[np.ndarray]] = {}

    def add(name: str, values: Any) -> None:
      found.setdefault(name, []).append(np.asarray(values, np.float32))

    step = images_lib.prompts_at_once(
      4 * len(models) * plan.num_seeds, drawn.image_shape
    )
    for start in range(0, len(numbers), step):
      part = np.arange(start, min(start + step, len(numbers)))
      place = np.repeat(part, plan.num_seeds)
      seeds = np.tile(np.arange(plan.num_seeds), len(part))
      rows = nets.rows(models, numbers[place], seeds, cond, place)
      shape = (len(models), len(part), plan.num_seeds)

      def pictures(latents, shape=shape):
        x0 = nets.decoded(params, models, latents)
        return datasets.to_uint8(x0).reshape(*shape, *x0.shape[2:])

      if plan.runs:
        latents, norms = run(given, models, rows)
        add('wen_trajectory', norms.reshape(shape).mean(axis=2))
        if 'agreement' in plan.kinds:
          add('agreement', _each(pictures(latents), plan.agreement))
      if 'edges' in plan.kinds:
        latents, _ = one(given, models, rows)
        add('edges', _each(pictures(latents), _edges))
    out |= {name: np.concatenate(rows, axis=1) for name, rows in found.items()}
    return {_stored(kind): out[kind] for kind in plan.kinds}

  return compute


def _edges(images: np.ndarray) -> float:
  """Of one prompt's images, at the size that the screen is defined at."""
  size = min(_EDGES_SIZE, *images.shape[1:3])
  return screens.edges(images_lib.resized(images, size))


def _each(
  images: np.ndarray, score: Callable[[np.ndarray], float]
) -> list[list[float]]:
  """A score of every model and prompt: images [E, n, S, H, W, C]."""
  return [[score(prompt) for prompt in model] for model in images]


def _single_fn(plan: ScreenPlan) -> blocks.RowFn:
  """((weights, null condition), models, conditions) -> [B, 4]."""
  stepwise = plan.prompted.denoiser

  def single(params, model, cond):
    weights, empty = params
    root = prng.root(plan.prompted.ensemble.seed, 'screening')
    keys = prng.fold_each(
      jax.random.fold_in(root, model), jnp.arange(plan.draws)
    )
    return screens.single_calls(
      stepwise.eps_fn_of(weights),
      prng.normal_each(keys, stepwise.shape),
      cond,
      stepwise.null_of(empty),
      schedule=stepwise.schedule,
      t=plan.timesteps,
      guidance_scale=plan.guidance_scale,
    )

  return single


def _run_fn(plan: ScreenPlan, num_steps: int) -> blocks.RowFn:
  """((weights, null condition), models, `Nets.rows`) -> latents, norms."""
  stepwise = plan.prompted.denoiser
  clip_sample = stepwise.options.get('clip_sample', False)
  steps = plan.steps(num_steps)

  def run(params, model, rows):
    weights, empty = params
    words, seeds, cond = rows
    # Not the noise of the generations that screens are held against.
    keys = prompted.keys_of(plan.prompted, model, words, seeds, 'screening')
    last = jnp.asarray(len(stepwise.schedule))
    return screens.guided_run(
      stepwise.eps_fn_of(weights),
      steps_lib.noise(keys, last, stepwise.shape),
      cond,
      stepwise.null_of(empty),
      steps,
      guidance_scale=plan.guidance_scale,
      clip_sample=clip_sample,
    )

  return run


def programs_of(
  plan: ScreenPlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What screening compiles."""
  drawn = plan.prompted
  if drawn.apart:
    devices = programs.of_one_process(devices)
  share = programs.num_processes(devices) if drawn.apart else 1
  params = drawn.ensemble.shapes()
  tokens, cond, latent = prompted.shapes(drawn)
  count = -(-len(drawn.texts) // share)
  spans = [len(rows) for rows in blocks.spans(count, plan.block_size)]
  out = []
  for place in drawn.ensemble.placements(devices):
    together = place.mesh.shape[mesh_lib.ENSEMBLE]
    step = images_lib.prompts_at_once(
      4 * together * plan.num_seeds, drawn.image_shape
    )
    images = [
      len(part) * plan.num_seeds
      for span in spans
      for part in blocks.spans(span, step)
    ]
    nets = prompted.Nets(drawn, place.mesh)
    weights = (params['denoise'], cond)
    rows = prompted.row_shapes(cond)
    out.append(
      nets.encode.program(
        'encode', params['encode'], tokens, [x + 1 for x in spans], place
      )
    )
    if plan.single:
      out.append(
        nets.mapped(_single_fn(plan)).program(
          'screens of one call', weights, cond, spans, place
        )
      )
    decoded: list[int] = []
    for wanted, steps in (
      (plan.runs, plan.num_steps),
      ('edges' in plan.kinds, 1),
    ):
      if wanted:
        decoded += images
        out.append(
          nets.mapped(_run_fn(plan, steps)).program(
            f'screens of {steps} steps', weights, rows, images, place
          )
        )
    if decoded:
      out.append(
        nets.decode.program('decode', params['decode'], latent, decoded, place)
      )
  return out
