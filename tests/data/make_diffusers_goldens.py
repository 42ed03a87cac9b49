"""Goldens from diffusers and torch, so that ordinary tests need neither.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.data.make_diffusers_goldens

writes, under tests/data/:
* diffusers_schedules.npz: alphas_cumprod of each beta schedule;
* diffusers_samplers.npz: a DDPM and a DDIM step at some timesteps, and whole
  DDIM runs of a fixed linear noise predictor;
* diffusers_unet_*.npz: random weights of small UNet2DModels (diffusers'
  names), an input and its output.
"""

import pathlib

import diffusers
import numpy as np
import torch

from tests.data.unet_configs import UNETS

HERE = pathlib.Path(__file__).parent


def unets():
  for name, config in UNETS.items():
    torch.manual_seed(0)
    net = diffusers.UNet2DModel(
      sample_size=8, in_channels=3, out_channels=3, **config
    ).eval()
    arrays = {}
    with torch.no_grad():
      for key, value in net.named_parameters():
        # Norm scales and biases start at one and zero: make them tell.
        value.add_(0.1 * torch.randn_like(value))
        arrays[f'weights/{key}'] = value.numpy()
      x = torch.randn(3, 3, 8, 8)
      t = torch.tensor([0, 37, 999])
      labels = (
        torch.tensor([0, 4, 10]) if 'num_class_embeds' in config else None
      )
      out = net(x, t, class_labels=labels).sample
    arrays |= {'x': x.numpy(), 't': t.numpy(), 'out': out.numpy()}
    if labels is not None:
      arrays['labels'] = labels.numpy()
    np.savez_compressed(HERE / f'diffusers_unet_{name}.npz', **arrays)


def schedulers():
  tables = {}
  for name in ('linear', 'scaled_linear', 'squaredcos_cap_v2'):
    scheduler = diffusers.DDPMScheduler(beta_schedule=name)
    tables[f'alphas_cumprod/{name}'] = scheduler.alphas_cumprod.numpy()
  np.savez_compressed(HERE / 'diffusers_schedules.npz', **tables)

  rng = np.random.default_rng(0)
  x_t = rng.standard_normal((2, 4, 4, 1)).astype(np.float32)
  slope = rng.standard_normal(x_t.shape[1:]).astype(np.float32)
  out = {'x_t': x_t, 'slope': slope}
  as_torch = torch.from_numpy

  for spacing in ('leading', 'linspace', 'trailing'):
    for steps in (7, 50):
      scheduler = diffusers.DDIMScheduler(timestep_spacing=spacing)
      scheduler.set_timesteps(steps)
      out[f'timesteps/{spacing}/{steps}'] = scheduler.timesteps.numpy()

  # One DDPM step's mean: its noise is found as the difference to a run with
  # the same generator, so the golden keeps mean and deviation apart.
  for variance in ('small', 'large'):
    scheduler = diffusers.DDPMScheduler(
      variance_type=f'fixed_{variance}', timestep_spacing='leading'
    )
    scheduler.set_timesteps(50)
    for t in (980, 500, 20, 0):
      eps = as_torch(0.5 * slope * x_t)
      steps = [
        scheduler.step(
          eps, t, as_torch(x_t), generator=torch.Generator().manual_seed(seed)
        ).prev_sample.numpy()
        for seed in (0, 1)
      ]
      noise = [
        torch.randn(
          x_t.shape, generator=torch.Generator().manual_seed(seed)
        ).numpy()
        for seed in (0, 1)
      ]
      deviation = float(
        ((steps[0] - steps[1]) / (noise[0] - noise[1])).mean() if t else 0.0
      )
      out[f'ddpm/{variance}/{t}/mean'] = steps[0] - deviation * noise[0]
      out[f'ddpm/{variance}/{t}/deviation'] = deviation

  for clip in (True, False):
    scheduler = diffusers.DDIMScheduler(
      clip_sample=clip, timestep_spacing='leading'
    )
    scheduler.set_timesteps(50)
    x = as_torch(x_t)
    for t in scheduler.timesteps:
      x = scheduler.step(0.5 * as_torch(slope) * x, t, x).prev_sample
    out[f'ddim/clip_{clip}'] = x.numpy()
  np.savez_compressed(HERE / 'diffusers_samplers.npz', **out)


if __name__ == '__main__':
  unets()
  schedulers()
