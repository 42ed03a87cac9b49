"""Images by prompt and seed, in resumable blocks.

An image's noise is folded from its prompt's text and the number of its seed:
the same image whatever else is asked for, in whatever order, batch or layout.
Samples come seed by seed, so that a run may grow: sample i is of prompt i mod P
and seed i div P.

Texts are encoded, latents denoised, and images decoded by three programs.
"""

from collections.abc import Callable, Sequence
import dataclasses
import hashlib
import math
from typing import Any

from absl import logging
from etils import epath
import jax
from jax.sharding import Mesh
import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.data import datasets, image_sets
from jaxdiff.diffusion import processes, schedules
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import samples as samples_lib
from jaxdiff.runtime import hardware, multihost, preemption, prng, programs
from jaxdiff.runtime import mesh as mesh_lib


class Paths(layout.Part):
  """Which samples are of which prompt: sample = number + seed x prompts."""

  prompts = layout.File('samples/prompts.csv')

  def picture(self, model: int, number: int, seed: int) -> epath.Path:
    """Of a prompt's number and a seed's."""
    name = f'{number:06d}-{seed:04d}.png'
    return self.path / 'pictures' / f'model-{model:03d}' / name


# Of one model: (params, tokens [B, ...]) -> condition, a tree of [B, ...].
EncodeFn = Callable[[Any, Any], Any]
# (params, keys [B], condition, null condition) -> latents [B, h, w, C].
DenoiseFn = Callable[[Any, jax.Array, Any, Any], jax.Array]
# (params, latents) -> images in [-1, 1], [B, H, W, 3].
DecodeFn = Callable[[Any, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Denoiser:
  """A denoiser step by step, for those who look at more than its images.

  Attributes:
    eps_fn_of: params -> noise predictor, of conditions as `encode_fn` gives.
    null_of: condition of the empty text -> that of no text.
    schedule: noise schedule.
    shape: of latents, (h, w, C).
    options: `timestep_spacing`, `steps_offset`, `final_alpha` and
      `clip_sample` of its runs.
  """

  eps_fn_of: Callable[[Any], processes.EpsFn]
  null_of: Callable[[Any], Any]
  schedule: schedules.Schedule
  shape: tuple[int, int, int]
  options: dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptedPlan(samples_lib.Samples):
  """All that drawing from prompts needs; made by `plans`.

  `num_samples` is a multiple of the number of prompts.

  Attributes:
    texts: the prompts, each once.
    table: columns id, prompt, number (in `texts`), a row for each line that
      asks for one.
    tokens_of: texts [n] -> what `encode_fn` takes, int32 [n, ...].
    encode_fn: of the texts.
    denoise_fn: of the latents.
    decode_fn: of the images.
    denoiser: what `denoise_fn` is made of.
    guidance_scale: of it.
    ensemble: the models; params are a dict of `encode`, `denoise` and `decode`.
    batch_size: images denoised at a time, over all devices along 'data'; at
      least one each.
    decode_batch_size: likewise, decoded.
    num_steps: evaluations of the denoiser an image, for who counts the work.
    image_shape: (H, W, C).
    pictures: whether images are written as PNG files, too.
    apart: whether a process can restore a model without the others, so that
      each may work on prompts of its own.
    cut: mesh -> whether devices keep a part of the weights each, as `ensemble`
      restores them.
  """

  texts: tuple[str, ...]
  table: pd.DataFrame
  tokens_of: Callable[[Sequence[str]], np.ndarray]
  encode_fn: EncodeFn
  denoise_fn: DenoiseFn
  decode_fn: DecodeFn
  denoiser: Denoiser
  guidance_scale: float
  ensemble: ensemble_lib.Ensemble
  batch_size: int
  decode_batch_size: int
  num_steps: int
  image_shape: tuple[int, int, int]
  pictures: bool = False
  apart: bool = False
  cut: Callable[[Mesh], bool] = lambda mesh: False

  @property
  def rows(self) -> int:
    """That the denoiser takes of each image: 2 with guidance."""
    return 1 if self.guidance_scale == 1.0 else 2

  def prompt_of(self, indices: np.ndarray) -> np.ndarray:
    """Numbers of the prompts of samples."""
    return indices % len(self.texts)

  def seed_of(self, indices: np.ndarray) -> np.ndarray:
    """Numbers of the seeds of samples."""
    return indices // len(self.texts)


def with_reduced(encode: Callable[[jax.Array], Any], tokens: jax.Array) -> Any:
  """A condition, and under `reduced` those of shortened texts.

  Args:
    encode: tokens [B, ...] -> condition, a dict of [B, ...].
    tokens: int32 [B, 1 + R, ...], the whole text first.

  Returns:
    The dict, with `reduced`: a dict of [B, R, ...].
  """
  batch, count = tokens.shape[:2]
  cond = {
    name: leaf.reshape(batch, count, *leaf.shape[1:])
    for name, leaf in encode(tokens.reshape(-1, *tokens.shape[2:])).items()
  }
  return {
    **{name: leaf[:, 0] for name, leaf in cond.items()},
    'reduced': {name: leaf[:, 1:] for name, leaf in cond.items()},
  }


def words_of(texts: Sequence[str]) -> np.ndarray:
  """64 bits of SHA-256 of each text, as uint32 [n, 2]."""
  digests = [
    hashlib.sha256(text.encode('utf-8', 'surrogatepass')).digest()[:8]
    for text in texts
  ]
  return np.frombuffer(b''.join(digests), '<u4').reshape(-1, 2)


def generate(plan: PromptedPlan, run: layout.Run) -> None:
  """Writes every block of samples that is absent or torn."""

  def make_compute(mesh: Mesh) -> blocks.ComputeFn:
    sampler = make_sampler(plan, mesh)
    return lambda *given: {'images': datasets.to_uint8(sampler(*given))}

  check_weights(plan, 'sample')
  if multihost.is_first():
    files.write_csv(Paths(run).prompts, plan.table)
  blocks.fill(
    'sample',
    run,
    plan.ensemble,
    path_of=run.samples,
    names=('images', 'indices'),
    total=plan.num_samples,
    block_size=plan.block_size,
    make_compute=make_compute,
  )
  if plan.pictures:
    _write_pictures(plan, run)


def _write_pictures(plan: PromptedPlan, run: layout.Run) -> None:
  """Writes every sample as a PNG file that is not there yet."""
  paths = Paths(run)
  pieces = [
    (model, rows)
    for model in range(plan.ensemble.num_models)
    for rows in blocks.spans(plan.num_samples, plan.block_size)
  ]
  for model, rows in pieces[multihost.share(len(pieces))]:
    places = [
      paths.picture(model, *numbers)
      for numbers in zip(plan.prompt_of(rows), plan.seed_of(rows), strict=True)
    ]
    absent = [k for k, place in enumerate(places) if not place.exists()]
    if absent:
      images = plan.read(run, model, int(rows[0]))
      for k in absent:
        files.write(places[k], files.png_bytes(images[k]))
    if preemption.asked():
      break
  if multihost.any_of(preemption.asked()):
    preemption.leave()
  multihost.barrier('pictures')


def pictures(plan: PromptedPlan, run: layout.Run) -> image_sets.ImageSet:
  """The samples of the first model, by their PNG files."""
  paths, count = Paths(run), len(plan.texts)

  def path_of(row: int) -> epath.Path:
    return paths.picture(0, row % count, row // count)

  return image_sets.of_contents(
    'pictures',
    [path_of(row).name for row in range(plan.num_samples)],
    [''] * plan.num_samples,
    [],
    lambda row: path_of(row).read_bytes(),
  )


def check_weights(plan: PromptedPlan, stage: str, apart: bool = False) -> None:
  """Says what weights take on each device.

  Args:
    plan: whose weights.
    stage: that needs them, for people.
    apart: whether each process works on its own devices.

  Raises:
    InputError: if that is more than a chip has.
  """
  devices = jax.local_devices() if apart else jax.devices()
  size = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(plan.ensemble.shapes())
  )
  chip = hardware.memory()
  cut = plan.cut(mesh_lib.make(1, devices))
  logging.info(
    '%s: a model has %.3g GB of weights, %s each of %d devices%s',
    stage,
    size / 1e9,
    'a part of them on' if cut else 'whole on',
    len(devices),
    '' if chip is None else f' of {chip / 1e9:.3g} GB',
  )
  if chip is not None and size > chip * (len(devices) if cut else 1):
    raise inputs.InputError(
      f'dtype: weights take {size / 1e9:.3g} GB, a device has '
      f'{chip / 1e9:.3g}; bfloat16 halves what float32 takes'
    )


def make_sampler(
  plan: PromptedPlan, mesh: Mesh
) -> Callable[[Any, np.ndarray, np.ndarray], np.ndarray]:
  """(params [E, ...], models [E], indices [S]) -> x0 [E, S, H, W, C]."""
  nets = Nets(plan, mesh)
  denoise = _denoise(plan, nets)

  def sampler(params, models, indices):
    numbers, place = np.unique(plan.prompt_of(indices), return_inverse=True)
    null, cond = nets.encoded(params, models, numbers)
    given = nets.rows(
      models, numbers[place], plan.seed_of(indices), cond, place
    )
    latents = denoise((params['denoise'], null), models, given)
    return nets.decoded(params, models, latents)

  return sampler


def _denoise(plan: PromptedPlan, nets: 'Nets') -> blocks.MapRows:
  """((weights, null condition), models, `Nets.rows`) -> latents."""

  def denoise(params, model, rows):
    weights, null = params
    words, seeds, cond = rows
    keys = keys_of(plan, model, words, seeds)
    return plan.denoise_fn(weights, keys, cond, null)

  return nets.mapped(denoise)


def keys_of(
  plan: PromptedPlan,
  model: jax.Array,
  words: jax.Array,
  seeds: jax.Array,
  purpose: str = 'sampling',
) -> jax.Array:
  """Of images: keys [B], from words of their texts [B, 2] and seeds [B].

  Args:
    plan: whose seed.
    model: its number.
    words: of the texts.
    seeds: of the images.
    purpose: one of `prng.PURPOSES`: what judges images draws none of their
      noise.
  """
  root = prng.root(plan.ensemble.seed, purpose)
  root = jax.random.fold_in(root, model)

  def key_of(word, seed):
    fold = jax.random.fold_in
    return fold(fold(fold(root, word[0]), word[1]), seed)

  return jax.vmap(key_of)(words, seeds)


class Nets:
  """Encoding and decoding, batch by batch, and what goes between them."""

  def __init__(self, plan: PromptedPlan, mesh: Mesh):
    """Nothing is compiled before it is called."""
    self._plan, self._mesh = plan, mesh
    each = mesh_lib.PER_MODEL_AND_EXAMPLE

    def encode(params, model, tokens):
      del model
      return plan.encode_fn(params, tokens)

    def decode(params, model, latents):
      del model
      return plan.decode_fn(params, latents)

    self.encode = self.mapped(encode, spec=mesh_lib.PER_EXAMPLE)
    self.decode = self.mapped(decode, plan.decode_batch_size, each)

  def mapped(
    self,
    fn: blocks.RowFn,
    size: int = 0,
    spec: Any = mesh_lib.PER_MODEL_AND_EXAMPLE,
  ) -> blocks.MapRows:
    """Some work on rows of every model, by batches of the plan's size."""
    plan, size = self._plan, size or self._plan.batch_size
    cut = plan.cut(self._mesh)
    return blocks.MapRows(
      fn, self._mesh, batch_size=size, most=size, cut=cut, spec=spec
    )

  def encoded(
    self, params: Any, models: np.ndarray, numbers: np.ndarray
  ) -> tuple[Any, Any]:
    """Conditions [E, ...] of no text, on the devices, and [E, n, ...] of some.

    Args:
      params: of the models.
      models: their numbers.
      numbers: of the prompts.
    """
    texts = [self._plan.texts[number] for number in numbers]
    # The empty text is the null condition.
    tokens = self._plan.tokens_of(['', *texts])
    rows = self.encode(params['encode'], models, tokens)
    null = jax.tree.map(lambda leaf: leaf[:, 0], rows)
    cond = jax.tree.map(lambda leaf: leaf[:, 1:], rows)
    return mesh_lib.put(self._mesh, null, mesh_lib.PER_MODEL), cond

  def rows(
    self,
    models: np.ndarray,
    numbers: np.ndarray,
    seeds: np.ndarray,
    cond: Any,
    place: np.ndarray,
  ) -> tuple[np.ndarray, np.ndarray, Any]:
    """What images are drawn from: words, seeds and conditions, [E, S, ...].

    Args:
      models: numbers of the models.
      numbers: [S] of the images' prompts.
      seeds: [S] of the images.
      cond: [E, n, ...] of some prompts.
      place: [S] of the images' prompts among these.
    """
    texts = [self._plan.texts[number] for number in numbers]
    words, seeds = jax.tree.map(
      lambda leaf: np.broadcast_to(leaf, (len(models), *leaf.shape)),
      (words_of(texts), seeds.astype(np.uint32)),
    )
    return words, seeds, jax.tree.map(lambda leaf: leaf[:, place], cond)

  def decoded(
    self, params: Any, models: np.ndarray, latents: Any
  ) -> np.ndarray:
    """x0 [E, S, H, W, C] of latents.

    Raises:
      FloatingPointError: for numbers that are not finite.
    """
    x0 = self.decode(params['decode'], models, latents)
    if not np.isfinite(x0).all():
      raise FloatingPointError(
        f'sample: {100 * (1.0 - np.isfinite(x0).mean()):.3g} % of the numbers '
        'of these images are not finite: the weights went wrong, or '
        'sample.guidance_scale is too large for them'
      )
    return x0


def _stacked(row: Any, count: int) -> Any:
  """Shapes of so many rows."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), row
  )


def _row(rows: Any) -> Any:
  """Shapes of one of several rows."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows
  )


def shapes(plan: PromptedPlan) -> tuple[Any, Any, Any]:
  """Shapes of a row of tokens, of a condition, and of latents."""
  params = plan.ensemble.shapes()
  tokens = jax.ShapeDtypeStruct(plan.tokens_of(['']).shape, np.int32)
  cond = jax.eval_shape(plan.encode_fn, params['encode'], tokens)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1))
  latents = jax.eval_shape(
    plan.denoise_fn, params['denoise'], keys, cond, _row(cond)
  )
  return _row(tokens), _row(cond), _row(latents)


def calls(
  plan: PromptedPlan, batch: int
) -> list[tuple[Callable[..., Any], tuple[Any, ...]]]:
  """The three functions, and shapes of so many images that they are given."""
  params = plan.ensemble.shapes()
  tokens, cond, latents = shapes(plan)
  keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), batch))
  return [
    (plan.encode_fn, (params['encode'], _stacked(tokens, batch))),
    (plan.denoise_fn, (params['denoise'], keys, _stacked(cond, batch), cond)),
    (plan.decode_fn, (params['decode'], _stacked(latents, batch))),
  ]


def row_shapes(cond: Any) -> tuple[Any, Any, Any]:
  """Shapes of one of `Nets.rows`."""
  number = lambda *shape: jax.ShapeDtypeStruct(shape, np.uint32)
  return number(2), number(), cond


def programs_of(
  plan: PromptedPlan, devices: Sequence[jax.Device]
) -> list[programs.Program]:
  """What drawing compiles: three programs."""
  spans = [
    len(rows) for rows in blocks.spans(plan.num_samples, plan.block_size)
  ]
  texts = [min(span, len(plan.texts)) + 1 for span in spans]
  return [
    program
    for place in plan.ensemble.placements(devices)
    for program in programs_of_spans(plan, place, texts, spans)
  ]


def programs_of_spans(
  plan: PromptedPlan,
  place: ensemble_lib.Placement,
  texts: Sequence[int],
  spans: Sequence[int],
) -> list[programs.Program]:
  """The three programs, for texts and images asked for at once, by turns."""
  params = plan.ensemble.shapes()
  tokens, cond, latent = shapes(plan)
  nets = Nets(plan, place.mesh)
  return [
    nets.encode.program('encode', params['encode'], tokens, texts, place),
    _denoise(plan, nets).program(
      'denoise', (params['denoise'], cond), row_shapes(cond), spans, place
    ),
    nets.decode.program('decode', params['decode'], latent, spans, place),
  ]
