"""A training step against diffusers on torch: seconds, and peak memory.

    JAXDIFF_EXTRAS=bench launch/local.sh python -m tests.benchmarks.train_step

Both sides: same net, weights, batch size; noising, forward, backward, clipping,
AdamW and a weight average; float32. Ours as the launcher would run it, with
a CPU device a core: the digits net as two models of an ensemble (seconds are
per model), the others as one model whose batch the devices share. Runs
alternate; medians of --repeats. Peak memory (resident, MB) is of a process a
side that does nothing else, and does not import the other side.
"""

import argparse
import subprocess
import sys

import jax
import numpy as np

from jaxdiff.diffusion import schedules
from jaxdiff.interop import diffusers_weights
from jaxdiff.plans import model as plans_model
from jaxdiff.plans import training
from jaxdiff.runtime import mesh
from jaxdiff.training import (
  block_states,
  input_pipeline,
  loop,
  packing,
  train_step,
)
from jaxdiff.training import plan as training_plan
from tests import tiny
from tests.benchmarks import nets, timing, torch_trainer


def ours(case: nets.Case, steps: int):
  """run(), and the net's parameters before it as a diffusers state dict."""
  c, net, images = case.config(), case.net(), case.images()
  keep = np.ones((case.num_models, len(images)), bool)
  plan = training_plan.TrainPlan(
    init_fn=plans_model.make_init_fn(net, case.image_shape, False),
    grad_fn=train_step.make_grad_fn(
      plans_model.make_loss_fn(
        net.apply, schedules.make(), prediction_type='epsilon',
        weighting='uniform',
        label_dropout=0.0, null_label=None,
      )
    ),
    tx=training.make_tx(c.train), ema_decay=c.train.ema_decay,
    examples=tiny.examples(images, keep), ensemble=tiny.ensemble(len(keep)),
    num_steps=c.train.num_steps, batch_size=case.batch_size,
    device_bytes=2**31,
    log_every=1, checkpoint_every=1, max_to_keep=None, elementwise=True,
  )  # fmt: skip
  models = range(case.num_models)
  grid = mesh.make(case.num_models)
  states = block_states.init_states(plan, models, grid)
  weights = diffusers_weights.to_state_dict(
    jax.tree.map(lambda leaf: leaf[0], jax.device_get(states.params))
  )
  slots = mesh.split_slots(grid, states)
  own = input_pipeline.own_rows(plan, models, keep, grid)
  pixels = input_pipeline.feed(plan, models, keep, grid, 0)
  step_fn = loop.make_step_fn(plan, grid, keep)
  slots = [packing.Packing(plan, grid).pack_placed(slot) for slot in slots]
  del states

  def run():
    for _ in range(steps):
      for slot in range(len(slots)):
        slots[slot], metrics = step_fn(slots[slot], own[slot], next(pixels))
    jax.block_until_ready(metrics)

  return run, weights


def peak_memory(module: str, name: str, *more: str) -> int:
  """MB of a process of its own that trains a few steps."""
  done = subprocess.run(
    [sys.executable, '-m', module, '--case', name, *more],
    check=True, capture_output=True, text=True,
  )  # fmt: skip
  return int(done.stdout.split()[-1])


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=7)
  parser.add_argument('--case', choices=nets.CASES)
  parser.add_argument('--memory', action='store_true', help='print MB alone')
  args = parser.parse_args()
  for name, case in nets.CASES.items():
    if args.case not in (None, name):
      continue
    mesh.use_cpu_devices(
      mesh.default_cpu_devices(case.num_models, [case.batch_size])
    )
    if args.memory:
      ours(case, 3)[0]()
      print(timing.peak_memory())
      continue
    if args.case is None:
      # The number of CPU devices is fixed for a process.
      subprocess.run(
        [sys.executable, '-m', __spec__.name, '--case', name, '--repeats',
         str(args.repeats)], check=True,
      )  # fmt: skip
      continue
    steps = max(1, 64 // case.batch_size * 8 // case.image_shape[0])
    run, weights = ours(case, steps)
    seconds = timing.medians(
      args.repeats, ours=run, peer=torch_trainer.make(case, steps, weights)
    )
    timing.emit(
      f'train step, {name}, {case.image_shape[0]} x {case.image_shape[1]}, '
      f'batch {case.batch_size}',
      seconds['ours'] / steps / case.num_models,
      'diffusers, torch',
      seconds['peer'] / steps,
      parameters=sum(v.size for v in weights.values()),
      devices=jax.device_count(),
      ours_mb=peak_memory(__spec__.name, name, '--memory'),
      peer_mb=peak_memory(torch_trainer.__name__, name),
    )


if __name__ == '__main__':
  main()
