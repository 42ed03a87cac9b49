"""Stable Diffusion 1.4 at full size with random weights, beside diffusers.

    JAXDIFF_EXTRAS=bench,text launch/local.sh \
      python -m tests.benchmarks.text_to_image

Writes a pipeline's folder in half precision (2.1 GB; --folder), then in a
process a side: seconds to read the denoiser's weights and its largest memory
beside their size in float32; then one evaluation of a latent of 512 x 512
pixels, in turn, medians of --repeats.
"""

import argparse
import pathlib
import subprocess
import sys
import tempfile
import time

from tests.benchmarks import timing

# Parameters of the denoiser.
COUNT = 859_520_964


def write(folder: pathlib.Path) -> None:
  """By diffusers, in float16; weights are their random initial ones."""
  import diffusers
  import torch

  torch.manual_seed(0)
  net = diffusers.UNet2DConditionModel(
    sample_size=64, cross_attention_dim=768, attention_head_dim=8
  )
  net.half().save_pretrained(folder / 'unet')


def read(folder: pathlib.Path):
  from jaxdiff.interop import pipeline

  part = pipeline.read_unet(folder / 'unet', 768)
  return part.net, part.params()


def load(side: str, folder: pathlib.Path) -> None:
  """Prints seconds, and MB at most above those before."""
  if side == 'ours':
    from jaxdiff.interop import pipeline  # noqa: F401
  else:
    import diffusers
    import torch
  before, begun = timing.peak_memory(), time.perf_counter()
  if side == 'ours':
    kept = read(folder)
  else:
    kept = diffusers.UNet2DConditionModel.from_pretrained(
      folder / 'unet', torch_dtype=torch.float32
    )
  print(time.perf_counter() - begun, timing.peak_memory() - before)
  del kept


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--folder', type=pathlib.Path)
  parser.add_argument('--load', choices=('ours', 'peer'))
  args = parser.parse_args()
  if args.load:
    load(args.load, args.folder)
    return
  with tempfile.TemporaryDirectory() as made:
    folder = args.folder or pathlib.Path(made)
    if not (folder / 'unet').exists():
      write(folder)
    sides = {}
    for side in ('ours', 'peer'):
      done = subprocess.run(
        [sys.executable, '-m', __spec__.name, '--load', side, '--folder',
         str(folder)],
        check=True, capture_output=True, text=True,
      )  # fmt: skip
      sides[side] = [float(x) for x in done.stdout.split()[-2:]]
    size = 4.0 * COUNT / 2**20
    peaks = {
      f'{side}_peak_of_weights': round(found[1] / size, 2)
      for side, found in sides.items()
    }
    timing.emit(
      'load, denoiser of Stable Diffusion 1.4, float16 to float32',
      sides['ours'][0],
      'diffusers, torch',
      sides['peer'][0],
      **peaks,
    )
    evaluation(folder, args.repeats)


def evaluation(folder: pathlib.Path, repeats: int) -> None:
  import diffusers
  import jax
  import jax.numpy as jnp
  import numpy as np
  import torch

  net, params = read(folder)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((1, 64, 64, 4), np.float32)
  tokens = rng.standard_normal((1, 77, 768), np.float32)
  t = np.array([500])
  theirs = diffusers.UNet2DConditionModel.from_pretrained(
    folder / 'unet', torch_dtype=torch.float32
  )
  given = [torch.from_numpy(a) for a in (x.transpose(0, 3, 1, 2), t, tokens)]
  fn = jax.jit(lambda p, x, t, c: net.apply(p, x, t, {'tokens': c}))
  own = jax.device_put(params), *map(jnp.asarray, (x, t, tokens))
  found = {}

  def ours():
    found['ours'] = np.asarray(fn(*own))

  def peer():
    with torch.no_grad():
      found['peer'] = theirs(*given).sample.numpy().transpose(0, 2, 3, 1)

  seconds = timing.medians(repeats, ours=ours, peer=peer)
  error = np.abs(found['ours'] - found['peer']).max()
  timing.emit(
    'denoiser of Stable Diffusion 1.4, one latent of 64 x 64, float32',
    seconds['ours'], 'diffusers, torch', seconds['peer'],
    largest_difference=float(error / np.abs(found['peer']).max()),
  )  # fmt: skip


if __name__ == '__main__':
  main()
