"""A model in a diffusers folder, beside images that it was trained on."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np

from jaxdiff import inputs
from jaxdiff.data import datasets, image_sets
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.interop import diffusers as interop
from jaxdiff.interop import diffusers_config
from jaxdiff.plans import checks, outside, sides
from jaxdiff.plans.checks import need
from jaxdiff.plans.kinds import base
from jaxdiff.plans.stages import extraction, membership
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib
from jaxdiff.subjects import models
from jaxdiff.subjects import told as told_lib

GIVES = (
  'examples', 'non_members', 'noise_predictor', 'measurable', 'samples',
  'sampling',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Brought:
  """What a config names.

  Attributes:
    model: the target's folder.
    references: folders of the references.
    num_training: examples that were trained on, which come first.
  """

  model: interop.Pretrained
  references: tuple[str, ...]
  num_training: int


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  return 1, (c.sample.batch_size, c.signals.batch_size)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense."""
  for key in ('model', 'training'):
    need(bool(c[key]), f'{key}: name a folder: --config.{key}=DIR')
  need(
    not c.sample.sampler or c.sample.sampler in samplers.SAMPLERS,
    f'sample.sampler: no {c.sample.sampler!r}; there is '
    f'{", ".join(samplers.SAMPLERS)}',
  )
  checks.check_blocks(c)
  sides.check_distinct(c, ('training', 'holdout'))
  need(
    'gsa' not in c.signals.kinds,
    'signals.kinds: gsa reads gradients of several models on both sides',
  )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The folder, and the images in its size."""
  model = interop.read(c.model, 'model')
  if model.diffusion is None:
    raise inputs.InputError(
      f'model: {inputs.name_of(c.model)} has no scheduler_config.json: nothing '
      'says what noise it was trained with; add the scheduler that it was '
      'trained with'
    )
  height, width, channels = model.image_shape
  need(
    height == width and channels in (1, 3),
    f'model: is for images of {height} x {width} x {channels}; square ones in '
    'grey or colour are read',
  )
  steps = model.diffusion['num_train_timesteps']
  membership.check_signals(c, steps)
  assert model.sample is not None
  samplers.check_steps(
    c.sample.sampler or diffusers_config.sampler_of(model.scheduler),
    c.sample.num_steps,
    steps,
    model.sample['timestep_spacing'],
  )
  references = tuple(x.strip() for x in c.references.split(',') if x.strip())
  for folder in references:
    _like(model, interop.read(folder, 'references'), folder)
  listed = sides.open_sets(c)
  if not c.skip_broken:
    _check_classes(model.net.num_class_embeds, listed)
  extraction.check_tiles(c, model.image_shape)
  dataset, num_training, held = sides.read_images(
    c, height, channels, run, listed
  )
  # What is broken is left out, and may have been all of a class.
  _check_classes(model.net.num_class_embeds, held)
  return base.Read(dataset, Brought(model, references, num_training))


def _check_classes(
  count: int | None, held: Sequence[image_sets.ImageSet]
) -> None:
  """Raises ValueError where nobody can tell which class an image is of."""
  if count is None:
    return
  for images_of in held:
    names = set(images_of.labels)
    need(
      names == set(held[0].labels)
      and (len(names) == count or all(x.isdigit() for x in names)),
      f'{images_of.key}: the model is told {count} classes; give both folders '
      f'the same {count} sub-folders, or sub-folders by number (it has '
      f'{inputs.one_line(", ".join(sorted(names)), 100)})',
    )
    need(
      all(int(x) < count for x in names if x.isdigit()),
      f'{images_of.key}: classes are numbered 0 .. {count - 1}',
    )


def _like(
  model: interop.Pretrained, other: interop.Pretrained, folder: str
) -> None:
  """Raises InputError for a reference that is no model of the same kind."""
  for what, same in (
    ('net', model.net == other.net),
    ('size of images', model.image_shape == other.image_shape),
    ('noise', other.diffusion in (None, model.diffusion)),
  ):
    if not same:
      raise inputs.InputError(
        f'references: {inputs.name_of(folder)} has another {what} than model'
      )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for sets too small to say anything of."""
  sides.check_images(c, dataset)


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The model, and its references."""
  del step
  dataset: datasets.Dataset = read.dataset
  brought: Brought = read.more
  model = brought.model
  diffusion, sample = model.diffusion or {}, model.sample or {}
  paths = (c.model, *brought.references)
  classes, cond = _classes(c, model, dataset)
  examples = sides.make_examples(
    dataset, brought.num_training, len(paths), flip=c.flip, cond=cond
  )

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    read_in = [
      model.params if k == 0 else interop.read(paths[k], 'references').params
      for k in block.models
    ]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *read_in)
    return mesh_lib.put(mesh, stacked, mesh_lib.PER_MODEL)

  schedule = schedules.make(
    diffusion['beta_schedule'],
    diffusion['num_train_timesteps'],
    diffusion['beta_start'],
    diffusion['beta_end'],
  )
  sampler = c.sample.sampler or diffusers_config.sampler_of(model.scheduler)
  digests = [interop.digest(c.model, 'model')] + [
    interop.digest(folder, 'references') for folder in brought.references
  ]
  sides.check_references('model', digests)
  subject = models.make(
    kind='a diffusers folder',
    told=tell(c, model, examples, sampler),
    examples=examples,
    ensemble=ensemble_lib.Ensemble(
      seed=c.seed,
      num_models=len(paths),
      models_per_block=1,
      restore=restore,
      shapes=lambda: jax.eval_shape(lambda: model.params),
    ),
    apply=model.net.clone(dtype=jnp.dtype('float32')).apply,
    schedule=schedule,
    prediction_type=diffusion['prediction_type'],
    with_variance=sampler == 'ddpm' and sample['variance'] == 'learned_range',
    null_label=None,
    guidance_scale=1.0,
    draw=functools.partial(
      samplers.sample,
      schedule=schedule,
      image_shape=model.image_shape,
      sampler=sampler,
      num_steps=c.sample.num_steps,
      eta=c.sample.eta,
      **sample,
    ),
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    batch_size=c.sample.batch_size,
    classes=classes,
    num_steps=samplers.evaluations(sampler, c.sample.num_steps),
  )
  return base.Made(
    subject=subject,
    looked_at=outside.looked_at(c),
    inputs={
      'training': f'{brought.num_training} images',
      'model': digests[0],
    }
    | {f'references {k}': digest for k, digest in enumerate(digests[1:], 1)},
  )


def _classes(
  c: ml_collections.ConfigDict,
  model: interop.Pretrained,
  dataset: datasets.Dataset,
) -> tuple[tuple[int, ...] | None, np.ndarray | None]:
  """Labels that samples are drawn with, and that nets are told of examples."""
  count = model.net.num_class_embeds
  if count is None:
    need(not c.sample.classes, 'sample.classes: the model is told no classes')
    return None, None
  need(
    dataset.num_classes <= count,
    f'training: its sub-folders are {dataset.num_classes} classes, the model '
    f'knows {count}',
  )
  labels = dataset.labels
  if all(name.isdigit() for name in dataset.names):
    # Numbers are the model's own, even if some do not occur.
    labels = np.array([int(x) for x in dataset.names], np.int32)[labels]
  known = dataclasses.replace(
    dataset, num_classes=count, names=dataset.names if dataset.names != ('',)
    and len(dataset.names) == count else (),
  )  # fmt: skip
  classes = checks.labels_of(c.sample.classes, known) or tuple(range(count))
  return classes, labels


def tell(
  c: ml_collections.ConfigDict, model, examples, sampler: str
) -> told_lib.Told:
  """What reports say of the model."""
  training = int(examples.keep[0].sum())
  held_out = len(examples) - training
  references = examples.num_models - 1
  beside = f'{held_out:,} held-out images' if held_out else 'no held-out images'
  drawn = f'{sampler.upper()}, {c.sample.num_steps} steps'
  if diffusers_config.sampler_of(model.scheduler) != sampler or (
    model.scheduler not in ('DDPMScheduler', 'DDIMScheduler')
  ):
    drawn += f", in place of the folder's {model.scheduler}"
  return told_lib.Told(
    short='what the model memorised',
    title=f'What the model of “{c.name}” memorised',
    subject=(
      f'A model from a diffusers folder, beside {training:,} training images '
      f'and {beside}; {c.num_samples:,} samples ({drawn})'
      + (f'; {references} reference models.' if references else '.')
    ),
    limits=(
      'The numbers hold for this model, these images and these attacks: a '
      'stronger attack or more samples can find more, and finding nothing '
      'would not be a guarantee.'
      + (
        ''
        if held_out
        else ' Without held-out images nobody can say how many of the hits are '
        'accidents, nor whether members are told from others.'
      )
    ),
    samples='Samples of this model',
    not_tested=('text prompts',),
  )
