"""Weak scaling: a model a device, and one model over all, on 1, 2 and 4.

    launch/local.sh python -m tests.benchmarks.scaling

Once as virtual devices of one process, once as processes of one device each
(gloo over loopback). A line a case: milliseconds a step (median), and what each
device sends a step, read from the compiled program: nothing where models share
no batch. Two cores cannot show a speed-up: they show what the layout costs.
"""

import argparse
import json
import pathlib
import tempfile

from tests import processes

# sys.argv: count, number, address, devices of a process, models, steps, file.
PROGRAM = """
import json, pathlib, sys, time
import jax, numpy as np
from jaxdiff.pipeline import compiled
from jaxdiff.runtime import mesh, multihost
from jaxdiff.training import block_states, input_pipeline, loop, packing
from tests import tiny
count, number, address, devices, models, steps, out = sys.argv[1:]
mesh.use_cpu_devices(int(devices))
if int(count) > 1:
  multihost.start(address, int(count), int(number), 120)
models = range(int(models))
plan = tiny.plans(**tiny.TWO_LEVELS | {
  'model__block_out_channels': (32, 64), 'model__norm_num_groups': 8,
  'train__batch_size': 64, 'num_models': len(models), 'split': 'independent',
}).subject.train
keep = plan.examples.keep[:len(models)]
grid = mesh.make(len(models))
slot, = block_states.init_slots(plan, models, grid)
own, = input_pipeline.own_rows(plan, models, keep, grid)
pixels = next(input_pipeline.feed(plan, models, keep, grid, 0))
step = loop.make_step_fn(plan, grid, keep)
slot = packing.Packing(plan, grid).pack_placed(slot)
program = step.lower(slot, own, pixels).compile()
times = []
for _ in range(int(steps)):
  start = time.perf_counter()
  slot, metrics = program(slot, own, pixels)
  jax.block_until_ready(metrics)
  times.append(time.perf_counter() - start)
if multihost.is_first():
  pathlib.Path(out).write_text(json.dumps({
    'mesh': dict(grid.shape), 'ms': 1e3 * float(np.median(times[3:])),
    'bytes': sum(
      x.bytes for x in compiled.facts(program, grid).collectives if x.axes),
  }))
"""


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--steps', type=int, default=40)
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as scratch:
    out = pathlib.Path(scratch) / 'out.json'
    for layout in ('a model a device', 'one model over all'):
      for devices in (1, 2, 4):
        models = devices if layout == 'a model a device' else 1
        for count in (1, devices) if devices > 1 else (1,):
          codes = processes.run(
            PROGRAM, count, devices // count, models, args.steps, out
          )
          if any(codes):
            raise SystemExit(f'{layout} on {devices} ended with {codes}')
          got = json.loads(out.read_text())
          line = {
            'name': f'step, {layout}', 'devices': devices, 'processes': count,
            'mesh': got['mesh'], 'ms_per_step': round(got['ms'], 1),
            'bytes_sent_per_step': got['bytes'],
          }  # fmt: skip
          print(json.dumps(line), flush=True)


if __name__ == '__main__':
  main()
