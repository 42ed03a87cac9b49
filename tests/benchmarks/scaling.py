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
import re
import tempfile

from tests import processes

# sys.argv: count, number, address, devices of a process, models, steps, file.
PROGRAM = """
import json, pathlib, sys, time
import jax, numpy as np
from jaxdiff.runtime import mesh, multihost
from jaxdiff.training import input_pipeline, loop
from tests import tiny
from tests.benchmarks import scaling
count, number, address, devices, models, steps, out = sys.argv[1:]
mesh.use_cpu_devices(int(devices))
if int(count) > 1:
  multihost.start(address, int(count), int(number), 120)
models = range(int(models))
plan = tiny.plans(model__block_out_channels=(32, 64), train__batch_size=64,
                  model__norm_num_groups=8, num_models=len(models)).train
keep = plan.examples.keep[:len(models)]
grid = mesh.make(len(models))
slot, = mesh.split_slots(grid, loop.init_states(plan, models, grid))
own, = input_pipeline.own_rows(models, keep, grid)
pixels = next(input_pipeline.feed(plan, models, keep, grid, 0))
step = loop.make_step_fn(plan, grid, keep)
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
    'bytes': scaling.sent(program.as_text()),
  }))
"""
_SIZES = {'f32': 4, 'bf16': 2, 's32': 4, 'u32': 4, 'pred': 1}


def sent(program: str) -> int:
  """Bytes that a device gives to collectives with others, by compiled text."""
  total = 0
  for line in program.splitlines():
    found = re.search(
      r'= (.*?) (all-reduce|all-gather|all-to-all|collective-permute'
      r'|reduce-scatter)(-start)?\(',
      line,
    )
    if not found:
      continue
    groups = re.search(r'replica_groups=\{(\{.*?\})\}', line)
    if groups and all(
      ',' not in group for group in re.findall(r'\{(.*?)\}', groups[1])
    ):
      continue
    for kind, dims in re.findall(r'(\w+)\[([\d,]*)\]', found[1]):
      size = _SIZES[kind]
      for number in filter(None, dims.split(',')):
        size *= int(number)
      total += size
  return total


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
