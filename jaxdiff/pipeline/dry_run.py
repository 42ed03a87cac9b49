"""What a run would take, without running it.

Work is counted by XLA on the programs that a run compiles (2 operations a
multiply-add); how fast a machine does it is an assumption, printed with the
rest.
"""

from collections.abc import Iterator
import dataclasses
import math

import jax
import numpy as np

from jaxdiff import plans as plans_lib
from jaxdiff.data import datasets
from jaxdiff.diffusion import repaint
from jaxdiff.runtime import mesh
from jaxdiff.training import loop


@dataclasses.dataclass(frozen=True)
class Machine:
  """Chips that work together, by their makers' data sheets.

  Attributes:
    chips: of the slice.
    peak: dense bfloat16 operations a second, of a chip.
    memory: bytes of a chip.
  """

  chips: int
  peak: float
  memory: float


MACHINES = {
  'v4-8': Machine(4, 275e12, 32e9),
  'v5e-16': Machine(16, 197e12, 16e9),
  'v5p-8': Machine(4, 459e12, 95e9),
  'H100': Machine(1, 989e12, 80e9),
}
# Sets whose shape is known, so that they need not be there.
_KNOWN = {
  'cifar10': ((50_000, 32, 32, 3), 10),
  'fashion_mnist': ((60_000, 28, 28, 1), 10),
}


@dataclasses.dataclass(frozen=True)
class Estimate:
  """What a run takes, on any machine.

  Attributes:
    parameters: of one model.
    train_flops: of an image and step, forward and backward.
    network_flops: of an image through the network once.
    total_flops: by stage, of the whole run.
    state_bytes: of one model in training: weights, their average, optimiser.
    image_bytes: of the set on every device; 0 where it is streamed.
    step_bytes: what a training step holds beside them, at the whole batch.
    disk_bytes: by part of the run folder.
  """

  parameters: int
  train_flops: float
  network_flops: float
  total_flops: dict[str, float]
  state_bytes: int
  image_bytes: int
  step_bytes: int
  disk_bytes: dict[str, float]


def stand_in(name: str, num_examples: int) -> datasets.Dataset | None:
  """Black images in the shape of a known set; None for others."""
  if name not in _KNOWN:
    return None
  (count, *shape), num_classes = _KNOWN[name]
  count = num_examples or count
  return datasets.make(
    np.zeros((count, *shape), np.uint8),
    np.arange(count, dtype=np.int32) % num_classes,
    np.zeros(count, int),
    num_classes=num_classes,
  )


def train_program(plan: loop.TrainPlan) -> jax.stages.Lowered:
  """The training step of one model on one device."""
  grid = mesh.make(1, jax.local_devices()[:1])
  shape = jax.ShapeDtypeStruct
  keep = plan.keep_fn(range(1))
  own = {
    'model': shape((1,), np.int32),
    'members': shape((1, keep.sum()), np.int32),
    'count': shape((1,), np.int32),
  }
  count = len(plan.images)
  pixels = {
    'images': shape(plan.images.shape, np.uint8),
    'labels': None if plan.labels is None else shape((count,), np.int32),
  }
  # Where images lie changes no count.
  plan = dataclasses.replace(plan, device_bytes=plan.images.nbytes)
  step = loop.make_step_fn(plan, grid, keep)
  return step.lower(loop.abstract_states(plan, 1, grid), own, pixels)


def make(plans: plans_lib.Plans) -> Estimate:
  """Counts the work of all stages; compiles one training step."""
  train, sample, signals = plans.train, plans.sample, plans.signals
  images = train.images
  params = jax.eval_shape(train.init_fn, jax.random.key(0))
  parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
  program = train_program(train)
  train_flops = program.cost_analysis()['flops'] / train.batch_size

  # A loop's body is counted once: a step of the sampler is the network once.
  batch = min(sample.batch_size, 16)
  labels = None if sample.classes is None else np.zeros(batch, np.int32)
  one = jax.jit(sample.sample_fn).lower(
    params, jax.random.key(0), np.arange(batch), labels
  )
  network_flops = one.cost_analysis()['flops'] / batch
  models = train.num_models
  queries = float(signals.queries['cost'].sum())
  generated = models * sample.num_samples
  pairs = generated * len(images) * (2 if train.flip else 1)
  state = loop.abstract_states(train, 1, mesh.make(1, jax.devices()[:1]))
  state_bytes = sum(
    math.prod(leaf.shape) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(state)
  )
  kept = train.max_to_keep or -(-train.num_steps // train.checkpoint_every)
  neighbours = plans.extraction.most_neighbours
  return Estimate(
    parameters=parameters,
    train_flops=train_flops,
    network_flops=network_flops,
    total_flops={
      'train': models * train.num_steps * train.batch_size * train_flops,
      'sample': generated * plans.sampler_steps * network_flops,
      'signals': models * len(images) * queries * network_flops,
      'neighbours': 2.0 * pairs * math.prod(images.shape[1:]),
      **further_flops(plans, network_flops, train_flops),
    },
    state_bytes=state_bytes,
    image_bytes=images.nbytes if images.nbytes <= train.device_bytes else 0,
    step_bytes=program.compile().memory_analysis().temp_size_in_bytes,
    disk_bytes={
      'checkpoints': models * kept * state_bytes,
      'samples': generated * math.prod(images.shape[1:]),
      'signals': 4.0 * models * len(images) * len(signals.queries),
      'neighbours': 16.0 * generated * neighbours,
      **further_bytes(plans, state_bytes),
    },
  )


def further_bytes(plans: plans_lib.Plans, state_bytes: int) -> dict[str, float]:
  """What those attacks leave on disk."""
  pixels = math.prod(plans.train.images.shape[1:])
  out = {}
  if plans.inpainting is not None:
    models = len(plans.inpainting.keep)
    drawn = models * plans.inpainting.rows
    out['inpainting'] = drawn * (pixels + 4.0 * models)
  if plans.guided is not None:
    sample = plans.guided.sample
    out['guidance'] = float(sample.num_models * sample.num_samples * pixels)
  if plans.canaries is not None:
    train = plans.canaries.train
    kept = train.max_to_keep or -(-train.num_steps // train.checkpoint_every)
    out['canaries'] = float(train.num_models * kept * state_bytes)
  return out


def further_flops(
  plans: plans_lib.Plans, network_flops: float, train_flops: float
) -> dict[str, float]:
  """Of the attacks that a run may leave out; of surrogates, the nets alone."""
  out = {}
  if plans.inpainting is not None:
    plan = plans.inpainting
    drawn = len(plan.keep) * plan.rows
    names = ('num_steps', 'jump_length', 'jump_n_sample')
    steps = len(repaint.walk(*(plan.settings[name] for name in names)))
    judged = len(plan.keep) * plan.settings['loss_draws']
    out['inpainting'] = drawn * (steps + judged) * network_flops
  if plans.guided is not None:
    sample = plans.guided.sample
    drawn = sample.num_models * sample.num_samples
    out['guidance'] = drawn * plans.sampler_steps * network_flops
  if plans.canaries is not None:
    train, measured = plans.canaries.train, plans.canaries.plan.signals
    seen = train.num_models * train.num_steps * train.batch_size
    queries = measured.queries['cost'].sum()
    asked = train.num_models * len(measured.images) * queries
    out['canaries'] = seen * train_flops + asked * network_flops
  return out


def lines(
  plans: plans_lib.Plans, estimate: Estimate, utilisation: float
) -> Iterator[str]:
  """For people: counts, then a line a machine."""
  train = plans.train
  yield (
    f'{plans.name}: {train.num_models} models of {estimate.parameters:,} '
    f'parameters, {train.num_steps:,} steps of {train.batch_size} images; '
    f'{plans.sample.num_samples:,} samples each, {plans.sampler_steps} steps'
  )
  yield (
    f'an image: {estimate.network_flops / 1e9:.3g} GFLOP through the network, '
    f'{estimate.train_flops / 1e9:.3g} GFLOP a training step'
  )
  total = sum(estimate.total_flops.values())
  parts = ', '.join(f'{k} {v:.3g}' for k, v in estimate.total_flops.items())
  yield f'operations: {total:.3g} ({parts})'
  disk = sum(estimate.disk_bytes.values())
  parts = ', '.join(
    f'{k} {v / 1e9:.3g}' for k, v in estimate.disk_bytes.items()
  )
  yield f'disk: {disk / 1e9:.3g} GB ({parts})'
  yield (
    f'assumed: {utilisation:.0%} of the bfloat16 peak in every stage; what a '
    'step holds as the CPU compiler counts it, by share of the batch'
  )
  block = min(train.models_per_block, train.num_models)
  for name, machine in MACHINES.items():
    rows = math.gcd(block, machine.chips)
    shards = machine.chips // rows
    held = (
      block // rows * estimate.state_bytes
      + estimate.image_bytes
      + estimate.step_bytes / shards
    )
    hours = total / (machine.peak * utilisation) / 3600
    yield (
      f'{name}: {hours / machine.chips:.3g} h ({hours:.3g} chip-hours on '
      f'{machine.chips}), {held / 1e9:.3g} of {machine.memory / 1e9:.0f} GB a '
      f'chip, {block // rows} models a chip, {shards} chips a model'
      + (': TOO MUCH' if held > machine.memory else '')
    )
