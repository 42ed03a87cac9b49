"""An ensemble of GANs that the run trains itself."""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import ml_collections
import numpy as np
import optax

from jaxdiff import subjects
from jaxdiff.attacks.membership import signals
from jaxdiff.attacks.membership.signals import base as signal_base
from jaxdiff.data import datasets
from jaxdiff.data import examples as examples_lib
from jaxdiff.models import gan
from jaxdiff.plans import checks, images, outside, training
from jaxdiff.plans.kinds import base
from jaxdiff.plans.stages import membership
from jaxdiff.runs import layout
from jaxdiff.runtime import prng
from jaxdiff.sampling import generate
from jaxdiff.subjects import told as told_lib
from jaxdiff.training import adversarial, block_states

GIVES = (
  'examples', 'non_members', 'pairs', 'samples', 'sampling', 'measurable',
  'training',
)  # fmt: skip


def devices(c: ml_collections.ConfigDict) -> tuple[int, Sequence[int]]:
  """Models that are worked on together, and sizes of batches."""
  return checks.trained_devices(c)


def check(c: ml_collections.ConfigDict) -> None:
  """Raises ValueError for values that make no sense, alone or together."""
  checks.one_of(c, 'model.net', gan.NETS)
  checks.need(
    c.data.channels in (1, 3), f'data.channels: {c.data.channels}; 1 or 3'
  )
  checks.check_steps(c)
  checks.check_blocks(c)
  membership.check_scores(c)
  unknown = set(c.signals.kinds) - set(signals.OF_DISCRIMINATOR)
  checks.need(
    bool(c.signals.kinds) and not unknown,
    f'signals.kinds: {tuple(c.signals.kinds)} must be some of '
    f'{", ".join(signals.OF_DISCRIMINATOR)}',
  )
  for name in ('generator_channels', 'discriminator_channels'):
    key = f'model.{name}'
    channels = tuple(c.model[name])
    checks.need_whole_numbers(key, channels)
    checks.need(
      len(channels) <= 16, f'{key}: {len(channels)} levels are too many'
    )
    for width in channels if c.model.net == 'conv' else ():
      checks.need(
        width * c.model.expansion % c.model.cardinality == 0,
        f'model.cardinality: {c.model.cardinality} does not divide '
        f'{width * c.model.expansion}, {key} times model.expansion',
      )
  checks.need(
    c.sample.classes == () or c.model.class_conditional,
    'sample.classes: only a class-conditional net has labels to draw with '
    '(model.class_conditional)',
  )


def check_images(
  c: ml_collections.ConfigDict, dataset: datasets.Dataset
) -> None:
  """Raises ValueError for images that the rest of the config cannot take."""
  checks.check_size(c, dataset)
  checks.check_groups(dataset)
  checks.labels_of(c.sample.classes, dataset)
  checks.need(
    not c.model.class_conditional or dataset.num_classes <= 2**20,
    f'model.class_conditional: {dataset.num_classes} classes are too many',
  )
  height, width = dataset.images.shape[1:3]
  for name in ('generator_channels', 'discriminator_channels'):
    levels = len(c.model[name])
    scale = 2 ** (levels - 1)
    checks.need(
      c.model.net == 'mlp' or (height % scale == 0 and width % scale == 0),
      f'model.{name}: {levels} levels need images whose sides divide by '
      f'{scale}; {c.data.name} has {height} x {width}',
    )


def read(c: ml_collections.ConfigDict, run: layout.Run | None) -> base.Read:
  """The images that models train on halves of."""
  return base.Read(images.read_images(c, run))


def make(
  c: ml_collections.ConfigDict, read: base.Read, step: int | None = None
) -> base.Made:
  """The ensemble of a config.

  Args:
    c: the config.
    read: the images that its models train on halves of.
    step: a checkpoint in the midst of training; None is its end.
  """
  dataset = read.dataset
  conditional = c.model.class_conditional
  examples = examples_lib.split(
    dataset,
    c.seed,
    c.num_models,
    rule=c.split,
    conditional=conditional,
    flip=c.flip,
  )
  num_classes = dataset.num_classes if conditional else 0
  adversary, init_fn = make_nets(c, examples.shape, num_classes)
  grad_fn = adversarial.make_grad_fn(
    adversary.generate,
    adversary.discriminate,
    latent_size=c.model.latent_size,
    gamma=c.train.gamma,
  )
  train = training.make_plan(c, init_fn, grad_fn, make_tx(c.train), examples)

  def restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
    return block_states.restore_ema(train, block, mesh, step)

  def sample_fn(params, key, indices, labels):
    z = prng.normal_each(prng.fold_each(key, indices), (c.model.latent_size,))
    return adversary.generate(params, z, labels)

  ensemble = dataclasses.replace(train.ensemble, restore=restore)
  classes = None
  if conditional:
    classes = checks.labels_of(c.sample.classes, dataset) or tuple(
      range(dataset.num_classes)
    )
  plan = generate.SamplePlan(
    num_samples=c.num_samples,
    block_size=c.sample.block_size,
    batch_size=c.sample.batch_size,
    classes=classes,
    sample_fn=sample_fn,
    ensemble=ensemble,
    num_steps=1,
  )
  return base.Made(
    subject=subjects.Subject(
      kind='an ensemble of GANs trained by the run',
      told=tell(c, examples),
      examples=examples,
      ensemble=ensemble,
      adversary=adversary,
      samples=plan,
      sample=plan,
      train=train,
    ),
    looked_at=outside.looked_at(c),
  )


def make_nets(
  c: ml_collections.ConfigDict,
  image_shape: tuple[int, int, int],
  num_classes: int,
) -> tuple[signal_base.Adversary, Any]:
  """Both nets by their weights, and key -> the weights of one model."""
  shared = {
    'net': c.model.net,
    'num_classes': num_classes,
    'blocks_per_level': c.model.blocks_per_level,
    'expansion': c.model.expansion,
    'cardinality': c.model.cardinality,
    'dtype': jnp.dtype(c.model.dtype),
  }
  generator = gan.Generator(
    image_shape=image_shape,
    channels=tuple(c.model.generator_channels),
    **shared,
  )
  discriminator = gan.Discriminator(
    channels=tuple(c.model.discriminator_channels), **shared
  )

  def init_fn(key: jax.Array) -> Any:
    one = jax.random.split(key)
    labels = jnp.zeros((1,), jnp.int32) if num_classes else None
    z, x = jnp.zeros((1, c.model.latent_size)), jnp.zeros((1, *image_shape))
    return {
      adversarial.GENERATOR: generator.init(one[0], z, labels),
      adversarial.DISCRIMINATOR: discriminator.init(one[1], x, labels),
    }

  def generate_fn(params: Any, z: jax.Array, labels: Any) -> Any:
    return generator.apply(params[adversarial.GENERATOR], z, labels)

  def discriminate(params: Any, x0: jax.Array, labels: Any) -> Any:
    return discriminator.apply(params[adversarial.DISCRIMINATOR], x0, labels)

  adversary = signal_base.Adversary(
    generate=generate_fn,
    discriminate=discriminate,
    latent_size=c.model.latent_size,
    num_classes=num_classes,
  )
  return adversary, init_fn


def make_tx(train: ml_collections.ConfigDict) -> optax.GradientTransformation:
  """Adam without momentum, for both nets alike."""
  rate: Any = train.learning_rate
  if train.decay == 'cosine':
    rate = optax.cosine_decay_schedule(train.learning_rate, train.num_steps)
  return optax.adam(rate, b1=0.0, b2=train.beta2)


def tell(
  c: ml_collections.ConfigDict, examples: examples_lib.Examples
) -> told_lib.Told:
  """What reports say of the ensemble."""
  num_training = int(np.median(examples.keep.sum(axis=1)))
  return told_lib.Told(
    short='what the GANs memorised',
    title=f'What the GANs of “{c.name}” memorised',
    subject=(
      f'{examples.num_models} GANs, each trained for {training.last_step(c)} '
      f'steps on {num_training} of {len(examples)} images ({c.data.name}); '
      f'{c.num_samples} samples of each.'
    ),
    limits=(
      'The numbers hold for these models, this data and these attacks: a '
      'stronger attack, more samples or longer training can find more, and '
      'finding nothing would not be a guarantee.'
    ),
    methods=(
      'The discriminator is asked as one that has both nets would: who '
      'publishes the generator alone gives away less (membership from samples '
      'alone).',
    ),
    not_tested=('attacks that invert the generator',),
  )
