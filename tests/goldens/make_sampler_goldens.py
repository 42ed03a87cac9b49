"""Goldens of solvers of higher order, from diffusers and torch.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.goldens.make_sampler_goldens

writes tests/goldens/multistep.npz: timesteps and every sample of runs with a
fixed predictor, by scheduler, spacing and prediction type.
"""

import pathlib
import warnings

import diffusers
import numpy as np
import torch

HERE = pathlib.Path(__file__).parent

# Stable Diffusion's.
NOISE = {
  'beta_schedule': 'scaled_linear', 'beta_start': 0.00085, 'beta_end': 0.012,
}  # fmt: skip
SCHEDULERS = {
  'ddim': (
    diffusers.DDIMScheduler, {'clip_sample': False, 'set_alpha_to_one': False},
  ),
  'plms': (
    diffusers.PNDMScheduler,
    {'skip_prk_steps': True, 'set_alpha_to_one': False},
  ),
  'dpm_solver': (diffusers.DPMSolverMultistepScheduler, {}),
  'euler': (diffusers.EulerDiscreteScheduler, {}),
  'heun': (diffusers.HeunDiscreteScheduler, {}),
}  # fmt: skip
OPTIONS = {'leading': {'steps_offset': 1}, 'trailing': {}, 'linspace': {}}


def predict(x: torch.Tensor, t) -> torch.Tensor:
  """Some function of both, of which a float32 keeps its digits."""
  return torch.tanh(x) * (0.3 + 0.0005 * float(t))


def main() -> None:
  warnings.simplefilter('ignore')
  rng = np.random.default_rng(0)
  noise = rng.standard_normal((2, 3, 3, 1), np.float32)
  out = {'noise': noise}
  for name, (kind, more) in SCHEDULERS.items():
    for spacing, offset in OPTIONS.items():
      # Fractional timesteps, and PNDM repeats others there.
      if spacing == 'linspace' and name != 'dpm_solver':
        continue
      if spacing == 'trailing' and name == 'plms':
        continue
      for prediction in ('epsilon', 'v_prediction'):
        if prediction == 'v_prediction' and name == 'plms':
          continue
        for steps in (5, 20):
          scheduler = kind(
            timestep_spacing=spacing, prediction_type=prediction,
            **NOISE, **more, **offset,
          )  # fmt: skip
          scheduler.set_timesteps(steps)
          x = torch.from_numpy(noise) * scheduler.init_noise_sigma
          for t in scheduler.timesteps:
            seen = scheduler.scale_model_input(x, t)
            x = scheduler.step(predict(seen, t), t, x).prev_sample
          of = f'{name}/{spacing}/{prediction}/{steps}'
          out |= {
            f'{of}/t': scheduler.timesteps.numpy(), f'{of}/out': x.numpy()
          }  # fmt: skip
  rescaled = diffusers.DDIMScheduler(rescale_betas_zero_snr=True, **NOISE)
  out['zero_snr'] = rescaled.alphas_cumprod.numpy()
  np.savez_compressed(HERE / 'multistep.npz', **out)


if __name__ == '__main__':
  main()
