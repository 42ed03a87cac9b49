"""What users bring to audits of their own, and small whole files of each.

Image sets, tables of prompts, embeddings, scores, and the guard's index; the
targets of `fuzz_loaders`, beside those of `fuzz_targets`.
"""

import io
import json
import pathlib
import random
import zipfile

import numpy as np
import pandas as pd

from tests.tools import fuzz_targets
from tests.tools.fuzz_targets import Files, Target, digest, encoded, pixels

_COUNT = 6


def _pictures() -> dict[str, bytes]:
  return {
    f'{"ab"[number % 2]}/{number}.png': encoded(image, 'PNG')
    for number, image in enumerate(pixels(_COUNT))
  }


def _decoded(folder: pathlib.Path, name: str) -> str:
  """Every image of a set, as an audit of folders reads it."""
  from jaxdiff.data import image_sets

  images_of = image_sets.open_set(str(folder / name), 'data.path')
  side, channels = images_of.first_shape()
  images = np.stack(
    list(images_of.decoded(range(len(images_of)), min(side, 16), channels))
  )
  return digest(images, images_of.labels)


def _set(name: str, make, inner=None, checked=()) -> Target:
  return Target(
    make=lambda rng: {name: make(rng)},
    load=lambda folder: _decoded(folder, name),
    damaged=(name,),
    inner=inner,
    checked=checked,
  )


def _zip(rng: random.Random) -> bytes:
  buffer = io.BytesIO()
  with zipfile.ZipFile(buffer, 'w') as archive:
    for name, content in _pictures().items():
      archive.writestr(zipfile.ZipInfo(name), content)
    if rng.random() < 0.5:  # StyleGAN's
      labels = [[name, 'ab'.index(name[0])] for name in _pictures()]
      archive.writestr(
        zipfile.ZipInfo('dataset.json'), json.dumps({'labels': labels})
      )
  return buffer.getvalue()


def _parquet(rng: random.Random) -> bytes:
  del rng
  rows = [
    {'image': {'bytes': content, 'path': name}, 'label': 'ab'.index(name[0])}
    for name, content in _pictures().items()
  ]
  buffer = io.BytesIO()
  pd.DataFrame(rows).to_parquet(buffer)
  return buffer.getvalue()


def _arrays(rng: random.Random) -> bytes:
  name = rng.choice(('images', 'arr_0', 'x'))
  return fuzz_targets.npz(**{name: pixels(_COUNT)})


def _prompts(kind: str) -> Target:
  names = list(_pictures())

  def make(rng: random.Random) -> Files:
    del rng
    rows = [{'file_name': name, 'text': name[0]} for name in names]
    if kind == 'csv':
      lines = ['file_name,text', *(','.join(row.values()) for row in rows)]
    else:
      lines = [json.dumps(row) for row in rows]
    return {f'metadata.{kind}': '\n'.join(lines).encode()}

  def load(folder: pathlib.Path) -> str:
    from jaxdiff.data.readers import prompts

    (path,) = folder.iterdir()
    return digest(prompts.of(str(path), names, 'data.path'))

  return Target(make=make, load=load, damaged=(f'metadata.{kind}',))


def _embeddings() -> Target:
  from jaxdiff.data import descriptors, image_sets

  sets = ('generated', 'training', 'holdout')

  def make(_: random.Random) -> Files:
    arrays = {
      name: np.random.default_rng(0).normal(size=(_COUNT, 4)) for name in sets
    }
    names = {f'{name}_names': np.array(list(_pictures())) for name in sets}
    return {'e.npz': fuzz_targets.npz(**arrays, **names)}

  def load(folder: pathlib.Path) -> str:
    images_of = [
      image_sets.of_contents(
        key, list(_pictures()), [''] * _COUNT, [], lambda row: b''
      )
      for key in sets
    ]
    made = descriptors.embeddings(
      str(folder / 'e.npz'), images_of[0], images_of[1:], np.arange(2 * _COUNT)
    )
    rows = np.arange(2 * _COUNT)
    return digest(made.describe(0, rows[:_COUNT])[0], made.describe(1, rows)[0])

  return Target(
    make=make,
    load=load,
    damaged=('e.npz',),
    checked=('e.npz',),
    inner=fuzz_targets.zipped_again,
  )


def _scores(kind: str) -> Target:
  rng = np.random.default_rng(0)
  shape = (4, 12)
  keep, scores = rng.random(shape) < 0.5, rng.normal(size=shape)

  def make(_: random.Random) -> Files:
    if kind == 'csv':
      lines = ['model,example,member,score'] + [
        f'{k},{n},{int(keep[k, n])},{scores[k, n]:.4f}'
        for k, n in np.ndindex(*shape)
      ]
      return {'scores.csv': '\n'.join(lines).encode()}
    sides = {'members': scores[keep], 'non_members': scores[~keep]}
    return {'scores.npz': fuzz_targets.npz(**sides)}

  def load(folder: pathlib.Path) -> str:
    from jaxdiff.data.readers import score_files

    (path,) = folder.iterdir()
    found = score_files.read(str(path))
    return digest(found.keep, *(column.values for column in found.columns))

  return Target(
    make=make,
    load=load,
    damaged=(f'scores.{kind}',),
    checked=('scores.npz',) if kind == 'npz' else (),
    inner=fuzz_targets.zipped_again if kind == 'npz' else None,
  )


def _guard() -> Target:
  def make(rng: random.Random, cache={}) -> Files:  # noqa: B006
    del rng
    if not cache:
      import tempfile

      from jaxdiff import guard

      with tempfile.TemporaryDirectory() as scratch:
        folder = pathlib.Path(scratch)
        np.savez(folder / 'a.npz', images=pixels(40))
        guard.build(str(folder / 'a.npz'), str(folder / 'a.guard'))
        cache['a.guard'] = (folder / 'a.guard').read_bytes()
    return dict(cache)

  def load(folder: pathlib.Path) -> str:
    from jaxdiff import guard

    index = guard.load(str(folder / 'a.guard'))
    return digest(index.check(pixels(1)[0]).distance)

  return Target(
    make=make, load=load, damaged=('a.guard',), checked=('a.guard',)
  )


def targets() -> dict[str, Target]:
  """Every reader of what users bring, by name."""
  return {
    'set_zip': _set('a.zip', _zip, fuzz_targets.zipped_again),
    'set_tar': _set(
      'a.tar', lambda rng: fuzz_targets.packed_tar(_pictures())
    ),
    'set_parquet': _set('a.parquet', _parquet),
    'set_npz': _set('a.npz', _arrays, fuzz_targets.zipped_again, ('a.npz',)),
    'prompts_csv': _prompts('csv'),
    'prompts_jsonl': _prompts('jsonl'),
    'embeddings': _embeddings(),
    'scores_csv': _scores('csv'),
    'scores_npz': _scores('npz'),
    'guard': _guard(),
  }  # fmt: skip
