"""DDIM sampling against diffusers on torch: seconds for a batch of images.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.sampling

Both sides: same net, weights and batch, DDIM of --steps steps, float32, as the
sampling stage runs it. `exact` says that from the same noise the images agree
to 1e-3. Runs alternate; medians of --repeats.
"""

import argparse
import subprocess
import sys

import jax
import numpy as np

from jaxdiff.diffusion import processes, samplers, schedules
from jaxdiff.diffusion import steps as steps_lib
from jaxdiff.interop import diffusers_weights
from jaxdiff.runtime import mesh
from jaxdiff.sampling import generate
from tests import tiny
from tests.benchmarks import nets, timing
from tests.goldens import unet_configs


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--steps', type=int, default=10)
  parser.add_argument('--case', choices=nets.CASES)
  args = parser.parse_args()
  if args.case is None:
    for name in nets.CASES:
      # The number of CPU devices is fixed for a process.
      subprocess.run(
        [sys.executable, '-m', __spec__.name, '--case', name, '--repeats',
         str(args.repeats), '--steps', str(args.steps)], check=True,
      )  # fmt: skip
    return
  compare(args.case, nets.CASES[args.case], args.steps, args.repeats)


def compare(name: str, case: nets.Case, steps: int, repeats: int) -> None:
  import diffusers
  import torch

  mesh.use_cpu_devices(
    mesh.default_cpu_devices(case.num_models, [case.batch_size])
  )
  net, schedule = case.net(), schedules.make()
  weights = unet_configs.weights(
    diffusers_weights.shapes(net, case.image_shape)
  )
  params = diffusers_weights.from_state_dict(weights, net, case.image_shape)

  def eps_fn_of(params):
    return processes.make_eps_fn(
      lambda x, t, _: net.apply(params, x, t), schedule, 'epsilon'
    )

  def sample_fn(params, key, indices, cond):
    return samplers.sample(
      eps_fn_of(params), key, indices, cond, schedule=schedule,
      image_shape=case.image_shape, sampler='ddim', num_steps=steps,
    )  # fmt: skip

  plan = generate.SamplePlan(
    sample_fn=sample_fn, ensemble=tiny.ensemble(case.num_models),
    num_samples=case.batch_size, block_size=case.batch_size,
    batch_size=case.batch_size, classes=None,
  )  # fmt: skip
  grid = mesh.make(case.num_models)
  sampler = generate.make_sampler(plan, grid)
  stacked = jax.tree.map(
    lambda leaf: np.stack([leaf] * case.num_models), params
  )
  stacked = mesh.put(grid, stacked, mesh.PER_MODEL)
  models, indices = np.arange(case.num_models), np.arange(case.batch_size)

  torch_net = case.diffusers().eval()
  torch_net.load_state_dict({k: torch.tensor(v) for k, v in weights.items()})
  scheduler = diffusers.DDIMScheduler()
  scheduler.set_timesteps(steps)

  def denoise(x):
    with torch.no_grad():
      for t in scheduler.timesteps:
        x = scheduler.step(torch_net(x, t).sample, t, x).prev_sample
    return x

  shape = (case.batch_size, *case.image_shape)
  noise = np.random.default_rng(0).standard_normal(shape, np.float32)
  plain = jax.jit(
    lambda x: samplers.ddim(
      eps_fn_of(params), x, None, None,
      steps_lib.make_steps(schedule, steps, 'leading'), clip_sample=True,
    )
  )  # fmt: skip
  theirs = denoise(torch.from_numpy(noise.transpose(0, 3, 1, 2).copy()))
  theirs = theirs.numpy().transpose(0, 2, 3, 1)
  apart = float(np.abs(np.asarray(plain(noise)) - theirs).max())
  torch_shape = (shape[0], shape[3], *shape[1:3])
  seconds = timing.medians(
    repeats,
    ours=lambda: sampler(stacked, models, indices),
    peer=lambda: denoise(torch.randn(torch_shape)),
  )
  timing.emit(
    f'DDIM {steps} steps, {name}, batch {case.batch_size}',
    seconds['ours'] / case.num_models,
    'diffusers, torch',
    seconds['peer'],
    exact=apart < 1e-3,
    largest_difference=apart,
    devices=jax.device_count(),
  )


if __name__ == '__main__':
  main()
