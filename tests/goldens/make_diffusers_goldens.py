"""Goldens from diffusers and torch, so that ordinary tests need neither.

    JAXDIFF_EXTRAS=bench launch/local.sh \
      python -m tests.goldens.make_diffusers_goldens

writes, under tests/data/:
* diffusers_schedules.npz: alphas_cumprod of each beta schedule;
* diffusers_samplers.npz: a DDPM and a DDIM step at some timesteps, and whole
  DDIM runs of a fixed linear noise predictor;
* diffusers_repaint.npz: RePaint's order of timesteps, a step down and one up;
* diffusers_unet_*.npz: for UNet2DModels with weights of `unet_configs`, the
  names of the weights, an input and its output; of the CIFAR-10 net also a
  whole DDIM image of 10 steps.
"""

import pathlib

import diffusers
import numpy as np
import torch

from tests.goldens.unet_configs import UNETS, weights

HERE = pathlib.Path(__file__).parent


def unets():
  for name, config in UNETS.items():
    size = 32 if name == 'cifar10' else 8
    net = diffusers.UNet2DModel(sample_size=size, **config).eval()
    shapes = {key: tuple(v.shape) for key, v in net.state_dict().items()}
    net.load_state_dict(
      {key: torch.from_numpy(v) for key, v in weights(shapes).items()}
    )
    rng = np.random.default_rng(0)
    x = rng.standard_normal((3, 3, size, size), np.float32)
    t = np.array([0, 37, 999])
    arrays = {'x': x, 't': t, 'keys': np.array(sorted(shapes))}
    labels = None
    if 'num_class_embeds' in config or 'class_embed_type' in config:
      arrays['labels'] = np.array([0, 4, 10])
      labels = torch.from_numpy(arrays['labels'])
    with torch.no_grad():
      out = net(torch.from_numpy(x), torch.from_numpy(t), class_labels=labels)
      arrays['out'] = out.sample.numpy()
      if name == 'cifar10':
        pipe = diffusers.DDIMPipeline(net, diffusers.DDIMScheduler())
        pipe.scheduler.set_timesteps(10)
        image = torch.from_numpy(x[:1])
        for step in pipe.scheduler.timesteps:
          eps = net(image, step).sample
          image = pipe.scheduler.step(eps, step, image).prev_sample
        arrays['ddim'] = image.numpy()
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

  # The same of a learned variance; v may leave [-1, 1]. On float64 tables:
  # diffusers' own, in float32, are off by 1e-5 here at small t.
  v = 1.2 * rng.standard_normal(x_t.shape).astype(np.float32)
  out['v'] = v
  scheduler = diffusers.DDPMScheduler(
    variance_type='learned_range', timestep_spacing='leading'
  )
  scheduler.betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
  scheduler.alphas = 1.0 - scheduler.betas
  scheduler.alphas_cumprod = torch.cumprod(scheduler.alphas, dim=0)
  scheduler.set_timesteps(50)
  both = np.concatenate([0.5 * slope * x_t, v], axis=3).transpose(0, 3, 1, 2)
  for t in (980, 500, 20, 0):
    for seed in (0, 1):
      noise = torch.randn(
        (2, 1, 4, 4), generator=torch.Generator().manual_seed(seed)
      )
      step = scheduler.step(
        as_torch(both.copy()),
        t,
        as_torch(x_t.transpose(0, 3, 1, 2).copy()),
        generator=torch.Generator().manual_seed(seed),
      ).prev_sample
      for key, value in (('noise', noise), ('step', step)):
        out[f'learned/{t}/{seed}/{key}'] = value.numpy().transpose(0, 2, 3, 1)

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


def repaint():
  rng = np.random.default_rng(0)
  shape = (2, 4, 4, 1)
  x_t, x0, slope = (rng.standard_normal(shape, np.float32) for _ in range(3))
  x0 = np.clip(x0, -1.0, 1.0)
  known = rng.random(shape) < 0.5
  out = {'x_t': x_t, 'x0': x0, 'slope': slope, 'known': known}
  for steps, jump, repeats in ((250, 10, 10), (25, 5, 3), (7, 2, 4), (6, 3, 1)):
    scheduler = diffusers.RePaintScheduler()
    scheduler.set_timesteps(steps, jump, repeats)
    name = f'timesteps/{steps}/{jump}/{repeats}'
    out[name] = scheduler.timesteps.numpy().astype(np.int32)
  for eta in (0.0, 1.0):
    scheduler = diffusers.RePaintScheduler(eta=eta)
    scheduler.set_timesteps(50)
    # On float64 tables, as the ones of `schedulers`.
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.betas = betas
    scheduler.alphas_cumprod = torch.cumprod(1.0 - betas, dim=0)
    for t in (980, 500, 20, 0):
      generator = torch.Generator().manual_seed(t)
      step = scheduler.step(
        torch.from_numpy(0.5 * slope * x_t),
        t,
        torch.from_numpy(x_t),
        torch.from_numpy(x0),
        torch.from_numpy(known).float(),
        generator=generator,
      ).prev_sample
      noise = torch.randn(shape, generator=torch.Generator().manual_seed(t))
      out[f'down/{eta}/{t}'] = step.numpy()
      out[f'noise/{t}'] = noise.numpy()
  # Up three timesteps, one after the other, with their noise.
  scheduler.set_timesteps(1000)
  for t in (900, 300, 1):
    x, draws = torch.from_numpy(x_t), []
    for further in range(3):
      draws.append(
        torch.randn(
          shape, generator=torch.Generator().manual_seed(t + further)
        ).numpy()
      )
      generator = torch.Generator().manual_seed(t + further)
      x = scheduler.undo_step(x, t + further, generator)
    out[f'up/{t}'] = x.numpy()
    out[f'up_noise/{t}'] = np.stack(draws)
  np.savez_compressed(HERE / 'diffusers_repaint.npz', **out)


if __name__ == '__main__':
  unets()
  schedulers()
  repaint()
