"""Schedulers of diffusers: the solver here that goes the same steps.

Of a scheduler_config.json, keys that old files lack have the defaults of their
class, those that say nothing of its solver are passed over by name, and every
other must be as solvers here have it.
"""

import dataclasses
import math
import pathlib
from typing import Any

from jaxdiff import inputs
from jaxdiff.diffusion import multistep, processes, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import values

_flag = (values.flag, 'true or false')
_text = (values.word, 'a word')

_SCHEDULE: values.Schema = {
  'num_train_timesteps': (values.whole(2, 2**20), 'a whole number above 1'),
  'beta_start': (values.real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  'beta_end': (values.real(1e-12, 1.0 - 1e-9), 'a number between 0 and 1'),
  'beta_schedule': _text,
  'prediction_type': _text,
  'timestep_spacing': _text,
  'steps_offset': (values.whole(0, 1000), 'a whole number'),
  'set_alpha_to_one': _flag,
  'rescale_betas_zero_snr': _flag,
  'final_sigmas_type': _text,
}
_SCHEDULE_DEFAULTS: dict[str, Any] = {
  'num_train_timesteps': 1000, 'beta_schedule': 'linear',
  'prediction_type': 'epsilon', 'steps_offset': 0,
  'timestep_spacing': 'leading', 'rescale_betas_zero_snr': False,
  'final_sigmas_type': 'zero',
}  # fmt: skip
# Solvers of other orders and in other levels of noise than those here.
_SCHEDULE_FIXED: dict[str, Any] = {
  'trained_betas': None, 'thresholding': False, 'clip_sample': False,
  'interpolation_type': 'linear', 'use_karras_sigmas': False,
  'use_exponential_sigmas': False, 'use_beta_sigmas': False, 'sigma_min': None,
  'sigma_max': None, 'timestep_type': 'discrete', 'solver_order': 2,
  'algorithm_type': 'dpmsolver++', 'solver_type': 'midpoint',
  'euler_at_final': False, 'use_lu_lambdas': False, 'use_flow_sigmas': False,
  'use_dynamic_shifting': False, 'variance_type': None,
  'lambda_min_clipped': -math.inf,
}  # fmt: skip
# SDXL's file of Euler has keys of DDIM and PNDM, SD 2.1's of DDIM one of PNDM.
_SCHEDULE_PASSED = (
  'dynamic_thresholding_ratio', 'sample_max_value', 'clip_sample_range',
  'skip_prk_steps', 'lower_order_final', 'flow_shift', 'time_shift_type',
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Solver:
  """A scheduler of diffusers: its sampler here, and what its class fixes."""

  sampler: str
  in_sigma: bool = False
  ends_at_one: bool | None = None  # None: by `set_alpha_to_one`
  set_alpha_to_one: bool = True
  spacing: str = 'leading'
  betas: tuple[float, float] = (0.0001, 0.02)


_SOLVERS = {
  'DDIMScheduler': _Solver('ddim'),
  'PNDMScheduler': _Solver('plms', set_alpha_to_one=False),
  'EulerDiscreteScheduler': _Solver('ddim', True, True, spacing='linspace'),
  'HeunDiscreteScheduler': _Solver(
    'heun', True, True, spacing='linspace', betas=(0.00085, 0.012)
  ),
  'DPMSolverMultistepScheduler': _Solver(
    'dpm_solver', ends_at_one=True, spacing='linspace'
  ),
}


@dataclasses.dataclass(frozen=True)
class Scheduler:
  """How a pipeline is sampled.

  Attributes:
    name: diffusers' class.
    schedule: noise schedule.
    prediction_type: of the denoiser.
    sampler: one of `samplers.SAMPLERS`, the same solver as the folder's.
    options: of `samplers.sample`, but for the number of steps.
    in_sigma: runs begin at `multistep.start`.
  """

  name: str
  schedule: schedules.Schedule
  prediction_type: str
  sampler: str
  options: dict[str, Any]
  in_sigma: bool

  def start(self, num_steps: int) -> float:
    """What the first noise is multiplied by."""
    if not self.in_sigma:
      return 1.0
    spacing = self.options['timestep_spacing']
    first = steps_lib.spaced_timesteps(len(self.schedule), num_steps, spacing)
    return multistep.start(self.schedule, int(first[0]), spacing)


def read(
  folder: pathlib.Path, kind: str = 'StableDiffusionXLPipeline'
) -> Scheduler:
  """The scheduler of a folder, as the solver here that goes the same steps.

  Where the number of steps does not divide that of the timesteps, DDIM with
  'trailing' goes to the next timestep; diffusers goes by the whole quotient.

  Args:
    folder: `scheduler/` of a pipeline.
    kind: of the pipeline. StableDiffusionPipeline takes steps_offset 1 and no
      clip_sample whatever the file says, as it does in diffusers.
  """
  path = folder / 'scheduler_config.json'
  found = values.read_json(path, values.PART)
  name = str(found.get('_class_name'))
  values.one_of(path, '_class_name', name, _SOLVERS)
  solver = _SOLVERS[name]
  if name == 'PNDMScheduler' and found.get('skip_prk_steps') is not True:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: skip_prk_steps must be true: Runge-Kutta steps '
      'before PLMS are not supported'
    )
  old = kind == 'StableDiffusionPipeline'
  fixed, passed = _SCHEDULE_FIXED, _SCHEDULE_PASSED
  if old:
    fixed = {k: v for k, v in fixed.items() if k != 'clip_sample'}
    passed = (*passed, 'clip_sample')
  defaults = _SCHEDULE_DEFAULTS | {
    'timestep_spacing': solver.spacing,
    'set_alpha_to_one': solver.set_alpha_to_one,
    'beta_start': solver.betas[0],
    'beta_end': solver.betas[1],
  }
  config = defaults | values.read_config(path, _SCHEDULE, fixed, passed)
  if old:
    config['steps_offset'] = 1
  for key, known in (
    ('beta_schedule', schedules.BETA_SCHEDULES),
    ('prediction_type', processes.PREDICTION_TYPES),
    ('timestep_spacing', steps_lib.TIMESTEP_SPACINGS),
    ('final_sigmas_type', ('zero',)),
  ):
    values.one_of(path, key, config[key], known)
  # Solvers in sigma have fractions of timesteps there; DDIM and PNDM go by
  # another step than from one timestep to the next.
  if config['timestep_spacing'] == 'linspace' and (
    solver.sampler != 'dpm_solver'
  ):
    raise inputs.InputError(
      f'{inputs.name_of(path)}: timestep_spacing linspace of a {name} is not '
      'supported; leading and trailing are'
    )
  if solver.sampler == 'plms' and config['prediction_type'] != 'epsilon':
    raise inputs.InputError(
      f'{inputs.name_of(path)}: prediction_type {config["prediction_type"]} of '
      f'a {name}, which blends outputs, is not supported; epsilon is'
    )
  ends_at_one = solver.ends_at_one
  if ends_at_one is None:
    ends_at_one = config['set_alpha_to_one']
  return Scheduler(
    name=name,
    schedule=schedules.make(
      *(
        config[key]
        for key in (
          'beta_schedule',
          'num_train_timesteps',
          'beta_start',
          'beta_end',
          'rescale_betas_zero_snr',
        )
      )  # fmt: skip
    ),
    prediction_type=config['prediction_type'],
    sampler=solver.sampler,
    options={
      'timestep_spacing': config['timestep_spacing'],
      'steps_offset': config['steps_offset'],
      'final_alpha': ends_at_one,
      'clip_sample': False,
    },
    in_sigma=solver.in_sigma,
  )
