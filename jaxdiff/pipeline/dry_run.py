"""What a run would take, without running it.

Products and convolutions are counted as a TPU takes them (`runtime/work.py`, 2
operations a multiply-add); how fast a machine does it is an assumption, printed
with the rest.
"""

from collections.abc import Iterator
import dataclasses
import math

import jax
import numpy as np

from jaxdiff import plans as plans_lib
from jaxdiff import subjects
from jaxdiff.data import datasets
from jaxdiff.pipeline import dry_run_prompts
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runtime import hardware, mesh, programs, work
from jaxdiff.sampling import prompted
from jaxdiff.training import block_states, loop
from jaxdiff.training import plan as training_plan

# Slices: how many chips work together, and which.
MACHINES = {
  'v4-8': (4, hardware.CHIPS['TPU v4']),
  'v5e-16': (16, hardware.CHIPS['TPU v5 lite']),
  'v5p-8': (4, hardware.CHIPS['TPU v5']),
  'H100': (1, hardware.CHIPS['NVIDIA H100 80GB HBM3']),
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
    units: what the work is counted in.
    costs: by stage, of the whole run.
    image_bytes: of the set on every device; 0 where it is streamed.
    step_bytes: what a training step holds beside them, at the whole batch; 0
      where nothing is trained.
  """

  parameters: int
  units: stage_lib.Units
  costs: dict[str, stage_lib.Cost]
  image_bytes: int
  step_bytes: int


def stand_in(name: str, num_examples: int) -> datasets.Dataset | None:
  """Black images in the shape of a known set; None for others."""
  if name not in _KNOWN:
    return None
  (count, *shape), num_classes = _KNOWN[name]
  count = num_examples or count
  return datasets.make(
    np.zeros((count, *shape), np.uint8),
    np.arange(count, dtype=np.int32) % num_classes,
    [''] * count,
    num_classes=num_classes,
  )


def train_program(plan: training_plan.TrainPlan) -> jax.stages.Traced:
  """The training step of one model on one device."""
  grid = mesh.make(1, jax.local_devices()[:1])
  keep = plan.examples.keep[:1]
  # Where images lie changes no count.
  plan = dataclasses.replace(plan, device_bytes=plan.examples.images.nbytes)
  step = loop.make_step_fn(plan, grid, keep)
  return step.trace(*loop.step_args(plan, grid, keep))


def prompted_flops(
  plan: prompted.PromptedPlan, platform: str = 'tpu'
) -> tuple[float, float, float]:
  """Of a text, of an evaluation of the denoiser, and of an image decoded."""
  encode, denoise, decode = (
    work.products(fn, *shapes, platform=platform)
    for fn, shapes in prompted.calls(plan, 1)
  )
  return encode, denoise / (plan.num_steps * plan.rows), decode


def network_flops(subject: subjects.Subject) -> float:
  """Of an image through the network once, as samples are drawn; 0 if none are.

  What a step of the sampler takes beside the network is counted as its.
  """
  if subject.sample is None:
    return 0.0
  sample = subject.sample
  batch = min(sample.batch_size, 16)
  labels = None if sample.classes is None else np.zeros(batch, np.int32)
  params = sample.ensemble.shapes()
  drawn = work.products(
    sample.sample_fn, params, jax.random.key(0), np.arange(batch), labels
  )
  return drawn / (batch * sample.num_steps)


def _with_texts(
  units: stage_lib.Units, subject: subjects.Subject
) -> stage_lib.Units:
  """With what drawing from prompts takes, where the subject does."""
  if subject.prompted is None:
    return units
  encode, network, decode = prompted_flops(subject.prompted)
  return dataclasses.replace(
    units, encode_flops=encode, network_flops=network, decode_flops=decode
  )


def make(plans: plans_lib.Plans) -> Estimate:
  """Counts the work of all stages; compiles a training step, if any."""
  if plans.subject.train is None:
    pixels = math.prod(subjects.given(plans.subject.examples).shape)
    units = stage_lib.Units(network_flops(plans.subject), 0.0, 0, pixels)
    units = _with_texts(units, plans.subject)
    costs = {stage.name: stage.cost(units) for stage in plans.stages}
    return Estimate(0, units, costs, 0, 0)
  train = subjects.given(plans.subject.train)
  images = train.examples.images
  params = jax.eval_shape(train.init_fn, jax.random.key(0))
  program = train_program(train)
  memory = program.lower().compile().memory_analysis()
  assert memory is not None
  state = block_states.abstract_states(
    train, 1, mesh.make(1, jax.devices()[:1])
  )
  units = stage_lib.Units(
    network_flops=network_flops(plans.subject),
    train_flops=work.of_traced(program) / train.batch_size,
    state_bytes=sum(
      math.prod(leaf.shape) * leaf.dtype.itemsize
      for leaf in jax.tree.leaves(state)
    ),
    image_bytes=math.prod(images.shape[1:]),
  )
  units = _with_texts(units, plans.subject)
  return Estimate(
    parameters=programs.numbers_of(params),
    units=units,
    costs={stage.name: stage.cost(units) for stage in plans.stages},
    image_bytes=images.nbytes if images.nbytes <= train.device_bytes else 0,
    step_bytes=memory.temp_size_in_bytes,
  )


def lines(
  plans: plans_lib.Plans, estimate: Estimate, utilisation: float
) -> Iterator[str]:
  """For people: counts, then a line a machine."""
  if plans.subject.train is None:
    yield f'{plans.name}: {plans.subject.told.subject}'
    yield from _totals(estimate.costs)
    if plans.subject.prompted is not None:
      yield from dry_run_prompts.lines(
        plans,
        estimate.units,
        estimate.costs,
        utilisation,
        prompted_flops(plans.subject.prompted, 'cuda')[1],
      )
    return
  train = subjects.given(plans.subject.train)
  sample = plans.subject.sample or subjects.given(plans.subject.prompted)
  yield (
    f'{plans.name}: {train.ensemble.num_models} models of '
    f'{estimate.parameters:,} parameters, {train.num_steps:,} steps of '
    f'{train.batch_size} images; {sample.num_samples:,} samples each, '
    f'{sample.num_steps} calls of the network'
  )
  units = estimate.units
  yield (
    f'an image: {units.network_flops / 1e9:.3g} GFLOP through the network, '
    f'{units.train_flops / 1e9:.3g} GFLOP a training step'
  )
  yield from _totals(estimate.costs)
  total = sum(cost.flops for cost in estimate.costs.values())
  yield (
    f'assumed: {utilisation:.0%} of the bfloat16 peak in every stage, and the '
    'operations that a TPU takes; what a step holds as the CPU compiler counts '
    'it, by share of the batch'
  )
  ensemble = train.ensemble
  block = min(ensemble.models_per_block, ensemble.num_models)
  for name, (chips, chip) in MACHINES.items():
    rows = math.gcd(block, chips)
    shards = chips // rows
    held = (
      block // rows * units.state_bytes
      + estimate.image_bytes
      + estimate.step_bytes / shards
    )
    hours = total / (chip.peak * utilisation) / 3600
    yield (
      f'{name}: {hours / chips:.3g} h ({hours:.3g} chip-hours on '
      f'{chips}), {held / 1e9:.3g} of {chip.memory / 1e9:.0f} GB a '
      f'chip, {block // rows} models a chip, {shards} chips a model'
      + (': TOO MUCH' if held > chip.memory else '')
    )


def _totals(costs: dict[str, stage_lib.Cost]) -> Iterator[str]:
  """Operations and bytes on disk, of all stages and of each."""
  total = sum(cost.flops for cost in costs.values())
  parts = ', '.join(f'{k} {v.flops:.3g}' for k, v in costs.items() if v.flops)
  yield f'operations: {total:.3g} ({parts})'
  disk = sum(cost.disk for cost in costs.values())
  parts = ', '.join(
    f'{k} {v.disk / 1e9:.3g}' for k, v in costs.items() if v.disk
  )
  yield f'disk: {disk / 1e9:.3g} GB ({parts})'
