"""Which copies does the audit of a folder find, and what does it get wrong?

    launch/local.sh python -m tests.benchmarks.copies --images=photos.npz

500 copies of training images, in ten kinds, among 5,000 look-alikes: other
images of the same source. Audited as any folder is, with its defaults; with
--flip and --shift as a user may ask. A generator that copies nothing is audited
--null times. Prints a JSON line each: recall by kind, false finds among the
look-alikes, and how many nulls were said to copy: those whose interval of
precision leaves 0 out.
"""

import argparse
import io
import json
import os
import pathlib
import tempfile
import time

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import numpy as np
from PIL import Image, ImageFilter

from configs import folders as folders_config
from jaxdiff.data.readers import archives
from jaxdiff.pipeline import stages
from jaxdiff.runs import files

COPIES, TRAINING = 500, 5000


def encoded(image: Image.Image, kind: str, **options) -> Image.Image:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return Image.open(io.BytesIO(buffer.getvalue()))


def brighter(image: Image.Image, factor: float) -> Image.Image:
  return image.point(lambda value: min(255, round(factor * value)))


def moved(image: Image.Image) -> Image.Image:
  pixels = np.asarray(image)
  wide = np.pad(pixels, [(1, 0), (0, 0)] + [(0, 0)] * (pixels.ndim - 2), 'edge')
  return Image.fromarray(wide[:-1])


def cropped(image: Image.Image) -> Image.Image:
  width, height = image.size
  edge = max(1, round(0.05 * width / 2))
  box = (edge, edge, width - edge, height - edge)
  return image.crop(box).resize(image.size, Image.Resampling.BICUBIC)


KINDS = {
  'exact': lambda x: x,
  're-encoded as PNG': lambda x: encoded(x, 'PNG', optimize=True),
  'JPEG 90': lambda x: encoded(x, 'JPEG', quality=90),
  'JPEG 50': lambda x: encoded(x, 'JPEG', quality=50),
  'brightness +10 %': lambda x: brighter(x, 1.1),
  'brightness -10 %': lambda x: brighter(x, 0.9),
  'blur': lambda x: x.filter(ImageFilter.GaussianBlur(0.7)),
  'shift by 1 pixel': moved,
  'crop 5 %, resized': cropped,
  'mirror': lambda x: x.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
}


def read(path: str | None) -> tuple[np.ndarray, np.ndarray]:
  """Images uint8 [N, H, W, C], and what photograph each is a tile of.

  Tiles without texture are all alike, and left out.
  """
  if path is None:
    images = archives.fashion_mnist('').images
    return images, np.arange(len(images))
  with np.load(path) as arrays:
    images = arrays['images']
    source = arrays.get('photo', np.arange(len(images)))
  textured = images.std(axis=(1, 2)).max(axis=1) > 8
  return images[textured], source[textured]


def thirds(
  images: np.ndarray, source: np.ndarray, rng: np.random.Generator, most: int
) -> list[np.ndarray]:
  """Training images, held-out ones, look-alikes: of different photographs."""
  parts = np.array_split(rng.permutation(np.unique(source)), 3)
  rows = [rng.permutation(np.flatnonzero(np.isin(source, x))) for x in parts]
  return [images[x[:most]] for x in rows]


def audit(folder: pathlib.Path, sets: dict[str, np.ndarray], **keys):
  """Matches by setting, the distinct image of every example, and the low end of
  precision by setting.
  """
  folder.mkdir()
  config = folders_config.get_config()
  for name, images in sets.items():
    np.savez(folder / f'{name}.npz', images=images)
    config[name] = str(folder / f'{name}.npz')
  config.image_size = sets['training'].shape[1]
  config.nearest_sample.neighbours = 0
  with config.ignore_type():
    config.update_from_flattened_dict(keys)
  run = stages.run_stages(config, str(folder / 'run'), ('sample', 'attack'))
  matches = files.read_csv(run.path / 'extraction' / 'matches.csv')
  image = files.read_csv(run.examples)['image'].to_numpy()
  summary = files.read_csv(run.path / 'extraction' / 'summary.csv')
  rows = summary[
    (summary['target'] == 'pooled') & (summary['metric'] == 'precision')
  ].set_index('setting')
  return matches.assign(image=image[matches['index']]), image, rows['low']


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--images', help='npz; Fashion-MNIST if not given')
  parser.add_argument('--flip', action='store_true')
  parser.add_argument('--shift', type=int, default=0)
  parser.add_argument('--null', type=int, default=0)
  parser.add_argument('--seed', type=int, default=0)
  args = parser.parse_args()
  images, source = read(args.images)
  keys = {'flip': args.flip, 'extraction.shift': args.shift}
  rng = np.random.default_rng(args.seed)
  with tempfile.TemporaryDirectory() as scratch:
    training, holdout, others = thirds(images, source, rng, TRAINING)
    each = COPIES // len(KINDS)
    copies = [
      np.asarray(make(Image.fromarray(training[k * each + i].squeeze())))
      for k, make in enumerate(KINDS.values())
      for i in range(each)
    ]
    copies = np.stack(copies).reshape(-1, *images.shape[1:])
    begun = time.monotonic()
    found, image, _ = audit(
      pathlib.Path(scratch) / 'planted',
      {'training': training, 'holdout': holdout,
       'generated': np.concatenate([copies, others])},
      **keys,
    )  # fmt: skip
    seconds = time.monotonic() - begun
    for setting, rows in found.groupby('setting'):
      hit = set(rows[rows['half'] == 'training']['image'])
      planted = set(image[: len(copies)])
      print(json.dumps({
        'benchmark': 'copies', 'setting': setting, 'training': len(training),
        'look_alikes': len(others), 'flip': args.flip, 'shift': args.shift,
        'recall': {
          kind: sum(image[k * each + i] in hit for i in range(each)) / each
          for k, kind in enumerate(KINDS)
        },
        'found': len(hit),
        'false': len(hit - planted),
        'control': int((rows['half'] == 'control').sum()),
        'seconds': round(seconds, 1),
      }), flush=True)  # fmt: skip
    alarms = {'controlled': 0, 'paper': 0}
    for number in range(args.null):
      training, holdout, others = thirds(images, source, rng, 1000)
      if number % 2:
        # A tenth of the training images twice, with a little noise.
        noise = rng.integers(-2, 3, training[:100].shape)
        training = training.copy()
        training[100:200] = np.clip(training[:100].astype(int) + noise, 0, 255)
      found, _, low = audit(
        pathlib.Path(scratch) / f'null{number}',
        {'training': training, 'holdout': holdout, 'generated': others},
        **keys,
      )  # fmt: skip
      for setting in alarms:
        # Sure of a copy: some precision at the low end of a 95 % interval.
        alarms[setting] += int(low.get(setting, 0.0) > 0.0)
    if args.null:
      print(json.dumps({
        'benchmark': 'copies_null', 'generators': args.null, 'alarms': alarms,
      }), flush=True)  # fmt: skip


if __name__ == '__main__':
  main()
