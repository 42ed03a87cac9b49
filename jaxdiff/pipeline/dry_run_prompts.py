"""What the attack on prompts would take, on slices of TPUs and on GPUs."""

from collections.abc import Iterator, Mapping
import math
from typing import NamedTuple

from jaxdiff import plans as plans_lib
from jaxdiff.attacks.prompts import screen as screen_lib
from jaxdiff.attacks.prompts import stream as stream_lib
from jaxdiff.diffusion import samplers
from jaxdiff.plans import stage as stage_lib
from jaxdiff.runtime import hardware

# How many chips, and which.
MACHINES = {
  'v5e-256': (256, hardware.CHIPS['TPU v5 lite']),
  'v6e-256': (256, hardware.CHIPS['TPU v6 lite']),
  '8 H100': (8, hardware.CHIPS['NVIDIA H100 80GB HBM3']),
}
# Denoising steps that are compared, and shares of prompts that a screen keeps.
_STEPS = (50, 20, 5)
_SHARE = 0.01


def lines(
  plans: plans_lib.Plans,
  units: stage_lib.Units,
  costs: Mapping[str, stage_lib.Cost],
  utilisation: float,
  on_gpu: float,
) -> Iterator[str]:
  """For people: assumptions, then a line a thing that is compared.

  Args:
    plans: of a subject that draws from prompts.
    units: what its work is counted in.
    costs: by stage.
    utilisation: share of the peak.
    on_gpu: operations of an evaluation where a GPU's convolutions do it.
  """
  rates = _Rates(utilisation, on_gpu / units.network_flops)
  yield (
    f'an evaluation of the denoiser: {units.network_flops / 1e12:.4g} TFLOP; a '
    f'text: {units.encode_flops / 1e12:.3g}; an image decoded: '
    f'{units.decode_flops / 1e12:.3g} (on a TPU; a GPU takes '
    f'{rates.more_on_gpu:.3f} times as many)'
  )
  peaks = ', '.join(
    f'{name} {count * chip.peak / 1e15:.3g} PFLOP/s'
    for name, (count, chip) in MACHINES.items()
  )
  yield (
    f'assumed: {utilisation:.0%} of the bfloat16 peak in every stage '
    f'(--utilisation): {peaks}'
  )
  for name, cost in costs.items():
    if cost.flops:
      yield f'{name}: {rates.hours(cost.flops)}'
  streamed, screened = plans.plan('stream'), plans.plan('screen')
  if isinstance(streamed, stream_lib.StreamPlan):
    yield from _steps(streamed, units, rates)
  if isinstance(screened, screen_lib.ScreenPlan):
    yield from _screens(screened, streamed, units, rates)


def _steps(
  plan: stream_lib.StreamPlan, units: stage_lib.Units, rates: '_Rates'
) -> Iterator[str]:
  """The stream at several numbers of steps, and what it would fill."""
  drawn = plan.prompted
  images = drawn.ensemble.num_models * plan.num_chosen * plan.num_seeds
  for steps in _STEPS:
    calls = samplers.evaluations('ddim', steps) * drawn.rows
    flops = images * (calls * units.network_flops + units.decode_flops)
    yield f'stream at {steps} steps of DDIM: {rates.hours(flops)}'
  raw = images * math.prod(drawn.image_shape)
  yield (
    f'stream: {images:,} images are {raw / 1e12:.3g} TB of pixels, which are '
    f'not kept; {plan.kept} of each clique are'
  )


def _screens(
  plan: screen_lib.ScreenPlan,
  streamed: stream_lib.StreamPlan | None,
  units: stage_lib.Units,
  rates: '_Rates',
) -> Iterator[str]:
  """Each screen by itself, and with the attack on the first prompts."""
  drawn = plan.prompted
  prompts = drawn.ensemble.num_models * len(drawn.texts)
  full = 0.0
  if streamed is not None:
    of_prompt = streamed.rows() * units.network_flops
    of_prompt += streamed.num_seeds * units.decode_flops
    full = prompts * of_prompt
  for kind, calls in plan.calls().items():
    images = plan.num_seeds if kind in ('agreement', 'edges') else 0
    flops = prompts * (
      calls * units.network_flops + images * units.decode_flops
    )
    saved = ''
    if full:
      left = (flops + _SHARE * full) / full
      saved = (
        f'; with the attack on the first {_SHARE:.0%}, {left:.2%} of attacking '
        'all'
      )
    yield f'screen {kind}: {rates.hours(flops)}{saved}'


class _Rates(NamedTuple):
  """What is assumed of every machine.

  Attributes:
    utilisation: share of the peak.
    more_on_gpu: how many times as many operations a GPU takes.
  """

  utilisation: float
  more_on_gpu: float

  def hours(self, flops: float) -> str:
    """Of so many operations of a TPU, on each machine."""
    parts = []
    for name, (count, chip) in MACHINES.items():
      work = flops if chip.clock else flops * self.more_on_gpu
      hours = work / (count * chip.peak * self.utilisation) / 3600
      parts.append(f'{hours:.3g} h on {name} ({hours * count:.3g} chip-hours)')
    return ', '.join(parts)
