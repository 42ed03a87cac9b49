"""A text-to-image pipeline in a folder, beside what it was trained on."""

from collections.abc import Sequence
import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from jaxdiff import inputs, subjects
from jaxdiff.attacks.membership.signals import clid
from jaxdiff.data import captions as captions_lib
from jaxdiff.data import datasets, image_sets, known_prompts
from jaxdiff.data import examples as examples_lib
from jaxdiff.data.readers import prompt_lists
from jaxdiff.diffusion import samplers
from jaxdiff.interop import lora
from jaxdiff.interop import pipeline as interop
from jaxdiff.plans import checks, images, sides
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.plans.stages import membership
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import hardware
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.sampling import prompted
from jaxdiff.subjects import pipeline_nets
from jaxdiff.subjects import told as told_lib

GIVES = (
  'examples', 'non_members', 'noise_predictor', 'measurable', 'prompting',
  'pictures',
  'kept', 'captions',
)  # fmt: skip

# The value of key prompts that takes the captions of training and holdout.
CAPTIONS = 'captions'

DTYPES = ('float32', 'bfloat16')
WEIGHTS = ('auto', 'whole', 'cut')
# Of a chip's memory, what whole weights may take.
_SHARE = 0.5
# Sides at which images are compared pixel by pixel.
_COMPARED = 64
# Signals that work on pixels, or need several models on both sides.
_NO_SIGNALS = ('pfami', 'gsa')


@dataclasses.dataclass(frozen=True)
class Brought:
  """What a config names.

  Attributes:
    model: the target's folder.
    references: folders of the references.
    prompts: what is drawn; None if nothing is.
    held_out: those among them that it was not trained on, as the user says.
    num_training: examples that were trained on, which come first.
    pixels: uint8 [N, H, W, 3], the examples at the size of the nets.
    captions: of every example.
  """

  model: interop.Pipeline
  references: tuple[str, ...]
  prompts: prompt_lists.Prompts | None
  held_out: prompt_lists.Prompts | None
  num_training: int
  pixels: np.ndarray
  captions: tuple[str, ...]


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches.

  One device of a CPU, whatever its cores: each would hold all of the weights.
  """
  del c
  return 1, (1,)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  need(bool(c.model), 'model: name a folder: --config.model=DIR')
  need(
    bool(c.prompts or c.training),
    'prompts: name what is drawn, --config.prompts=FILE, or images to measure '
    'membership of, --config.training=DIR and --config.holdout=DIR',
  )
  need(
    c.prompts != CAPTIONS or bool(c.training),
    "prompts: 'captions' are those of training images: --config.training=DIR",
  )
  for key, wanted in (
    ('held_out_prompts', c.held_out_prompts),
    ('screen.kinds', c.screen.kinds),
    ('stream.num_seeds', c.stream.num_seeds),
  ):
    need(
      bool(c.prompts) or not wanted,
      f'{key}: is about prompts: --config.prompts=FILE',
    )
  for key in ('holdout', 'references'):
    need(
      bool(c.training) or not c[key],
      f'{key}: is compared with training images: --config.training=DIR',
    )
  need(
    c.dtype in DTYPES, f'dtype: no {c.dtype!r}; there is {", ".join(DTYPES)}'
  )
  need(
    c.weights in WEIGHTS,
    f'weights: no {c.weights!r}; there is {", ".join(WEIGHTS)}',
  )
  need(
    not c.sample.sampler or c.sample.sampler in samplers.SAMPLERS,
    f'sample.sampler: no {c.sample.sampler!r}; there is '
    f'{", ".join(samplers.SAMPLERS)}',
  )
  sides.check_distinct(c, ('training', 'holdout'))
  pixel = sorted(set(_NO_SIGNALS) & set(c.signals.kinds))
  need(
    not pixel,
    f'signals.kinds: {", ".join(pixel)} of a pipeline are not measured: pfami '
    'crops pixels, gsa reads gradients of several models on both sides',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The folder but for its weights, prompts, and images with captions."""
  prompts, held_out = _prompts(c)
  model = lora.adapt(interop.read(c.model), c.lora)
  height, width = _size(c, model)
  steps = len(model.scheduler.schedule)
  samplers.check_steps(
    c.sample.sampler or model.scheduler.sampler,
    c.sample.num_steps,
    steps,
    model.scheduler.options['timestep_spacing'],
  )
  references = tuple(x.strip() for x in c.references.split(',') if x.strip())
  others = [interop.read(folder, 'references') for folder in references]
  for folder, other in zip(references, others, strict=True):
    _like(model, other, folder)
  if not c.training:
    blank = np.zeros((0, height, width, 3), np.uint8)
    empty = datasets.make(blank, np.zeros(0, np.int32), [], num_classes=1)
    return base.Read(
      empty, Brought(model, references, prompts, held_out, 0, blank, ())
    )
  need(
    height == width,
    f'sample.height: images of membership are square; {height} x {width} are '
    'drawn',
  )
  membership.check_signals(c, steps, captions=True)
  listed = sides.open_sets(c)
  texts = {} if c.skip_broken else _captions(c, listed)
  dataset, num_training, held = sides.read_images(
    c, height, 3, run, listed, _COMPARED
  )
  texts = texts or _captions(c, held)
  small = dataclasses.replace(
    dataset, images=images.reduced(dataset.images, _COMPARED)
  )
  captions = tuple(texts[str(name)] for name in dataset.source)
  checks.warn_of_length(model.tokenizers[0], 'captions', captions)
  for folder, other in zip(references, others, strict=True):
    for ours, theirs in zip(model.tokenizers, other.tokenizers, strict=True):
      if not np.array_equal(ours(captions), theirs(captions)):
        raise inputs.InputError(
          f'references: {inputs.name_of(folder)} has another tokenizer than '
          'model: it was trained on other numbers for these captions'
        )
  small = dataclasses.replace(
    small, group=sides.join_captions(small.group, captions, num_training)
  )
  if held_out is not None:
    prompt_lists.check_apart(
      captions[:num_training], held_out.texts, 'held_out_prompts',
      'captions of training',
    )  # fmt: skip
  if c.prompts == CAPTIONS:
    prompts = prompt_lists.of_texts(captions)
    if held_out is not None:
      prompts = prompt_lists.joined(prompts, held_out, 'held_out_prompts')
  return base.Read(
    small,
    Brought(
      model,
      references,
      prompts,
      held_out,
      num_training,
      dataset.images,
      captions,
    ),
  )


def _prompts(
  c: ml_collections.ConfigDict,
) -> tuple[prompt_lists.Prompts | None, prompt_lists.Prompts | None]:
  """What files ask for, with what is held out among it; and that alone."""
  held_out = None
  if c.held_out_prompts:
    held_out = prompt_lists.read(c.held_out_prompts, 'held_out_prompts')
  if not c.prompts or c.prompts == CAPTIONS:
    return None, held_out
  prompts = prompt_lists.read(c.prompts, 'prompts')
  if held_out is not None:
    prompts = prompt_lists.joined(prompts, held_out, 'held_out_prompts')
  return prompts, held_out


def _captions(
  c: ml_collections.ConfigDict, listed: Sequence[image_sets.ImageSet]
) -> dict[str, str]:
  """Of every image, by what a dataset calls its source."""
  return {
    f'{images_of.key}/{name}': text
    for images_of in listed
    for name, text in zip(
      images_of.names,
      captions_lib.of(c[images_of.key], images_of),
      strict=True,
    )
  }


def _size(
  c: ml_collections.ConfigDict, model: interop.Pipeline
) -> tuple[int, int]:
  """Height and width of images."""
  out = []
  levels = len(model.denoiser.net.block_out_channels)
  step = model.scale * 2 ** (levels - 1)
  for key, own in zip(('height', 'width'), model.sample_size, strict=True):
    size = c.sample[key] or own * model.scale
    need(
      size % step == 0,
      f'sample.{key}: {size} must be a multiple of {step}, of which the nets '
      'halve images',
    )
    out.append(size)
  return out[0], out[1]


def _like(
  model: interop.Pipeline, other: interop.Pipeline, folder: str
) -> None:
  """Raises InputError for a reference that is no pipeline of the same nets."""
  for what, same in (
    ('nets', _nets(model) == _nets(other)),
    ('scaling of latents', _scaling(model) == _scaling(other)),
    ('prediction_type', _kind(model) == _kind(other)),
    ('noise', np.array_equal(_noise(model), _noise(other))),
  ):
    if not same:
      raise inputs.InputError(
        f'references: {inputs.name_of(folder)} has other {what} than model'
      )


def _nets(model: interop.Pipeline) -> dict[str, Any]:
  return {name: part.net for name, part in model.parts.items()}


def _scaling(model: interop.Pipeline) -> tuple[float, float]:
  return model.scaling_factor, model.shift_factor


def _kind(model: interop.Pipeline) -> str:
  return model.scheduler.prediction_type


def _noise(model: interop.Pipeline) -> np.ndarray:
  return model.scheduler.schedule.alphas_cumprod


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for sets too small to say anything of."""
  if c.training:
    sides.check_images(c, dataset)


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The pipeline, and its references."""
  del step
  brought: Brought = read.more
  model = brought.model
  paths = (c.model, *brought.references)
  dtype = jnp.dtype(c.dtype)
  nets = pipeline_nets.PipelineNets(model, dtype, *_size(c, model))
  digests = [interop.digest(c.model)] + [
    interop.digest(folder, 'references') for folder in brought.references
  ]
  adapters = lora.digests(c.lora)
  # With adapters the target is another model than its folder's.
  target = ' '.join([digests[0], *adapters.values()])
  sides.check_references('model', [target, *digests[1:]])
  ensemble = ensemble_lib.Ensemble(
    seed=c.seed,
    num_models=len(paths),
    models_per_block=1,
    restore=lambda block, mesh: _restore(
      interop.read(paths[block.first]) if block.first else model, mesh, dtype
    ),
    shapes=lambda: _grouped(
      {name: _cast(part.shapes, dtype) for name, part in model.parts.items()}
    ),
  )
  cond = None
  if brought.captions:
    cond = nets.tokens(
      [
        text
        for caption in brought.captions
        for text in (caption, *clid.reduced(caption))
      ]
    )
    cond = cond.reshape(-1, 1 + clid.NUM_REDUCED, *cond.shape[1:])
  examples = sides.make_examples(
    read.dataset,
    brought.num_training,
    len(paths),
    flip=False,
    cond=cond,
    captions=brought.captions,
  )
  prompts = brought.prompts
  drawn = None if prompts is None else _drawn(c, brought, ensemble, nets)
  return base.Made(
    subject=subjects.Subject(
      kind='a text-to-image pipeline',
      told=tell(c, brought, examples),
      examples=examples,
      measured=brought.pixels,
      prepare=nets.prepare,
      ensemble=ensemble,
      schedule=model.scheduler.schedule,
      eps_fn_of=nets.eps_fn_of,
      samples=drawn if c.num_seeds else None,
      prompted=drawn,
      known=None if prompts is None else _known(brought, prompts, examples),
      pictured=_pictured(c, drawn),
    ),
    inputs={'model': digests[0]}
    | adapters
    | {f'references {k}': digest for k, digest in enumerate(digests[1:], 1)}
    | (
      {}
      if prompts is None
      else {'prompts': checks.digest_of_texts(prompts.texts)}
    )
    | (
      {'held_out_prompts': checks.digest_of_texts(brought.held_out.texts)}
      if brought.held_out is not None
      else {}
    )
    | (
      {
        'training': f'{brought.num_training} images',
        'captions': checks.digest_of_texts(brought.captions),
        'pixels': datasets.fingerprint(brought.pixels, np.zeros(0, np.int32)),
      }
      if brought.captions
      else {}
    ),
  )


def _restore(
  model: interop.Pipeline, mesh: Mesh, dtype: Any, cut: bool = False
) -> Any:
  """The weights of a pipeline on the devices, a tensor at a time."""
  kept = dtype.itemsize if mesh_lib.on_cpu(mesh) else 0

  def place(leaf: np.ndarray) -> jax.Array:
    leaf = leaf.astype(dtype)[None]
    spec = mesh_lib.cut_spec(mesh, leaf.shape) if cut else mesh_lib.PER_MODEL
    return mesh_lib.put(mesh, leaf, spec)

  return _grouped(
    {name: part.params(place, kept) for name, part in model.parts.items()}
  )


def _grouped(params: dict[str, Any]) -> dict[str, Any]:
  """Parameters by the program that has them."""
  texts = [tree for name, tree in params.items() if name.startswith('text_')]
  return {'encode': texts, 'denoise': params['unet'], 'decode': params['vae']}


def _cast(shapes: Any, dtype: Any) -> Any:
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes
  )


def _drawn(
  c: ml_collections.ConfigDict,
  brought: Brought,
  ensemble: ensemble_lib.Ensemble,
  nets: pipeline_nets.PipelineNets,
) -> prompted.PromptedPlan:
  """How images are drawn from prompts, of the target alone."""
  assert brought.prompts is not None
  texts = brought.prompts.texts
  checks.warn_of_length(brought.model.tokenizers[0], 'prompts', texts)
  sampler = c.sample.sampler or brought.model.scheduler.sampler
  options = {
    'sampler': sampler,
    'num_steps': c.sample.num_steps,
    'eta': c.sample.eta,
    'guidance_scale': c.sample.guidance_scale,
  }
  calls = samplers.evaluations(sampler, c.sample.num_steps)

  def cut(mesh: Mesh) -> bool:
    if mesh.shape[mesh_lib.DATA] == 1 or c.weights != 'auto':
      return c.weights == 'cut' and mesh.shape[mesh_lib.DATA] > 1
    chip = hardware.CHIPS.get(mesh.devices.flat[0].device_kind)
    size = sum(
      math.prod(leaf.shape) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(ensemble.shapes())
    )
    return chip is not None and size > _SHARE * chip.memory

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    del block  # the target's
    return _restore(brought.model, mesh, jnp.dtype(c.dtype), cut(mesh))

  return prompted.PromptedPlan(
    num_samples=len(texts) * c.num_seeds,
    block_size=c.sample.block_size,
    texts=texts,
    table=brought.prompts.table,
    tokens_of=nets.tokens,
    encode_fn=nets.encode,
    denoise_fn=lambda *given: nets.denoise(*given, **options),
    decode_fn=nets.decode,
    denoiser=nets.stepwise(),
    guidance_scale=c.sample.guidance_scale,
    ensemble=dataclasses.replace(ensemble, num_models=1, restore=restore),
    cut=cut,
    batch_size=c.sample.batch_size,
    decode_batch_size=c.sample.decode_batch_size,
    num_steps=calls,
    image_shape=(*_size(c, brought.model), 3),
    pictures=c.sample.pictures,
    apart=True,
  )


def _known(
  brought: Brought,
  prompts: prompt_lists.Prompts,
  examples: examples_lib.Examples,
) -> known_prompts.Known:
  """Which prompts the target saw images of, as far as the user says."""
  trained, copies = known_prompts.of_captions(
    prompts.texts, brought.captions, examples.of_targets().keep
  )
  if brought.held_out is not None:
    held_out = set(brought.held_out.texts)
    rows = [k for k, text in enumerate(prompts.texts) if text in held_out]
    trained[:, rows] = 0
  first = prompts.table.drop_duplicates('number').sort_values('number')
  return known_prompts.Known(
    trained=trained,
    copies=copies,
    group=known_prompts.groups(prompts.texts),
    ids=tuple(first['id'].astype(str)),
  )


def _pictured(
  c: ml_collections.ConfigDict, drawn: prompted.PromptedPlan | None
) -> subjects.Pictured | None:
  """The images of prompts that are compared; None where they are too few."""
  if drawn is None or c.num_seeds < c.cliques.min_size or not drawn.pictures:
    return None
  if c.stream.num_seeds:  # compares more of them
    return None
  height, width, channels = drawn.image_shape
  return subjects.Pictured(
    prompts=drawn.texts * c.num_seeds,
    first_shape=lambda: (min(height, width), channels),
    images_of=functools.partial(prompted.pictures, drawn),
  )


def tell(c: ml_collections.ConfigDict, brought: Brought, examples) -> Any:
  """What reports say of the pipeline."""
  model = brought.model
  said = []
  if brought.prompts is not None:
    sampler = c.sample.sampler or model.scheduler.sampler
    height, width = _size(c, model)
    images = max(c.num_seeds, c.stream.num_seeds)
    said.append(
      f'{len(brought.prompts.texts):,} prompts with up to {images:,} images '
      f'each ({height} x {width} pixels; {sampler}, {c.sample.num_steps} '
      f'steps, guidance {c.sample.guidance_scale:g}; {c.dtype})'
    )
  if brought.captions:
    training = brought.num_training
    said.append(
      f'{training:,} training images and {len(examples) - training:,} held-out '
      'ones with their captions'
    )
  if c.lora:
    said.append(f'{len(lora.parse(c.lora))} adapters in its weights')
  references = examples.num_models - 1
  if references:
    said.append(f'{references} reference pipelines')
  return told_lib.Told(
    short='a text-to-image pipeline',
    title=f'What the pipeline “{c.name}” gives away',
    subject=(
      f'A {model.kind} from a folder ({model.scheduler.name}); '
      f'{"; ".join(said)}.'
    ),
    limits=(
      'The numbers hold for this pipeline, these prompts and images, and these '
      'attacks: finding nothing would not be a guarantee.'
    ),
    samples='Images of this pipeline',
  )
