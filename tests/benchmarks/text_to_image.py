"""Stable Diffusion at full size with random weights, beside diffusers.

    JAXDIFF_EXTRAS=bench,text launch/local.sh \
      python -m tests.benchmarks.text_to_image --kind=sd14

Writes a pipeline's folder in half precision (2.1 to 6.9 GB; --folder keeps it),
then in a process a side: seconds to read all weights, and the largest memory
beside the size of the largest part in float32; then one evaluation of the
denoiser on one latent of the folder's size, the sides in turn, each in a
process of its own: two XL in float32 are 21 GB.
"""

import argparse
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from tests.benchmarks import full_pipelines, timing

WIDTHS = {'sd14': 768, 'sd21': 1024, 'sdxl': 2048}


def given(kind: str) -> dict[str, np.ndarray]:
  """What the denoiser is asked."""
  rng = np.random.default_rng(0)
  side = full_pipelines.KINDS[kind]['unet']['sample_size']
  out = {
    'x': rng.standard_normal((1, side, side, 4), np.float32),
    'tokens': rng.standard_normal((1, 77, WIDTHS[kind]), np.float32),
  }
  if kind == 'sdxl':
    out['pooled'] = rng.standard_normal((1, 1280), np.float32)
    out['time_ids'] = np.array([[1024, 1024, 0, 0, 1024, 1024]], np.float32)
  return out


def load(side: str, kind: str, folder: pathlib.Path) -> None:
  """Prints seconds, and MB at most above those before."""
  if side == 'ours':
    from jaxdiff.interop import pipeline
  else:
    import diffusers
    import torch
  before, begun = timing.peak_memory(), time.perf_counter()
  if side == 'ours':
    found = pipeline.read(str(folder))
    kept = [part.params() for part in found.parts.values()]
  else:
    kept = diffusers.DiffusionPipeline.from_pretrained(
      folder, torch_dtype=torch.float32
    )
  print(time.perf_counter() - begun, timing.peak_memory() - before)
  del kept, kind


def evaluate(side: str, kind: str, folder: pathlib.Path, repeats: int) -> None:
  """Prints the median of some seconds; writes what came out."""
  asked = given(kind)
  seconds = []
  if side == 'ours':
    import jax
    import jax.numpy as jnp

    from jaxdiff.interop import pipeline_parts

    part, _ = pipeline_parts.read_unet(folder / 'unet', WIDTHS[kind])
    params = part.params(jax.device_put)
    cond = {k: jnp.asarray(v) for k, v in asked.items() if k != 'x'}
    fn = jax.jit(lambda p, x, t, c: part.net.apply(p, x, t, c))
    x, t = jnp.asarray(asked['x']), jnp.array([500])
    run = lambda: np.asarray(fn(params, x, t, cond))
  else:
    import diffusers
    import torch

    net = diffusers.UNet2DConditionModel.from_pretrained(
      folder / 'unet', torch_dtype=torch.float32
    )
    rows = {k: torch.from_numpy(v) for k, v in asked.items()}
    more = {}
    if kind == 'sdxl':
      more['added_cond_kwargs'] = {
        'text_embeds': rows['pooled'], 'time_ids': rows['time_ids'],
      }  # fmt: skip

    def run():
      with torch.no_grad():
        out = net(
          rows['x'].permute(0, 3, 1, 2), torch.tensor([500]), rows['tokens'],
          **more,
        )  # fmt: skip
      return out.sample.permute(0, 2, 3, 1).numpy()

  run()
  for _ in range(repeats):
    begun = time.perf_counter()
    out = run()
    seconds.append(time.perf_counter() - begun)
  np.save(folder / f'{side}.npy', out)
  print(statistics.median(seconds))


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--kind', choices=full_pipelines.KINDS, default='sd14')
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--folder', type=pathlib.Path)
  parser.add_argument('--load', choices=('ours', 'peer'))
  parser.add_argument('--evaluate', choices=('ours', 'peer'))
  args = parser.parse_args()
  if args.load:
    load(args.load, args.kind, args.folder)
    return
  if args.evaluate:
    evaluate(args.evaluate, args.kind, args.folder, args.repeats)
    return
  with tempfile.TemporaryDirectory() as made:
    folder = args.folder or pathlib.Path(made)
    if not (folder / 'model_index.json').exists():
      full_pipelines.write(folder, args.kind)

    def ask(what: str, side: str) -> list[float]:
      done = subprocess.run(
        [sys.executable, '-m', __spec__.name, f'--{what}', side, '--folder',
         str(folder), '--kind', args.kind, '--repeats', str(args.repeats)],
        check=True, capture_output=True, text=True,
      )  # fmt: skip
      return [float(x) for x in done.stdout.split()]

    loads = {side: ask('load', side) for side in ('ours', 'peer')}
    sizes = [
      4.0 * sum(map(np.prod, full_pipelines.shapes(name, config).values()))
      for name, config in full_pipelines.KINDS[args.kind].items()
    ]
    timing.emit(
      f'load, all of {args.kind}, float16 to float32',
      loads['ours'][0], 'diffusers, torch', loads['peer'][0],
      **{
        f'{side}_peak_of_weights': round(found[1] * 2**20 / sum(sizes), 2)
        for side, found in loads.items()
      },
      largest_part_of_weights=round(max(sizes) / sum(sizes), 2),
    )  # fmt: skip
    seconds: dict[str, list[float]] = {'ours': [], 'peer': []}
    for _ in range(2):
      for side, found in seconds.items():
        found += ask('evaluate', side)
    ours, peer = (np.load(folder / f'{x}.npy') for x in ('ours', 'peer'))
    timing.emit(
      f'denoiser of {args.kind}, one latent, float32',
      statistics.median(seconds['ours']), 'diffusers, torch',
      statistics.median(seconds['peer']),
      largest_difference=float(np.abs(ours - peer).max() / np.abs(peer).max()),
    )  # fmt: skip


if __name__ == '__main__':
  main()
