"""The signal stage against a bare forward pass; a large one, torn and resumed.

    launch/local.sh python -m tests.benchmarks.signals

First the digits net and 50 loss queries an image: the stage's time against the
same network, batches and devices called in a loop that keeps nothing. Then 16
models, 4,096 images, 200 queries of a noise predictor in closed form, so that
it takes minutes: half of the blocks are taken away and one is torn; the next
run must make the same bytes again. Memory is the peak after the first blocks
and at the end, beside the size of a block. One JSON line each.
"""

import argparse
import dataclasses
import json
import pathlib
import tempfile

from etils import epath
import jax
import numpy as np

from configs import digits
from jaxdiff import plans as plans_lib
from jaxdiff.attacks.membership import measure
from jaxdiff.attacks.membership.signals import base, loss
from jaxdiff.data import datasets
from jaxdiff.diffusion import schedules
from jaxdiff.plans import model as plans_model
from jaxdiff.runs import blocks, layout
from jaxdiff.runtime import mesh
from tests import tiny
from tests.benchmarks import timing

TIMESTEPS = tuple(range(10, 510, 50))


def throughput(repeats: int) -> None:
  config = digits.get_config()
  config.num_models = 2
  config.signals.timesteps, config.signals.draws = TIMESTEPS, 5
  config.membership.timestep = TIMESTEPS[0]
  plans = plans_lib.make(config)
  plan = plans.plan('membership').signals
  grid = mesh.make(2)
  params = mesh.put(
    grid, tiny.random_params(plans.subject.train, 2), mesh.PER_MODEL
  )
  (params,) = mesh.split_slots(grid, params)
  measurer = measure.make_measurer(plan, grid)
  count = len(plan.images)
  net = plans_model.make_net(config, plan.images.shape[1:], 10)
  x = datasets.to_model_range(plan.images)
  x = mesh.put(grid, np.asarray(x), mesh.REPLICATED)

  def forward(params, x, t):
    out = net.apply(mesh.own_model(params), x, t)
    return mesh.add_model_axis(out.mean())

  bare = jax.jit(
    jax.shard_map(
      forward, mesh=grid,
      in_specs=(mesh.PER_MODEL, mesh.REPLICATED, mesh.REPLICATED),
      out_specs=mesh.PER_MODEL,
    )
  )  # fmt: skip
  timesteps = [
    mesh.put(grid, np.full(count, t, np.int32), mesh.REPLICATED)
    for t in plan.queries['t']
  ]

  def loop():
    for t in timesteps:
      last = bare(params, x, t)
    jax.block_until_ready(last)

  seconds = timing.medians(
    repeats,
    ours=lambda: measurer(params, np.arange(2), np.arange(count)),
    peer=loop,
  )
  timing.emit(
    'loss signal, digits net, 50 queries', seconds['ours'],
    'bare forward pass', seconds['peer'],
    forward_passes_a_second=round(2 * count * 50 / seconds['ours']),
    devices=jax.device_count(),
  )  # fmt: skip


def resumed() -> None:
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (4096, 8, 8, 1), np.uint8)
  labels = np.zeros(4096, np.int32)
  dataset = datasets.make(images, labels, [''] * 4096)
  config = tiny.config(
    num_models=16, data__num_examples=0, train__models_per_block=16,
    signals__timesteps=TIMESTEPS, signals__draws=20,
    signals__block_size=1024, signals__batch_size=512,
    membership__timestep=TIMESTEPS[0],
  )  # fmt: skip
  plans = plans_lib.make(config, dataset)
  weights = np.linspace(0.1, 0.9, 16, dtype=np.float32)
  settings = base.Settings(TIMESTEPS, draws=20)

  def signal_fn(weight, x0, cond, keys):
    eps_fn = lambda x_t, t, cond: weight * x_t
    make = loss.make
    return make(eps_fn, schedules.make(), settings)(x0, cond, keys)

  plan = dataclasses.replace(
    plans.plan('membership').signals,
    signal_fn=signal_fn,
    restore=lambda block, grid: mesh.put(grid, weights, mesh.PER_MODEL),
  )
  with tempfile.TemporaryDirectory() as folder:
    run = layout.Run(epath.Path(folder))
    files = lambda: sorted(pathlib.Path(folder).rglob('*.npz'))
    marks = []
    write = blocks.write_block

    def noted(*args, **kwargs):
      write(*args, **kwargs)
      marks.append(timing.peak_memory())

    blocks.write_block = noted
    measure.measure(plan, run)
    blocks.write_block = write
    whole = {file: file.read_bytes() for file in files()}
    for file in rng.permutation(list(whole))[: len(whole) // 2]:
      file.unlink()
    torn = files()[0]
    torn.write_bytes(torn.read_bytes()[:-100])
    measure.measure(plan, run)
    same = {file: file.read_bytes() for file in files()} == whole
  block = 4 * 1024 * 200 / 2**20
  line = {
    'name': 'signals, K = 16, N = 4,096, Q = 200: torn and resumed',
    'blocks': len(whole), 'same_bytes': same, 'block_mb': block,
    'peak_mb_after_first_blocks': marks[1], 'peak_mb_at_end': marks[-1],
  }  # fmt: skip
  print(json.dumps(line), flush=True)


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=5)
  args = parser.parse_args()
  mesh.use_cpu_devices(mesh.default_cpu_devices(2, [512]))
  throughput(args.repeats)
  resumed()


if __name__ == '__main__':
  main()
