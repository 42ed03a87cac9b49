"""Every fault of input, restart and files that was ever found, as a command.

    launch/local.sh python -m tests.tools.fault_commands [--only=REGEX]

Each row makes its own small inputs in a temporary folder, gives a command as a
user would, and says whether what was promised happened: a bad input is refused
in one line on standard error that names it, with exit code 2, before any long
work and in bounded memory; a good one is taken; what a run made is made again
to the same bytes, or refused. Prints a Markdown table, each row as it is done
with --progress, and exits with 1 if a row fails.

`lines` counts all lines on standard error and, in brackets, those that are no
log lines: where something is refused there must be one of these.

    --only=REGEX   rows whose id (`A.export_tmp`) matches, from its start
    --out=FILE     write the table there too
    --list         print ids and faults alone
    --lab=FOLDER   keep there what rows share (a finished audit), for next time
    --whole        let what is not refused run to its end
    --spawn        start every command as a process of its own (5 s each more)
"""

import argparse
from collections.abc import Callable, Sequence
import contextlib
import csv
import dataclasses
import gzip
import io
import json
import os
import pathlib
import pickle
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib

import numpy as np
from PIL import Image

from tests.tools import commands
from tests.tools.commands import Done, accepted, either, refused

# The smallest run there is: two nets on 32 images of 8 x 8.
CONFIG = """
from configs import digits


def get_config(arg=None):
  c = digits.get_config()
  c.num_models, c.num_samples = 2, 16
  c.data.num_examples = 32
  c.model.block_out_channels = (4, 4)
  c.model.norm_num_groups = 2
  c.model.add_attention = False
  c.model.attention_head_dim = 0
  c.train.num_steps, c.train.batch_size, c.train.warmup_steps = 4, 8, 1
  c.train.log_every = c.train.checkpoint_every = 2
  c.sample.num_steps = 2
  c.sample.batch_size = c.sample.block_size = 16
  c.signals.timesteps, c.signals.draws = (50, 100), 1
  c.signals.batch_size = c.signals.block_size = 16
  c.membership.num_resamples = 40
  c.side.num_learned, c.side.num_clusters = 16, 2
  c.side.num_steps, c.side.batch_size = 2, 8
  c.side.channels = (4, 4)
  c.inpainting.draws, c.inpainting.kept, c.inpainting.num_steps = 2, 1, 2
  c.inpainting.jump_length = c.inpainting.jump_n_sample = 1
  c.inpainting.loss_draws, c.inpainting.batch_size = 1, 4
  return c
"""
Verdict = tuple[Done | None, list[str]]


class Lab:
  """What several rows share, made when first asked for."""

  def __init__(self, folder: pathlib.Path, preload: bool, whole: bool):
    self.folder = folder
    self.preload = preload
    self.whole = whole
    self.config = folder / 'tiny.py'
    self.config.write_text(CONFIG)
    shutil.rmtree(folder / 'said', ignore_errors=True)
    self._made = {}

  def once(self, name: str, make: Callable[[pathlib.Path], Done]):
    """The folder `name` as `make` left it."""
    path = self.folder / name
    if name not in self._made and (self.folder / f'{name}.made').exists():
      self._made[name] = path
    if name not in self._made:
      shutil.rmtree(path, ignore_errors=True)
      done = make(path)
      if accepted(done):
        raise RuntimeError(f'{name} could not be made: {done.last}')
      (self.folder / f'{name}.made').touch()
      self._made[name] = path
    return self._made[name]

  def base(self) -> pathlib.Path:
    """A finished audit."""
    return self.once('base', lambda path: self._long('audit', path))

  def other(self) -> pathlib.Path:
    """One of slightly other nets on the same images."""
    return self.once(
      'other',
      lambda path: self._long('audit', path, *sub(model__norm_eps=1e-3)),
    )

  def net(self, seed: int = 0) -> pathlib.Path:
    """A diffusers folder for these nets."""

    def make(path: pathlib.Path) -> Done:
      more = sub(seed=seed, num_models=1, train__num_steps=1)
      self._long('train', path.with_name(f'{path.name}-run'), *more)
      return self._long(
        'export', path.with_name(f'{path.name}-run'), *more, f'--out={path}'
      )

    return self.once(f'net-{seed}', make)

  def _long(self, verb: str, workdir, *args) -> Done:
    return self.launch(verb, workdir, *args, whole=True, timeout=600)

  def launch(self, verb: str, workdir, *args, **how) -> Done:
    """A launcher on the tiny config, where args name no other.

    In a new folder it is ended when work begins, unless `whole` says to let it
    run or something is to happen after its start.
    """
    fresh = workdir is not None and not os.path.exists(
      os.path.join(os.fsdecode(os.fspath(workdir)), 'config.json')
    )
    whole = how.pop('whole', self.whole or 'after' in how)
    how['until_work'] = fresh and not whole
    own = {arg.partition('=')[0] for arg in map(str, args)}
    flags = {'--cpu_devices': '1', '--config': self.config}
    if workdir is not None:
      flags['--workdir'] = os.fsdecode(os.fspath(workdir))
    flags = [f'{k}={v}' for k, v in flags.items() if k not in own]
    how.setdefault('preload', self.preload)
    return commands.launch(
      self.folder / 'said', verb, *flags, *map(str, args), **how
    )


@dataclasses.dataclass
class Case:
  """One row at work: its own folder, and the lab."""

  folder: pathlib.Path
  lab: Lab

  @property
  def run(self) -> pathlib.Path:
    return self.folder / 'run'

  def launch(self, verb: str, *args, **how) -> Done:
    return self.lab.launch(verb, how.pop('workdir', self.run), *args, **how)

  def train(self, *args, **how) -> Done:
    return self.launch('train', *args, **how)

  def copy(self, source: pathlib.Path | None = None) -> pathlib.Path:
    """A copy of the finished audit, as this row's run."""
    shutil.copytree(source or self.lab.base(), self.run, symlinks=True)
    return self.run

  def config(self, text: str) -> str:
    """--config of a file with more lines before `return c`."""
    path = self.folder / 'own.py'
    path.write_text(CONFIG.replace('  return c\n', f'{text}\n  return c\n'))
    return f'--config={path}'


ROWS: dict[str, tuple[str, Callable[[Case], Verdict]]] = {}


def row(name: str, fault: str):
  """Registers a row."""

  def add(work: Callable[[Case], Verdict]):
    if name in ROWS:
      raise ValueError(f'two rows {name}')
    ROWS[name] = fault, work
    return work

  return add


def sub(**overrides) -> list[str]:
  """Flags of overrides, `train__num_steps=1`."""
  return [
    f'--config.{key.replace("__", ".")}={value}'
    for key, value in overrides.items()
  ]


def pixels(count: int = 32, size: int = 8, channels: int = 1) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, size, size, channels), np.uint8)


def picture(i: int = 0, **how) -> Image.Image:
  array = pixels(i + 1, **how)[i]
  return Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)


def encoded(image: Image.Image, kind: str = 'PNG', **options) -> bytes:
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


def images(folder: pathlib.Path, names: Sequence[str] | int = 32):
  """Image files; 32 of them have the shape that is compiled already."""
  folder.mkdir(parents=True, exist_ok=True)
  names = names if isinstance(names, Sequence) else [
    f'{i}.png' for i in range(names)
  ]  # fmt: skip
  for i, name in enumerate(names):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encoded(picture(i)))
  return folder


def source(name: str, path, **more) -> list[str]:
  return sub(
    data__name=name, data__path=os.fsdecode(os.fspath(path)),
    data__num_examples=0, **more,
  )  # fmt: skip


def folder_of(path, **more) -> list[str]:
  return source(
    'image_folder', path,
    **{'data__image_size': 8, 'data__channels': 1} | more,
  )  # fmt: skip


def npz(path: pathlib.Path, **arrays) -> list[str]:
  np.savez(path, **arrays)
  return source('npz', path)


def cells(path: pathlib.Path, column: str) -> list[str]:
  with open(path, newline='') as file:
    return [line[column] for line in csv.DictReader(file)]


def rewrite(path: pathlib.Path, **changes) -> None:
  """An npz with some arrays changed by functions."""
  with np.load(path) as block:
    arrays = {name: block[name] for name in block.files}
  np.savez(path, **arrays | {k: f(arrays[k]) for k, f in changes.items()})


def swap(one: pathlib.Path, two: pathlib.Path) -> None:
  a, b = one.read_bytes(), two.read_bytes()
  one.write_bytes(b)
  two.write_bytes(a)


def same(
  run: pathlib.Path, base: pathlib.Path, patterns=('**/*.csv', 'report.html')
) -> list[str]:
  """What differs between the tables and reports of two runs."""
  names = {
    str(path.relative_to(where))
    for where in (run, base)
    for pattern in patterns
    for path in where.glob(pattern)
    if 'tensorboard' not in path.parts
  }
  different = [
    name
    for name in sorted(names)
    if not (run / name).is_file()
    or not (base / name).is_file()
    or (run / name).read_bytes() != (base / name).read_bytes()
  ]
  return [f'differs: {" ".join(different[:3])}'] if different else []


def same_or_refused(t: Case, done: Done) -> list[str]:
  if done.code == 0 and not done.traceback:
    return same(t.run, t.lab.base())
  return refused(done, late=True)


def drop_tables(run: pathlib.Path) -> None:
  """Leaves evidence: models, samples, signals, neighbours."""
  for name in ('membership', 'extraction', 'quality.csv', 'report.html'):
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def half(path: pathlib.Path) -> None:
  content = path.read_bytes()
  path.write_bytes(content[: len(content) // 2])


# A. Data lost, code run, writing outside the folder.


@row('A.export_tmp', 'export deletes a folder called X.tmp')
def _(t: Case) -> Verdict:
  (t.folder / 'thesis.tmp').mkdir()
  precious = t.folder / 'thesis.tmp' / 'chapter.txt'
  precious.write_text('all')
  done = t.launch(
    'export', f'--out={t.folder / "thesis"}', workdir=t.lab.base()
  )
  wrong = [] if precious.exists() else ['side effect: the folder is gone']
  return done, wrong + either(done)


@row('A.export_tmp_file', 'export where X.tmp is a file')
def _(t: Case) -> Verdict:
  precious = t.folder / 'thesis.tmp'
  precious.write_text('all')
  done = t.launch(
    'export', f'--out={t.folder / "thesis"}', workdir=t.lab.base()
  )
  wrong = [] if precious.exists() else ['side effect: the file is gone']
  return done, wrong + either(done)


@row('A.export_tmp_link', 'export where X.tmp is a link to a folder')
def _(t: Case) -> Verdict:
  (t.folder / 'elsewhere').mkdir()
  (t.folder / 'elsewhere' / 'chapter.txt').write_text('all')
  (t.folder / 'thesis.tmp').symlink_to(t.folder / 'elsewhere')
  done = t.launch(
    'export', f'--out={t.folder / "thesis"}', workdir=t.lab.base()
  )
  there = [path.name for path in (t.folder / 'elsewhere').iterdir()]
  wrong = [] if there == ['chapter.txt'] else [f'side effect: {there}']
  return done, wrong + either(done)


@row('A.export_leaves', 'export that fails leaves its temporary folder')
def _(t: Case) -> Verdict:
  done = t.launch(
    'export',
    f'--out={t.folder / "new" / "thesis"}',
    workdir=t.lab.base(),
    limits={commands.resource.RLIMIT_FSIZE: 1000},
  )
  rest = [str(path.relative_to(t.folder)) for path in t.folder.rglob('*')]
  rest = [name for name in rest if name != 'new']
  wrong = [f'side effect: left {rest[:2]}'] if rest else []
  return done, wrong + refused(done)


def tfds_set(folder: pathlib.Path) -> pathlib.Path:
  """What TFDS prepares of 32 images, without TensorFlow."""
  from array_record.python import array_record_module
  import tensorflow_datasets as tfds
  from tensorflow_datasets import proto

  home = folder / 'tiny' / '1.0.0'
  home.mkdir(parents=True)
  tfds.features.FeaturesDict(
    {
      'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
      'label': tfds.features.ClassLabel(num_classes=3),
    }
  ).save_config(home)
  writer = array_record_module.ArrayRecordWriter(
    str(home / 'tiny-train.array_record-00000-of-00001'), 'group_size:1'
  )
  for i in range(32):
    example = proto.tf_example_pb2.Example()
    example.features.feature['image'].bytes_list.value.append(
      encoded(picture(i))
    )
    example.features.feature['label'].int64_list.value.append(i % 3)
    writer.write(example.SerializeToString())
  writer.close()
  (home / 'dataset_info.json').write_text(
    json.dumps({
      'name': 'tiny', 'version': '1.0.0', 'fileFormat': 'array_record',
      'splits': [{
        'name': 'train', 'shardLengths': ['32'], 'numBytes': '1',
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }],
    })
  )  # fmt: skip
  return home


def tfds_apart(folder: pathlib.Path) -> pathlib.Path:
  commands.apart(tfds_set, folder)
  return folder / 'tiny' / '1.0.0'


@row('A.tfds_whole', '(control) a set of TFDS is read')
def _(t: Case) -> Verdict:
  tfds_apart(t.folder)
  done = t.train(*source('tfds', t.folder, data__tfds_name='tiny'))
  return done, accepted(done)


@row('A.tfds_module', 'features.json of TFDS imports any module by name')
def _(t: Case) -> Verdict:
  home = tfds_apart(t.folder)
  path = home / 'features.json'
  features = json.loads(path.read_text())
  features['pythonClassName'] = 'this.Feature'
  path.write_text(json.dumps(features))
  done = t.train(*source('tfds', t.folder, data__tfds_name='tiny'))
  ran = 'Zen of Python' in done.out
  return done, ['side effect: the module ran'] * ran + refused(done)


@row('A.tfds_module_inner', 'the same, of a feature within')
def _(t: Case) -> Verdict:
  home = tfds_apart(t.folder)
  path = home / 'features.json'
  text = path.read_text().replace(
    'tensorflow_datasets.core.features.class_label_feature.ClassLabel',
    'this.Feature',
  )
  path.write_text(text)
  done = t.train(*source('tfds', t.folder, data__tfds_name='tiny'))
  ran = 'Zen of Python' in done.out
  return done, ['side effect: the module ran'] * ran + refused(done)


@row('A.tfds_name', 'tfds_name that names a module, a URL or a folder above')
def _(t: Case) -> Verdict:
  tfds_apart(t.folder)
  for name in ('huggingface:squad', '../tiny', 'this', 'kaggle:x', 'a' * 5000):
    done = t.train(*source('tfds', t.folder, data__tfds_name=name), timeout=30)
    wrong = ['side effect: ran'] * ('Zen' in done.out) + refused(done)
    if wrong:
      return done, [f'{wrong[0]}: {name[:20]}', *wrong[1:]]
  return done, []


@row('A.eps', 'an EPS named cat.png starts Ghostscript')
def _(t: Case) -> Verdict:
  tools = t.folder / 'bin'
  tools.mkdir()
  (tools / 'gs').write_text(f'#!/bin/sh\ntouch {t.folder / "ran"}\n')
  (tools / 'gs').chmod(0o755)
  images(t.folder / 'set', 31)
  (t.folder / 'set' / 'cat.png').write_text(
    '%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\n'
    'showpage\n%%EOF\n'
  )
  done = t.train(
    *folder_of(t.folder / 'set'),
    env={'PATH': f'{tools}:{os.environ["PATH"]}'},
  )
  ran = (t.folder / 'ran').exists()
  return done, ['side effect: gs ran'] * ran + refused(done, 'cat.png')


def _add_format(kind: str) -> None:
  @row(f'A.format_{kind.lower()}', f'{kind} named cat.png is decoded')
  def _(t: Case) -> Verdict:
    images(t.folder / 'set', 31)
    image = picture(size=16)
    if kind in ('BLP',):
      image = image.convert('P')
    if kind in ('DDS', 'AVIF', 'PCX', 'ICNS', 'QOI'):
      image = image.convert('RGB')
    if kind == 'MSP' or kind == 'XBM':
      image = image.convert('1')
    if kind == 'SPIDER':
      image = image.convert('F')
    (t.folder / 'set' / 'cat.png').write_bytes(encoded(image, kind))
    done = t.train(*folder_of(t.folder / 'set'))
    return done, refused(done, 'cat.png')


for _kind in (
  'DDS', 'BLP', 'AVIF', 'JPEG2000', 'TGA', 'ICO', 'PCX', 'SGI', 'IM', 'MSP',
  'XBM', 'QOI', 'SPIDER', 'ICNS',
):  # fmt: skip
  _add_format(_kind)


def _add_linked(name: str, victim_of: str) -> None:
  @row(
    f'A.link_{victim_of.replace("/", "_")}',
    f'a link at {name} is written through',
  )
  def _(t: Case) -> Verdict:
    run = t.copy()
    victim = t.folder / 'victim'
    victim.write_text('precious')
    made = run / victim_of
    made.unlink(missing_ok=True)
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    done = t.launch('audit')
    hurt = victim.read_bytes() != b'precious'
    return done, ['side effect: written through'] * hurt + either(done)


for _name, _made in (
  ('.report.html.tmp', 'report.html'),
  ('membership/.summary.csv.tmp', 'membership/summary.csv'),
  ('.metrics.csv.tmp', 'metrics.csv'),
  ('extraction/.summary.csv.tmp', 'extraction/summary.csv'),
  ('samples/model-000/.00000000.npz.tmp', 'samples/model-000/00000000.npz'),
  ('logs/process-000.log', 'logs/process-000.log'),
):
  _add_linked(_name, _made)


@row('A.link_config', 'a link at .config.json.tmp in a new folder')
def _(t: Case) -> Verdict:
  victim = t.folder / 'victim'
  victim.write_text('precious')
  t.run.mkdir()
  (t.run / '.config.json.tmp').symlink_to(victim)
  done = t.train()
  hurt = victim.read_bytes() != b'precious'
  return done, ['side effect: written through'] * hurt + either(done)


# B. Wrong result, exit 0, no word.


def _add_override(name: str, fault: str, verb='train', part='', **overrides):
  @row(name, fault)
  def _(t: Case) -> Verdict:
    done = t.launch(verb, *sub(**overrides), timeout=25)
    key = part or next(iter(overrides)).replace('__', '.')
    return done, refused(done, key)


_add_override(
  'B.betas_zero', 'beta_start = beta_end = 0', 'audit', 'diffusion.beta',
  diffusion__beta_start=0.0, diffusion__beta_end=0.0,
)  # fmt: skip
_add_override(
  'B.betas_swapped', 'beta_start above beta_end', part='diffusion.beta',
  diffusion__beta_start=0.5, diffusion__beta_end=0.1,
)  # fmt: skip
_add_override('B.beta_end_one', 'beta_end = 1', diffusion__beta_end=1.0)
_add_override('B.side_rate_inf', 'SIDE with an infinite rate', 'audit',
  'side.learning_rate', side__learning_rate='inf',
  side__num_samples=16, num_samples=32)  # fmt: skip
_add_override('B.side_scale_inf', 'SIDE with an infinite scale', 'audit',
  'side.scale', side__scale='inf', side__num_samples=16,
  num_samples=32)  # fmt: skip
for _key in ('learning_rate', 'weight_decay', 'clip_norm'):
  for _value in ('inf', 'nan'):
    _add_override(f'B.train_{_key}_{_value}', f'train.{_key}={_value}',
      **{f'train__{_key}': _value})  # fmt: skip


@row('B.rate_1e15', 'learning_rate 1e15, one step: meaningless, "0 %"')
def _(t: Case) -> Verdict:
  done = t.launch(
    'audit', *sub(train__learning_rate=1e15, train__num_steps=2,
                  train__warmup_steps=0), whole=True, timeout=120,
  )  # fmt: skip
  said = any(
    word in done.err
    for word in ('finite', 'equal', 'constant', 'identical', 'learning_rate')
  )
  wrong = either(done)
  return done, wrong or ([] if said else ['accepted'])


@row('B.init_swapped', 'model.init_from swapped between growing a run')
def _(t: Case) -> Verdict:
  net = t.folder / 'net'
  shutil.copytree(t.lab.net(0), net)
  first = t.train(*sub(model__init_from=net, num_models=2), whole=True)
  if first.code:
    return first, either(first)
  shutil.rmtree(net)
  shutil.copytree(t.lab.net(1), net)
  done = t.train(*sub(model__init_from=net, num_models=4))
  return done, refused(done)


@row('B.init_same', '(control) the same init_from at another path')
def _(t: Case) -> Verdict:
  net = t.folder / 'net'
  shutil.copytree(t.lab.net(0), net)
  first = t.train(*sub(model__init_from=net), whole=True)
  if first.code:
    return first, either(first)
  net.rename(t.folder / 'moved')
  done = t.train(*sub(model__init_from=t.folder / 'moved'))
  return done, accepted(done)


@row('B.init_scheduler', "init_from ignores the folder's scheduler")
def _(t: Case) -> Verdict:
  net = t.folder / 'net'
  shutil.copytree(t.lab.net(0), net)
  path = net / 'scheduler' / 'scheduler_config.json'
  scheduler = json.loads(path.read_text()) | {
    'prediction_type': 'v_prediction', 'beta_schedule': 'squaredcos_cap_v2',
  }  # fmt: skip
  path.write_text(json.dumps(scheduler))
  done = t.train(*sub(model__init_from=net))
  return done, refused(done)


def weights(net: pathlib.Path) -> pathlib.Path:
  return net / 'unet' / 'diffusion_pytorch_model.safetensors'


def _add_weights(name: str, change, good: bool = False) -> None:
  @row(f'{"D" if good else "B"}.weights_{name}', f'{name} weights of init_from')
  def _(t: Case) -> Verdict:
    from safetensors import numpy as safetensors_numpy

    net = t.folder / 'net'
    shutil.copytree(t.lab.net(0), net)
    state = safetensors_numpy.load(weights(net).read_bytes())
    weights(net).write_bytes(
      safetensors_numpy.save({k: change(v) for k, v in state.items()})
    )
    done = t.train(*sub(model__init_from=net))
    return done, (accepted if good else refused)(done)


def _put(value):
  def change(array):
    array = array.copy()
    array.reshape(-1)[0] = value
    return array

  return change


_add_weights('int8', lambda a: a.astype(np.int8))
_add_weights('bool', lambda a: a > 0)
_add_weights('int64', lambda a: a.astype(np.int64))
_add_weights('nan', _put(np.nan))
_add_weights('inf', _put(np.inf))
_add_weights('float64_overflow', lambda a: _put(1e300)(a.astype(np.float64)))
_add_weights('float16', lambda a: a.astype(np.float16), good=True)
_add_weights('float64', lambda a: a.astype(np.float64), good=True)


def _add_column(name: str, head: str, good: bool = False) -> None:
  @row(f'B.column_{name}', f'metadata.csv with columns {head!r}')
  def _(t: Case) -> Verdict:
    images(t.folder / 'set')
    lines = [head] + [
      ','.join([f'{i}.png', str(i % 8), str(i % 4)][: head.count(',') + 1])
      for i in range(32)
    ]
    (t.folder / 'set' / 'metadata.csv').write_text('\n'.join(lines) + '\n')
    done = t.train(*folder_of(t.folder / 'set'))
    return done, accepted(done) if good else refused(done, 'metadata.csv')


_add_column('whole', 'file_name,group,label', good=True)
for _name, _head in (
  ('group_case', 'file_name,Group'),
  ('group_plural', 'file_name,groups'),
  ('group_space', 'file_name, group'),
  ('label_space', 'file_name,group, label'),
  ('label_plural', 'file_name,labels'),
  ('unknown', 'file_name,group,person'),
  ('twice', 'file_name,group,group'),
  ('file_name_case', 'File_Name,group'),
  ('homoglyph', 'file_name,gr\N{CYRILLIC SMALL LETTER O}up'),
  ('bom_inside', 'file_name,\ufeffgroup'),
):
  _add_column(_name, _head)


def _add_rows(name: str, fault: str, names: Sequence[str], prepare=None):
  @row(f'B.rows_{name}', f'metadata.csv: {fault}')
  def _(t: Case) -> Verdict:
    images(t.folder / 'set')
    if prepare is not None:
      prepare(t.folder / 'set')
    (t.folder / 'set' / 'metadata.csv').write_text(
      '\n'.join(['file_name', *names]) + '\n'
    )
    done = t.train(*folder_of(t.folder / 'set'))
    return done, refused(done)


_all = [f'{i}.png' for i in range(32)]
_add_rows('twice', 'rows twice', _all + _all)
_add_rows('dot', 'rows again as ./1.png', [*_all, *(f'./{x}' for x in _all)])
_add_rows('slashes', 'a row again as .//1.png', [*_all, './/1.png'])
_add_rows('above', 'a row again as a/../1.png', [*_all, 'a/../1.png'],
  lambda p: (p / 'a').mkdir())  # fmt: skip
_add_rows('link', 'a row again by a link', [*_all, 'l.png'],
  lambda p: (p / 'l.png').symlink_to('1.png'))  # fmt: skip
_add_rows('hard_link', 'a row again by a hard link', [*_all, 'l.png'],
  lambda p: os.link(p / '1.png', p / 'l.png'))  # fmt: skip


def _add_odd(name: str, fault: str, prepare, part: str) -> None:
  """Something that is left out: refused, or said."""

  @row(f'B.odd_{name}', fault)
  def _(t: Case) -> Verdict:
    images(t.folder / 'set')
    prepare(t.folder / 'set')
    done = t.train(*folder_of(t.folder / 'set'), timeout=40)
    wrong = either(done)
    if not wrong and part not in done.err:
      wrong = ['accepted: not said']
    return done, wrong


_table = 'file_name,group\n' + ''.join(f'{i}.png,{i % 4}\n' for i in range(32))


def _in_subfolder(root: pathlib.Path) -> None:
  images(root / 'sub', 4)
  (root / 'sub' / 'metadata.csv').write_text('file_name\n0.png\n')


_add_odd('folder', 'metadata.csv is a folder',
  lambda p: (p / 'metadata.csv').mkdir(), 'metadata.csv')  # fmt: skip
_add_odd('dangling', 'metadata.csv is a dangling link',
  lambda p: (p / 'metadata.csv').symlink_to('gone'), 'metadata.csv',
)  # fmt: skip
_add_odd('fifo', 'metadata.csv is a FIFO',
  lambda p: os.mkfifo(p / 'metadata.csv'), 'metadata.csv')  # fmt: skip
_add_odd('case', 'Metadata.CSV',
  lambda p: (p / 'Metadata.CSV').write_text(_table), 'etadata.')  # fmt: skip
_add_odd('jsonl', 'metadata.jsonl',
  lambda p: (p / 'metadata.jsonl').write_text(
    ''.join(f'{{"file_name": "{i}.png", "group": {i % 4}}}\n'
            for i in range(32))), 'metadata.jsonl')  # fmt: skip
_add_odd('parquet', 'metadata.parquet',
  lambda p: (p / 'metadata.parquet').write_bytes(b'PAR1'), 'metadata.parquet',
)  # fmt: skip
_add_odd('subfolder', 'metadata.csv in a sub-folder', _in_subfolder,
  'metadata.csv')  # fmt: skip
for _suffix in ('heic', 'jfif', 'jpe', 'avif', 'npy', 'zip'):
  _add_odd(f'kind_{_suffix}', f'a file of an unread kind, .{_suffix}',
    lambda p, s=_suffix: (p / f'photo.{s}').write_bytes(b'x'), _suffix,
  )  # fmt: skip


def cifar_members(kind: str = 'binary', rows: int = 8) -> dict[str, bytes]:
  """Five small batches, as the official archives name them."""
  rng = np.random.default_rng(0)
  out = {}
  for i in range(1, 6):
    data = rng.integers(0, 256, (rows, 3072), np.uint8)
    labels = rng.integers(0, 10, rows)
    if kind == 'binary':
      content = np.concatenate([labels[:, None].astype(np.uint8), data], 1)
      out[f'data_batch_{i}.bin'] = content.tobytes()
    else:
      out[f'data_batch_{i}'] = pickle.dumps(
        {b'data': data, b'labels': labels.tolist()}, protocol=2
      )
  return out


def tar(path: pathlib.Path, members: dict[str, bytes], mode: str = 'w:gz'):
  with tarfile.open(path, mode) as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(f'cifar-10-batches-bin/{name}')
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return path


def cifar(path: pathlib.Path) -> list[str]:
  return source('cifar10', path)


@row('B.cifar_rows', 'a CIFAR archive with 8 rows a batch')
def _(t: Case) -> Verdict:
  # Another set in CIFAR-10's format may be what is wanted: it is said.
  done = t.train(*cifar(tar(t.folder / 'c.tar.gz', cifar_members())))
  wrong = either(done, 'c.tar.gz')
  if done.code == 0 and 'is not the official CIFAR-10' not in done.err:
    wrong.append('accepted without a word')
  return done, wrong


@row('B.cifar_crc', "gzip's checksum is never reached")
def _(t: Case) -> Verdict:
  path = tar(t.folder / 'c.tar.gz', cifar_members())
  content = bytearray(path.read_bytes())
  content[-8] ^= 1
  path.write_bytes(content)
  done = t.train(*cifar(path))
  return done, refused(done, 'c.tar.gz')


@row('B.cifar_flip', 'a flipped bit within: other pixels')
def _(t: Case) -> Verdict:
  path = tar(t.folder / 'c.tar.gz', cifar_members())
  content = bytearray(path.read_bytes())
  content[len(content) * 3 // 4] ^= 1
  path.write_bytes(content)
  done = t.train(*cifar(path))
  return done, refused(done, 'c.tar.gz')


@row('B.cifar_twice', 'a batch that comes twice in the archive')
def _(t: Case) -> Verdict:
  path = t.folder / 'c.tar'
  tar(path, cifar_members(), 'w')
  with tarfile.open(path, 'a') as archive:
    info = tarfile.TarInfo('other/data_batch_1.bin')
    content = bytes(8 * 3073)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))
  done = t.train(*cifar(path))
  return done, refused(done, 'c.tar')


@row('B.idx_trailer', 'a gzip of IDX with a wrong checksum')
def _(t: Case) -> Verdict:
  for name, head, size in (
    ('images-idx3', struct.pack('>IIII', 0x803, 32, 8, 8), 32 * 64),
    ('labels-idx1', struct.pack('>II', 0x801, 32), 32),
  ):
    content = bytearray(gzip.compress(head + bytes(size)))
    content[-8] ^= name.startswith('images')
    (t.folder / f'train-{name}-ubyte.gz').write_bytes(content)
  done = t.train(*source('fashion_mnist', t.folder))
  return done, refused(done, 'images-idx3')


@row('B.float_tiff', 'float TIFF in [0, 1]: divided by 257, black')
def _(t: Case) -> Verdict:
  folder = t.folder / 'set'
  folder.mkdir()
  for i, one in enumerate(pixels()):
    Image.fromarray(one[..., 0].astype(np.float32) / 255).save(
      folder / f'{i}.tif'
    )
  done = t.train(*folder_of(folder))
  return done, refused(done, '.tif')


@row('B.int32_tiff', '32-bit TIFF beyond 65,535: white')
def _(t: Case) -> Verdict:
  folder = t.folder / 'set'
  folder.mkdir()
  for i, one in enumerate(pixels()):
    Image.fromarray(one[..., 0].astype(np.int32) * 2**22).save(
      folder / f'{i}.tif'
    )
  done = t.train(*folder_of(folder))
  return done, refused(done, '.tif')


@row('B.metrics_part', 'a truncated metrics part: metrics.csv differs')
def _(t: Case) -> Verdict:
  run = t.copy()
  half(sorted(run.glob('models-*/metrics/*.csv'))[-1])
  (run / 'metrics.csv').unlink()
  done = t.launch('audit')
  return done, same_or_refused(t, done)


def _add_table(name: str, file: str, damage, fault: str, verb='report') -> None:
  @row(f'B.{verb}_{name}', f'{fault}: {file}, then launch.{verb}')
  def _(t: Case) -> Verdict:
    run = t.copy()
    damage(run / file)
    if verb == 'report':
      (run / 'report.html').unlink()
    done = t.launch(verb)
    return done, same_or_refused(t, done)


def _digit(path: pathlib.Path) -> None:
  """Another number in the last line."""
  head, _, last = path.read_text().rstrip('\n').rpartition('\n')
  last = re.sub(r'\d', lambda m: str((int(m[0]) + 1) % 10), last, count=1)
  path.write_text(f'{head}\n{last}\n')


def _fewer(path: pathlib.Path) -> None:
  path.write_text('\n'.join(path.read_text().split('\n')[:-2]) + '\n')


for _name, _file in (
  ('summary', 'membership/summary.csv'),
  ('roc', 'membership/roc.csv'),
  ('matches', 'extraction/matches.csv'),
  ('extraction', 'extraction/summary.csv'),
  ('metrics', 'metrics.csv'),
  ('quality', 'quality.csv'),
):
  _add_table(f'{_name}_half', _file, half, 'a table cut to half')
  _add_table(f'{_name}_digit', _file, _digit, 'another digit in a table')
_add_table('summary_rows', 'membership/summary.csv', _fewer, 'a row less')
_add_table('summary_empty', 'membership/summary.csv',
  lambda p: p.write_text(''), 'an empty table')  # fmt: skip
_add_table('summary_folder', 'membership/summary.csv',
  lambda p: (p.unlink(), p.mkdir()), 'a folder for a table')  # fmt: skip
_add_table('summary_half', 'membership/summary.csv', half,
  'a table cut to half', 'audit')  # fmt: skip
_add_table('metrics_half', 'metrics.csv', half, 'a table cut to half', 'audit')


def _add_annotations(name: str, content: bytes, good=False, row_id='B') -> None:
  @row(f'{row_id}.annotations_{name}', f'annotations.csv: {content[-60:]!r}')
  def _(t: Case) -> Verdict:
    run = t.copy()
    (run / 'annotations.csv').write_bytes(content)
    done = t.launch('audit')
    if good:
      return done, accepted(done)
    return done, refused(done, 'annotations.csv')


_head = b'model,sample,memorised\n'
_add_annotations('whole', _head + b'0,1,yes\n1,2,no\n', good=True)
for _name, _content in (
  ('model_name', b'model-000,1,yes\n'),
  ('fraction', b'1.5,1,yes\n'),
  ('blank', b',1,yes\n'),
  ('blank_verdict', b'0,1,\n'),
  ('model_9', b'9,1,yes\n'),
  ('sample_999', b'0,999,yes\n'),
  ('negative', b'-1,1,yes\n'),
  ('maybe', b'0,1,maybe\n'),
  ('both', b'0,1,yes\n0,1,no\n'),
  ('huge', b'99999999999999999999,1,yes\n'),
):
  _add_annotations(_name, _head + _content)
_add_annotations('utf16', (_head + b'0,1,yes\n').decode().encode('utf-16'),
  row_id='D')  # fmt: skip
_add_annotations('empty', b'', row_id='D')
_add_annotations('quote', _head + b'0,1,"yes\n', row_id='D')
_add_annotations('head', b'model,sample\n0,1\n', row_id='D')
_add_annotations('nul', _head + b'0,1,\0\n', row_id='D')


@row('B.annotations_gone', 'verdicts stay after annotations.csv is gone')
def _(t: Case) -> Verdict:
  run = t.copy()
  (run / 'annotations.csv').write_bytes(_head + b'0,1,yes\n')
  first = t.launch('audit')
  if first.code:
    return first, accepted(first)
  (run / 'annotations.csv').unlink()
  done = t.launch('audit')
  return done, same_or_refused(t, done)


def _add_numbers(name: str, key: str, values, **more) -> None:
  @row(f'B.npz_{name}', f'{key} of an npz: {name.replace("_", " ")}')
  def _(t: Case) -> Verdict:
    flags = npz(
      t.folder / 'a.npz', images=pixels(), **{key: np.asarray(values)}
    )
    done = t.train(*flags, *sub(**more), timeout=40)
    wrong = either(done)
    if done.code == 0 and not wrong:
      # Taken: then as what they are, and not what an int32 makes of them.
      column = {'labels': 'label', 'group': 'group'}[key]
      kept = cells(t.run / 'examples.csv', column)
      names = cells(t.run / 'classes.csv', 'name')
      if key == 'labels':
        kept = [names[int(label)] for label in kept]
        wrong = [] if kept == [str(x) for x in values] else ['other labels']
      elif len(set(zip(kept, values, strict=True))) != len(set(values)):
        wrong = ['other groups']
    return done, wrong


_k = np.arange(32) % 4
_add_numbers('label_2_31', 'labels', _k + 2**31)
_add_numbers('label_2_32', 'labels', _k + 2**32)
_add_numbers('label_uint64', 'labels', _k.astype(np.uint64) + np.uint64(2**63))
_add_numbers('label_huge', 'labels', _k + 10**9, model__class_conditional=True)
_add_numbers('group_2_32', 'group', _k * 2**32)
_add_numbers('group_2_31', 'group', _k + 2**31)


@row('B.group_2_32_split', 'groups that differ by 2^32 become one')
def _(t: Case) -> Verdict:
  flags = npz(t.folder / 'a.npz', images=pixels(), group=_k * 2**32)
  done = t.train(*flags)
  wrong = either(done)
  if done.code == 0 and not wrong:
    found = len(set(cells(t.run / 'examples.csv', 'group')))
    wrong = [] if found == 4 else [f'accepted: {found} groups of 4']
  return done, wrong


@row('B.classes_order', 'folders 1, 2, 10 sort as text')
def _(t: Case) -> Verdict:
  names = [f'{(1, 2, 10)[i % 3]}/{i}.png' for i in range(32)]
  images(t.folder / 'set', names)
  done = t.train(*folder_of(t.folder / 'set'))
  wrong = either(done)
  if done.code == 0 and not wrong:
    labels = dict(
      zip(
        cells(t.run / 'examples.csv', 'source'),
        cells(t.run / 'examples.csv', 'label'),
        strict=True,
      )
    )
    order = [labels['1/0.png'], labels['2/1.png'], labels['10/2.png']]
    if order != sorted(order, key=float):
      wrong = [f'accepted: labels {order}']
  return done, wrong


@row('B.labels_order', 'labels 0 .. 11 in metadata.csv: 10 becomes 2')
def _(t: Case) -> Verdict:
  images(t.folder / 'set')
  (t.folder / 'set' / 'metadata.csv').write_text(
    'file_name,label\n' + ''.join(f'{i}.png,{i % 12}\n' for i in range(32))
  )
  done = t.train(*folder_of(t.folder / 'set'))
  wrong = either(done)
  if done.code == 0 and not wrong:
    labels = cells(t.run / 'examples.csv', 'label')
    wrong = [] if labels[10] == '10' else [f'accepted: 10 is {labels[10]}']
  return done, wrong


@row('B.classes_names', 'the names of classes are lost')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', [f'{"ab"[i % 2]}/{i}.png' for i in range(32)])
  done = t.train(*folder_of(t.folder / 'set'))
  wrong = accepted(done)
  if not wrong and not (t.run / 'classes.csv').exists():
    wrong = ['accepted: no classes.csv']
  return done, wrong


@row('B.classes_by_name', 'sample.classes takes the names of classes')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', [f'{"ab"[i % 2]}/{i}.png' for i in range(32)])
  done = t.launch(
    'train',
    t.config("  c.model.class_conditional = True\n  c.sample.classes = ('b',)"),
    *folder_of(t.folder / 'set'),
  )
  return done, either(done)


def _add_swap(kind: str, one: str, two: str) -> None:
  @row(f'B.swap_{kind}', f'whole blocks in the wrong place: {one} and {two}')
  def _(t: Case) -> Verdict:
    run = t.copy()
    drop_tables(run)
    swap(run / one, run / two)
    done = t.launch('audit')
    return done, same_or_refused(t, done)


for _kind in ('signals', 'neighbours', 'samples'):
  _add_swap(f'{_kind}_models', f'{_kind}/model-000/00000000.npz',
    f'{_kind}/model-001/00000000.npz')  # fmt: skip
_add_swap('signals_rows', 'signals/model-000/00000000.npz',
  'signals/model-000/00000016.npz')  # fmt: skip


@row('B.other_config_block', "another run's signals in place of this one's")
def _(t: Case) -> Verdict:
  run = t.copy()
  drop_tables(run)
  name = 'signals/model-000/00000000.npz'
  shutil.copy(t.lab.other() / name, run / name)
  done = t.launch('audit')
  return done, same_or_refused(t, done)


@row('B.other_checkpoint', "another run's checkpoints in place of this one's")
def _(t: Case) -> Verdict:
  run = t.copy()
  drop_tables(run)
  for name in ('samples', 'signals', 'neighbours'):
    shutil.rmtree(run / name)
  (block,) = run.glob('models-*')
  shutil.rmtree(block / 'checkpoints')
  shutil.copytree(
    t.lab.other() / block.name / 'checkpoints', block / 'checkpoints'
  )
  done = t.launch('audit')
  return done, same_or_refused(t, done)


@row('B.provenance_gone', 'provenance.json missing, evidence there')
def _(t: Case) -> Verdict:
  run = t.copy()
  (run / 'provenance.json').unlink()
  done = t.launch('audit')
  return done, refused(done, 'provenance')


@row('B.provenance_data', 'provenance.json missing and other images')
def _(t: Case) -> Verdict:
  flags = npz(t.folder / 'a.npz', images=pixels())
  first = t.train(*flags, whole=True)
  if first.code:
    return first, accepted(first)
  (t.run / 'provenance.json').unlink()
  npz(t.folder / 'a.npz', images=255 - pixels())
  done = t.launch('train', *flags)
  return done, refused(done)


@row('B.groups_changed', 'other groups or labels of the same images')
def _(t: Case) -> Verdict:
  flags = npz(t.folder / 'a.npz', images=pixels(), group=np.arange(32))
  first = t.train(*flags, whole=True)
  if first.code:
    return first, accepted(first)
  npz(t.folder / 'a.npz', images=pixels(), group=np.arange(32) // 2)
  done = t.launch('train', *flags)
  return done, refused(done)


def _add_env(name: str, **env: str) -> None:
  @row(f'B.env_{name.lower()}', f'samples under {name}={env[name]}')
  def _(t: Case) -> Verdict:
    run = t.copy()
    shutil.rmtree(run / 'samples')
    done = t.launch('sample', env=env)
    if done.code == 0 and not done.traceback:
      return done, same(run, t.lab.base(), ('samples/**/*.npz',))
    return done, refused(done, late=True)


_add_env('JAX_DEFAULT_PRNG_IMPL', JAX_DEFAULT_PRNG_IMPL='rbg')
_add_env('JAX_THREEFRY_PARTITIONABLE', JAX_THREEFRY_PARTITIONABLE='0')
_add_env('JAX_ENABLE_X64', JAX_ENABLE_X64='1')
_add_env('JAX_DEFAULT_MATMUL_PRECISION',
  JAX_DEFAULT_MATMUL_PRECISION='bfloat16')  # fmt: skip
_add_env('JAX_NUMPY_DTYPE_PROMOTION', JAX_NUMPY_DTYPE_PROMOTION='strict')
_add_env('JAX_RANDOM_SEED_OFFSET', JAX_RANDOM_SEED_OFFSET='5')
_add_env('JAX_DEBUG_NANS', JAX_DEBUG_NANS='1')
_add_env('PYTHONHASHSEED', PYTHONHASHSEED='7')
_add_env('TZ', TZ='Asia/Kathmandu')


def _add_typo(name: str, text: str, part: str) -> None:
  @row(f'B.typo_{name}', f'a typo in a Python config: {text.strip()}')
  def _(t: Case) -> Verdict:
    done = t.train(t.config(text))
    return done, refused(done, part)


_add_typo('step', '  c.train.num_step = 5', 'num_step')
_add_typo('top', '  c.num_model = 3', 'num_model')
_add_typo('group', '  c.trian = dict(num_steps=5)', 'trian')


SWEEP = """

def sweep(arg=None):
  return [
    {'knob': 'a', 'value': '1', 'run': 'one', 'overrides': OVERRIDES},
  ]
"""


def _add_sweep(name: str, overrides: str, part: str, row_id: str = 'D') -> None:
  @row(f'{row_id}.sweep_{name}', f'sweep() with overrides {overrides}')
  def _(t: Case) -> Verdict:
    path = t.folder / 'own.py'
    path.write_text(CONFIG + SWEEP.replace('OVERRIDES', overrides))
    done = t.launch('sweep', f'--config={path}', timeout=40)
    return done, refused(done, part)


_add_sweep('typo', "{'train.num_step': 5}", 'num_step', 'B')
_add_sweep('none', "{'train.num_steps': None}", 'num_steps')
_add_sweep('type', "{'train.num_steps': 'five'}", 'num_steps')
_add_sweep('list', '[1]', 'overrides')
_add_sweep('group', "{'train': 5}", 'train')


@row('B.equal_images', '32 equal images: an AUC with an interval')
def _(t: Case) -> Verdict:
  flags = npz(t.folder / 'a.npz', images=np.full((32, 8, 8, 1), 7, np.uint8))
  done = t.launch('audit', *flags, whole=True, timeout=120)
  wrong = either(done)
  if not wrong and not re.search(r'equal|identical|same|duplicate', done.err):
    wrong = ['accepted: not said']
  return done, wrong


def _add_flags(name: str, fault: str, *flags: str, part='', env=None) -> None:
  @row(name, fault)
  def _(t: Case) -> Verdict:
    done = t.train(*flags, timeout=40, env=env)
    return done, refused(done, part or flags[0].split('=')[0])


_add_flags('B.processes', '--num_processes=2 --process_id=1 alone',
  '--num_processes=2', '--process_id=1')  # fmt: skip
_add_flags('B.process_id', '--process_id=1 alone', '--process_id=1')
_add_flags('B.process_range', '--process_id=5 of 2 processes',
  '--process_id=5', '--num_processes=2', '--coordinator=localhost:1',
  '--wait_seconds=3')  # fmt: skip
_add_flags('B.coordinator_alone', '--coordinator without how many',
  '--coordinator=localhost:1', '--wait_seconds=3')  # fmt: skip
_add_flags('B.multihost_alone', '--multihost without a cluster',
  '--multihost', '--wait_seconds=3')  # fmt: skip


# C. Memory and hangs.

_BOMB = 2**26  # zeros, packed, repeated


def zeros_gz(times: int) -> bytes:
  """A gzip of many members of 64 MiB of zeros."""
  return gzip.compress(bytes(_BOMB)) * times


def zeros_zip(path: pathlib.Path, name: str, head: bytes, times: int) -> None:
  """A zip whose one member unpacks to `head` and times x 64 MiB of zeros."""
  squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
  first = squeeze.compress(head) + squeeze.flush(zlib.Z_FULL_FLUSH)
  piece = squeeze.compress(bytes(_BOMB)) + squeeze.flush(zlib.Z_FULL_FLUSH)
  content = first + piece * times + squeeze.flush()
  size = len(head) + times * _BOMB
  small = min(size, 2**32 - 1)
  sizes = struct.pack('<II', len(content), small)
  wide = b'' if small == size else struct.pack('<HHQ', 1, 8, size)
  common = struct.pack('<HHHHHI', 45, 0, 8, 0, 33, 0)
  local = (
    b'PK\3\4' + common + struct.pack('<II', len(content), small)
    + struct.pack('<HH', len(name), 0) + name.encode()
  )  # fmt: skip
  central = (
    b'PK\1\2' + struct.pack('<H', 45) + common + sizes
    + struct.pack('<HHHHHII', len(name), len(wide), 0, 0, 0, 0, 0)
    + name.encode() + wide
  )  # fmt: skip
  start = len(local) + len(content)
  end = b'PK\5\6' + struct.pack('<HHHHIIH', 0, 0, 1, 1, len(central), start, 0)
  path.write_bytes(local + content + central + end)


@row('C.png16', '16-bit grey PNGs of 8,192 squared: 1.8 GB a thread')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', 30)
  large = encoded(Image.fromarray(np.zeros((8192, 8192), np.uint16)))
  for name in ('x.png', 'y.png'):
    (t.folder / 'set' / name).write_bytes(large)
  done = t.train(*folder_of(t.folder / 'set'))
  wrong = either(done)
  if done.memory > 1.6e9 and not wrong:
    wrong = [f'memory: {done.memory / 1e9:.1f} GB']
  return done, wrong


def _add_sparse(name: str, fault: str, flags, file: str, part='') -> None:
  """A file of 8 GB that takes no disk."""

  @row(f'C.sparse_{name}', fault)
  def _(t: Case) -> Verdict:
    path = t.folder / file
    path.parent.mkdir(parents=True, exist_ok=True)
    args = flags(t)
    path.unlink(missing_ok=True)
    with open(path, 'wb') as out:
      out.truncate(8 * 10**9)
    done = t.train(*args)
    return done, refused(done, part or path.name)


_add_sparse('png', 'an image file of 8 GB',
  lambda t: folder_of(images(t.folder / 'set', 31)), 'set/x.png')  # fmt: skip
_add_sparse('metadata', 'a metadata.csv of 8 GB',
  lambda t: folder_of(images(t.folder / 'set', 32)), 'set/metadata.csv',
)  # fmt: skip
_add_sparse('npz', 'an npz of 8 GB of zeros',
  lambda t: source('npz', t.folder / 'a.npz'), 'a.npz')  # fmt: skip
_add_sparse('tar', 'a tar of 8 GB of zeros',
  lambda t: cifar(t.folder / 'a.tar'), 'a.tar')  # fmt: skip
_add_sparse('idx', 'an IDX file of 8 GB of zeros',
  lambda t: source('fashion_mnist', t.folder), 'train-images-idx3-ubyte',
)  # fmt: skip
_add_sparse('net_config', 'a config.json of 8 GB in a diffusers folder',
  lambda t: sub(model__init_from=t.folder / 'net'), 'net/config.json',
)  # fmt: skip
_add_sparse('inception', 'Inception weights of 8 GB of zeros',
  lambda t: sub(quality__inception=t.folder / 'i.safetensors'),
  'i.safetensors')  # fmt: skip


def _net_copy(t: Case) -> list[str]:
  shutil.copytree(t.lab.net(0), t.folder / 'net', dirs_exist_ok=True)
  return sub(model__init_from=t.folder / 'net')


_add_sparse('weights', 'weights of 8 GB of zeros', _net_copy,
  'net/unet/diffusion_pytorch_model.safetensors')  # fmt: skip


@row('C.npz_bomb', 'an npz of 20 MB that unpacks to 20 GB')
def _(t: Case) -> Verdict:
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {'descr': '|u1', 'fortran_order': False,
           'shape': (320 * _BOMB // 64, 8, 8, 1)}
  )  # fmt: skip
  zeros_zip(t.folder / 'a.npz', 'images.npy', head.getvalue(), 320)
  done = t.train(*source('npz', t.folder / 'a.npz'), timeout=90)
  return done, refused(done, 'a.npz')


@row('C.npz_lies', 'an npy header of 20 GB in a member of 100 bytes')
def _(t: Case) -> Verdict:
  head = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    head, {'descr': '|u1', 'fortran_order': False, 'shape': (2 * 10**10,)}
  )
  with zipfile.ZipFile(t.folder / 'a.npz', 'w') as archive:
    archive.writestr('images.npy', head.getvalue() + bytes(100))
  done = t.train(*source('npz', t.folder / 'a.npz'))
  return done, refused(done, 'a.npz')


@row('C.idx_lies', 'an IDX header of 30 GB in a file of 100 bytes')
def _(t: Case) -> Verdict:
  (t.folder / 'train-images-idx3-ubyte.gz').write_bytes(
    gzip.compress(struct.pack('>IIII', 0x803, 30 * 10**6, 32, 32) + bytes(100))
  )
  done = t.train(*source('fashion_mnist', t.folder))
  return done, refused(done, 'train-images-idx3-ubyte')


@row('C.idx_bomb', 'an IDX .gz of 20 MB that unpacks to 20 GB')
def _(t: Case) -> Verdict:
  head = struct.pack('>IIII', 0x803, 320 * 2**16, 32, 32)
  (t.folder / 'train-images-idx3-ubyte.gz').write_bytes(
    gzip.compress(head) + zeros_gz(320)
  )
  done = t.train(*source('fashion_mnist', t.folder), timeout=90)
  return done, refused(done, 'train-images-idx3-ubyte')


@row('C.pickle_memo', 'an 8-byte pickle memo takes 2 GB')
def _(t: Case) -> Verdict:
  members = cifar_members('python')
  members['data_batch_1'] = b'\x80\x02Nr' + struct.pack('<I', 2**27) + b'.'
  done = t.train(*cifar(tar(t.folder / 'c.tar.gz', members)))
  wrong = refused(done)
  if not wrong and done.memory > 1.6e9:
    wrong = [f'memory: {done.memory / 1e9:.1f} GB']
  return done, wrong


@row('C.pickle_nested', 'a pickle of a million nested lists')
def _(t: Case) -> Verdict:
  members = cifar_members('python')
  members['data_batch_1'] = b'\x80\x02' + b']' * 10**6 + b'a' * 10**6 + b'.'
  done = t.train(*cifar(tar(t.folder / 'c.tar.gz', members)))
  return done, refused(done)


@row('C.pickle_long', 'a pickle of a long of 100 MB, times itself in text')
def _(t: Case) -> Verdict:
  members = cifar_members('python')
  members['data_batch_1'] = b'\x80\x02I' + b'9' * 10**7 + b'\n.'
  done = t.train(*cifar(tar(t.folder / 'c.tar.gz', members)), timeout=30)
  return done, refused(done)


def tar_header(name: bytes, size: bytes, kind: bytes = b'0') -> bytes:
  head = bytearray(512)
  head[: len(name)] = name
  head[100:108] = b'0000644\0'
  head[108:116] = head[116:124] = b'0000000\0'
  head[124:136] = size
  head[136:148] = b'00000000000\0'
  head[156:157] = kind
  head[257:265] = b'ustar\x0000'
  head[148:156] = b' ' * 8
  head[148:156] = b'%06o\0 ' % sum(head)
  return bytes(head)


@row('C.tar_negative', 'a tar member of size -512 never ends')
def _(t: Case) -> Verdict:
  size = (2**96 - 512).to_bytes(12)
  size = b'\xff' + size[1:]
  path = t.folder / 'c.tar.gz'
  first = tar_header(b'a', b'00000000000\0')
  path.write_bytes(
    gzip.compress(first + tar_header(b'other', size) + bytes(1024))
  )
  done = t.train(*cifar(path), timeout=20)
  return done, refused(done, 'c.tar.gz')


@row('C.tar_pax', 'a pax header of 3 GB')
def _(t: Case) -> Verdict:
  path = t.folder / 'c.tar.gz'
  head = tar_header(b'pax', b'%011o\0' % (48 * _BOMB), b'x')
  path.write_bytes(gzip.compress(head) + zeros_gz(48))
  done = t.train(*cifar(path))
  wrong = refused(done, 'c.tar.gz')
  if not wrong and done.memory > 1.6e9:
    wrong = [f'memory: {done.memory / 1e9:.1f} GB']
  return done, wrong


@row('C.tar_longname', 'a GNU long name of 3 GB')
def _(t: Case) -> Verdict:
  path = t.folder / 'c.tar.gz'
  head = tar_header(b'././@LongLink', b'%011o\0' % (48 * _BOMB), b'L')
  path.write_bytes(gzip.compress(head) + zeros_gz(48))
  done = t.train(*cifar(path))
  wrong = refused(done, 'c.tar.gz')
  if not wrong and done.memory > 1.6e9:
    wrong = [f'memory: {done.memory / 1e9:.1f} GB']
  return done, wrong


@row('C.tar_many', 'a tar.gz of 8 GB of empty members')
def _(t: Case) -> Verdict:
  path = t.folder / 'c.tar.gz'
  block = tar_header(b'a', b'00000000000\0') * 2**17
  path.write_bytes(gzip.compress(block) * 120)
  done = t.train(*cifar(path), timeout=60)
  wrong = refused(done, 'c.tar.gz')
  if not wrong and done.memory > 1.6e9:
    wrong = [f'memory: {done.memory / 1e9:.1f} GB']
  return done, wrong


for _name, _key, _value in (
  ('layers', 'model__layers_per_block', 10**9),
  ('layers_few', 'model__layers_per_block', 2000),
  ('models', 'num_models', 10**12),
  ('samples', 'num_samples', 16 * 10**12),
  ('resamples', 'membership__num_resamples', 10**12),
  ('timesteps', 'diffusion__num_train_timesteps', 10**12),
  ('steps', 'train__num_steps', 10**12),
  ('batch', 'train__batch_size', 10**8),
  ('block', 'signals__block_size', 10**15),
  ('draws', 'signals__draws', 10**12),
  ('pool', 'canaries__pool', 10**12),
):
  _add_override(f'C.many_{_name}', f'{_key.replace("__", ".")}={_value}',
    **{_key: _value})  # fmt: skip
_add_override('C.many_canaries', 'canaries.pool=10^12 of one model',
  part='canaries', canaries__pool=10**12, canaries__num_models=1,
)  # fmt: skip
_add_override('C.many_width', 'block_out_channels of a million',
  model__block_out_channels='(1000000,1000000)')  # fmt: skip
_add_override('C.many_levels', '1,000 levels', part='block_out_channels',
  model__block_out_channels='(' + '4,' * 1000 + ')',
  model__down_block_types='(' + '"DownBlock2D",' * 1000 + ')',
  model__up_block_types='(' + '"UpBlock2D",' * 1000 + ')',
)  # fmt: skip


@row('C.dry_run_layers', 'layers_per_block=10^9 --dry_run')
def _(t: Case) -> Verdict:
  done = t.train('--dry_run', *sub(model__layers_per_block=10**9), timeout=20)
  return done, refused(done, 'layers_per_block')


def _add_fifo(name: str, fault: str, flags, file: str) -> None:
  @row(f'C.fifo_{name}', fault)
  def _(t: Case) -> Verdict:
    path = t.folder / file
    args = flags(t)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    done = t.train(*args, timeout=15)
    return done, refused(done)


_add_fifo('weights', 'a FIFO as weights', _net_copy,
  'net/unet/diffusion_pytorch_model.safetensors')  # fmt: skip
_add_fifo('net_config', 'a FIFO as config.json of a net',
  lambda t: sub(model__init_from=t.folder / 'net'), 'net/config.json',
)  # fmt: skip
_add_fifo('inception', 'a FIFO as Inception weights',
  lambda t: sub(quality__inception=t.folder / 'i.safetensors'),
  'i.safetensors')  # fmt: skip
_add_fifo('npz', 'a FIFO as npz',
  lambda t: source('npz', t.folder / 'a.npz'), 'a.npz')  # fmt: skip
_add_fifo('image', 'a FIFO as image',
  lambda t: folder_of(images(t.folder / 'set', 31)), 'set/x.png')  # fmt: skip
_add_fifo('record', 'a FIFO as array_record',
  lambda t: source('array_record', t.folder / 'a.array_record',
                   data__image_size=8), 'a.array_record')  # fmt: skip
_add_fifo('config', 'a FIFO as the config file',
  lambda t: [f'--config={t.folder / "c.py"}'], 'c.py')  # fmt: skip
_add_fifo('provenance', "a FIFO as the run's provenance.json",
  lambda t: (t.copy(), [])[1], 'run/provenance.json')  # fmt: skip
_add_fifo('run_config', "a FIFO as the run's config.json",
  lambda t: (t.copy(), [])[1], 'run/config.json')  # fmt: skip


@row('C.device', '/dev/zero as data.path, weights and config')
def _(t: Case) -> Verdict:
  for flags in (
    cifar(pathlib.Path('/dev/zero')),
    source('npz', '/dev/zero'),
    sub(quality__inception='/dev/zero'),
    source('array_record', '/dev/zero', data__image_size=8),
    ['--config=/dev/zero'],
  ):
    done = t.train(*flags, timeout=15)
    wrong = refused(done)
    if wrong:
      return done, [f'{wrong[0]}: {flags[0]}', *wrong[1:]]
  return done, []


@row('C.cpu_devices', '--cpu_devices=100000: 7.5 GB, ignores SIGTERM')
def _(t: Case) -> Verdict:
  done = t.train('--cpu_devices=100000', timeout=20)
  return done, refused(done, '--cpu_devices')


@row('C.cpu_devices_negative', '--cpu_devices=-1')
def _(t: Case) -> Verdict:
  done = t.train('--cpu_devices=-1', timeout=20)
  return done, refused(done, '--cpu_devices')


def after_seconds(seconds: float, *signals: int) -> Callable[[int], None]:
  """Sends signals to a process, one after another."""

  def send(pid: int) -> None:
    for number in signals:
      time.sleep(seconds)
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)

  return lambda pid: threading.Thread(
    target=send, args=(pid,), daemon=True
  ).start()


def after_line(t: Case, words: str, number: int) -> Callable[[int], None]:
  """Sends a signal once a log line says so."""

  def send(pid: int) -> None:
    log = t.run / 'logs' / 'process-000.log'
    while not (log.exists() and words in log.read_text()):
      time.sleep(0.05)
      if not pathlib.Path(f'/proc/{pid}').exists():
        return
    time.sleep(0.3)
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, number)

  return lambda pid: threading.Thread(
    target=send, args=(pid,), daemon=True
  ).start()


def left(done: Done, code: int = 75) -> list[str]:
  """What is wrong with a command that was told to leave."""
  if done.ended or done.traceback:
    return ['traceback' if done.traceback else done.ended]
  return [] if done.code == code else [f'exit {done.code}']


for _seconds in (1.0, 3.0, 5.0):

  @row(f'C.sigterm_{_seconds:.0f}s', f'SIGTERM after {_seconds:.0f} s')
  def _(t: Case, seconds=_seconds) -> Verdict:
    done = t.train(
      *sub(train__num_steps=10**6), preload=False,
      after=after_seconds(seconds, signal.SIGTERM), timeout=60,
    )  # fmt: skip
    return done, left(done)


# D. Tracebacks, late or unclear.


for _channels in (0, 2, 5):

  @row(f'D.channels_{_channels}', f'an npz of {_channels} channels')
  def _(t: Case, channels=_channels) -> Verdict:
    flags = npz(t.folder / 'a.npz', images=pixels(channels=channels))
    done = t.launch('audit', *flags)
    return done, refused(done)


_add_override('D.resamples_1', 'num_resamples=1', 'audit',
  membership__num_resamples=1)  # fmt: skip
_side = {'side__num_samples': 16, 'num_samples': 32}
_add_override('D.clusters_many', 'more clusters than samples', 'audit',
  side__num_clusters=1000, **_side)  # fmt: skip
_add_override('D.clusters_one', 'one cluster', 'audit',
  side__num_clusters=1, **_side)  # fmt: skip
_add_override('D.side_batch', "SIDE's batch_size above its samples", 'audit',
  side__batch_size=10**6, **_side)  # fmt: skip
_add_override('D.side_channels', "SIDE's nine levels on 8 x 8", 'audit',
  side__channels='(4,4,4,4,4,4,4,4,4)', **_side)  # fmt: skip
_add_override('D.side_width', "SIDE's channels of a billion", 'audit',
  side__channels='(1000000000,)', **_side)  # fmt: skip
_add_override('D.three', 'three examples', 'audit', data__num_examples=3)


def _add_groups(count: int) -> None:
  @row(f'D.groups_{count}', f'32 images of {count} groups')
  def _(t: Case) -> Verdict:
    flags = npz(
      t.folder / 'a.npz', images=pixels(), group=np.arange(32) % count
    )
    done = t.launch('audit', *flags, whole=True, timeout=120)
    wrong = refused(done) if count == 1 else either(done)
    return done, wrong + ['after long work'] * (done.code == 2 and done.worked)


_add_groups(1)
_add_groups(2)
_add_groups(3)


@row('D.groups_uneven', 'two groups, one of a single image')
def _(t: Case) -> Verdict:
  flags = npz(
    t.folder / 'a.npz', images=pixels(), group=(np.arange(32) == 0).astype(int)
  )
  done = t.launch('audit', *flags, whole=True, timeout=120)
  wrong = either(done)
  return done, wrong + ['after long work'] * (done.code == 2 and done.worked)


@row('D.class_of_one', 'a class with one image')
def _(t: Case) -> Verdict:
  flags = npz(
    t.folder / 'a.npz', images=pixels(), labels=(np.arange(32) == 0).astype(int)
  )
  done = t.launch(
    'audit',
    *flags,
    *sub(model__class_conditional=True, sample__classes='(1,)'),
    whole=True,
    timeout=120,
  )
  wrong = either(done)
  return done, wrong + ['after long work'] * (done.code == 2 and done.worked)


for _name, _text, _part in (
  ('missing', '  c.unlock()\n  del c.train.num_steps', 'num_steps'),
  ('missing_group', '  c.unlock()\n  del c.train', 'train'),
  ('missing_field', '  c.unlock()\n  del c.membership.transform', 'transform'),
  ('none', '  c.train.num_steps = None', 'num_steps'),
  ('none_ignored', '  with c.ignore_type():\n    c.train.num_steps = None',
   'num_steps'),
  ('type', "  with c.ignore_type():\n    c.train.num_steps = 'five'",
   'num_steps'),
  ('float', '  with c.ignore_type():\n    c.train.num_steps = 4.5',
   'num_steps'),
  ('list', '  with c.ignore_type():\n    c.signals.timesteps = 50',
   'timesteps'),
  ('bool', '  with c.ignore_type():\n    c.num_models = True', 'num_models'),
  ('group_number', '  with c.ignore_type():\n    c.train = 5', 'train'),
  ('classes', "  c.model.class_conditional = True\n"
   "  c.sample.classes = ('a',)", 'sample.classes'),
  ('classes_float', '  c.model.class_conditional = True\n'
   '  c.sample.classes = (1.5,)', 'sample.classes'),
  ('array', '  import numpy\n  with c.ignore_type():\n'
   '    c.signals.timesteps = numpy.array([50, 100])', 'timesteps'),
  ('raises', "  raise RuntimeError('a\\nb')", 'own.py'),
  ('returns', '  return 5', 'own.py'),
  ('returns_dict', '  return c.to_dict()', 'own.py'),
  ('exits', '  import sys; sys.exit(0)', 'own.py'),
  ('syntax', '  def (', 'own.py'),
):  # fmt: skip

  @row(f'D.config_{_name}', f'a Python config with {_text.strip()[-60:]!r}')
  def _(t: Case, text=_text, part=_part) -> Verdict:
    done = t.train(t.config(text))
    return done, refused(done, part)


for _value in ('(0,8)', '(-4,4)', '(4,-4)', '(True,4)', '()'):
  _add_override(
    f'D.width_{_value}', f'block_out_channels={_value}',
    model__block_out_channels=_value,
  )  # fmt: skip


def _add_image(name: str, fault: str, content: bytes, ok=False, kind='png'):
  @row(f'D.image_{name}', fault)
  def _(t: Case) -> Verdict:
    images(t.folder / 'set', 31)
    (t.folder / 'set' / f'x.{kind}').write_bytes(content)
    done = t.train(*folder_of(t.folder / 'set'))
    return done, either(done) if ok else refused(done, f'x.{kind}')


def png_with(chunk: bytes, body: bytes) -> bytes:
  """A PNG with one more chunk after its header."""
  content = encoded(picture())
  crc = struct.pack('>I', zlib.crc32(chunk + body))
  return (
    content[:33] + struct.pack('>I', len(body)) + chunk + body + crc
    + content[33:]
  )  # fmt: skip


# Orientation 6, and a `Make` whose type is a number that is a word.
_EXIF = (
  b'MM\0*\0\0\0\x08\0\x02\x01\x1f\0\x02\0\0\0\x05\0\0\0&\x01\x12\0\x03\0\0\0\x01'
  b'\0\x06\0\0\0\0\0\0make\0\0'
)
_add_image('exif', 'EXIF that is not bytes', png_with(b'eXIf', _EXIF), True)
_add_image('exif_torn', 'EXIF that is torn', png_with(b'eXIf', _EXIF[:20]),
  True)  # fmt: skip
_add_image('icc', 'a torn colour profile',
  png_with(b'iCCP', b'x\0\0' + b'torn'), True)  # fmt: skip
_add_image('text_bomb', 'a zTXt chunk of 512 MB', png_with(
  b'zTXt', b'x\0\0' + zlib.compress(bytes(2**29))), True)  # fmt: skip
_add_image('empty', 'an empty file', b'')
_add_image('exif_jpeg_folder', 'a PNG named .tif', encoded(picture()), True,
  'tif')  # fmt: skip


for _name, _flags in (
  ('workdir_file', ['--workdir=file:///tmp/jaxdiff-none']),
  ('workdir_http', ['--workdir=http://localhost/none']),
  ('workdir_unknown', ['--workdir=foo://localhost/none']),
  ('workdir_gs', ['--workdir=gs://']),
  ('workdir_empty', ['--workdir=']),
  ('data_file', source('npz', 'file:///tmp/none.npz')),
  ('data_http', source('npz', 'http://localhost/none.npz')),
  ('data_gs', source('npz', 'gs://none/none.npz')),
  ('data_folder_gs', folder_of('gs://none/none')),
  ('init_gs', sub(model__init_from='gs://none/none')),
  ('init_s3', sub(model__init_from='s3://none/none')),
  ('init_hf', sub(model__init_from='hf://none/none')),
  ('init_http', sub(model__init_from='http://localhost/none')),
  ('init_empty_scheme', sub(model__init_from='gs://')),
  ('inception_gs', sub(quality__inception='gs://none/none')),
  ('inception_s3', sub(quality__inception='s3://none/none')),
  ('inception_hf', sub(quality__inception='hf://none/none')),
  ('inception_folder', sub(quality__inception='/tmp')),
  ('other_gs', sub(extraction__other_run='gs://none/none')),
  ('other_s3', sub(extraction__other_run='s3://none/none')),
  ('other_hf', sub(extraction__other_run='hf://none/none')),
  ('other_none', sub(extraction__other_run='/nonexistent')),
  ('workdir_long', ['--workdir=/tmp/' + 'a' * 300]),
  ('workdir_dev', ['--workdir=/dev/null']),
  ('workdir_proc', ['--workdir=/proc/none']),
  ('data_long', source('npz', 'a' * 5000)),
  ('init_long', sub(model__init_from='a' * 5000)),
  ('inception_long', sub(quality__inception='a' * 5000)),
):

  @row(f'D.path_{_name}', f'{_flags[-1][:60]}' if len(_flags) == 1 else
       f'{_flags[1][:60]}')  # fmt: skip
  def _(t: Case, flags=tuple(_flags)) -> Verdict:
    done = t.train(*flags, timeout=30)
    return done, refused(done)


for _scheme in ('gs', 's3', 'hf'):

  @row(f'D.path_out_{_scheme}', f'export --out={_scheme}://none/none')
  def _(t: Case, scheme=_scheme) -> Verdict:
    done = t.launch(
      'export', f'--out={scheme}://none/none', workdir=t.lab.base(), timeout=30
    )
    return done, refused(done, '--out')


@row('D.out_exists', 'export --out of a folder that exists')
def _(t: Case) -> Verdict:
  done = t.launch('export', f'--out={t.folder}', workdir=t.lab.base())
  return done, refused(done, str(t.folder))


@row('D.out_file', 'export --out within a file')
def _(t: Case) -> Verdict:
  (t.folder / 'file').write_text('x')
  done = t.launch('export', f'--out={t.folder}/file/net', workdir=t.lab.base())
  return done, refused(done)


for _value in ('tpu', 'cuda', 'nonsense'):

  @row(f'D.platform_{_value}', f'JAX_PLATFORMS={_value}')
  def _(t: Case, value=_value) -> Verdict:
    done = t.train(env={'JAX_PLATFORMS': value}, timeout=90)
    return done, refused(done, value)


@row('D.config_loads', '(control) XLA_FLAGS that are unknown')
def _(t: Case) -> Verdict:
  done = t.train(env={'XLA_FLAGS': '--xla_nonsense=1'}, timeout=60)
  return done, refused(done, 'XLA_FLAGS')


for _size in (300, 3000, 20000):

  @row(f'D.fsize_{_size}', f'a file-size limit of {_size} bytes')
  def _(t: Case, size=_size) -> Verdict:
    done = t.launch(
      'audit', limits={commands.resource.RLIMIT_FSIZE: size}, whole=True
    )
    return done, refused(done, late=True)


@row('D.nofile', 'a limit of 40 open files')
def _(t: Case) -> Verdict:
  done = t.train(limits={commands.resource.RLIMIT_NOFILE: 40})
  return done, either(done)


@row('D.locale', 'a locale that is not UTF-8, an umlaut in the path')
def _(t: Case) -> Verdict:
  folder = t.folder / 'Köln'
  images(folder / 'set', [f'ü{i}.png' for i in range(32)])
  done = t.launch(
    'audit',
    *folder_of(folder / 'set'),
    workdir=folder / 'run',
    env={'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'},
    timeout=120,
    whole=True,
  )
  return done, either(done, '/K')


@row('D.path_bytes', 'a --workdir that is not UTF-8')
def _(t: Case) -> Verdict:
  done = t.train(workdir=os.fsdecode(os.fsencode(t.folder) + b'/r\xff'))
  return done, either(done)


@row('D.name_bytes', 'an image whose name is not UTF-8')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', 31)
  name = os.fsencode(t.folder / 'set') + b'/x\xff.png'
  with open(name, 'wb') as file:
    file.write(encoded(picture()))
  done = t.train(*folder_of(t.folder / 'set'))
  return done, either(done, 'set/x')


@row('D.name_newline', 'a name with a newline and ANSI codes forges a line')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', 31)
  name = 'a\njaxdiff: all is well\x1b[31m.png'
  (t.folder / 'set' / name).write_bytes(b'broken')
  done = t.train(*folder_of(t.folder / 'set'))
  return done, refused(done)


@row('D.name_newline_log', 'the same where it is skipped and logged')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', 32)
  name = 'a\nI1128 05:00:00.000000 1 x.py:1] forged\x1b[31m.png'
  (t.folder / 'set' / name).write_bytes(b'broken')
  done = t.train(*folder_of(t.folder / 'set'), *sub(data__skip_broken=True))
  wrong = accepted(done)
  if '\x1b' in done.err or any('] forged' in x for x in done.lines if
                               x.startswith('I1128 05:00:00')):  # fmt: skip
    wrong.append('side effect: a forged line')
  return done, wrong


@row('D.sigint', 'Ctrl-C while training')
def _(t: Case) -> Verdict:
  done = t.train(
    *sub(train__num_steps=10**6),
    after=after_line(t, 'train: ', signal.SIGINT),
    timeout=240,
  )
  wrong = ['traceback'] if done.traceback else []
  if done.ended:
    wrong.append(done.ended)
  if len(done.said) > 1:
    wrong.append(f'{len(done.said)} lines')
  return done, wrong


for _name in ('SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGXCPU'):

  @row(f'D.signal_{_name.lower()}', f'{_name} while training saves and ends')
  def _(t: Case, number=signal.Signals[_name]) -> Verdict:
    done = t.train(
      *sub(train__num_steps=10**6),
      after=after_line(t, 'train: ', number),
      timeout=240,
    )
    return done, left(done)


@row('D.timesteps_100', '100 timesteps though inpainting is off')
def _(t: Case) -> Verdict:
  done = t.train(
    *sub(diffusion__num_train_timesteps=100, signals__timesteps='(10,50)',
         membership__timestep=50)
  )  # fmt: skip
  return done, accepted(done)


@row('D.weights_bfloat16', 'bfloat16 weights of init_from')
def _(t: Case) -> Verdict:
  import ml_dtypes
  from safetensors import numpy as safetensors_numpy

  args = _net_copy(t)
  path = weights(t.folder / 'net')
  state = safetensors_numpy.load(path.read_bytes())
  header, body, at = {}, [], 0
  for key, value in state.items():
    data = value.astype(ml_dtypes.bfloat16).tobytes()
    header[key] = {
      'dtype': 'BF16', 'shape': list(value.shape),
      'data_offsets': [at, at + len(data)],
    }  # fmt: skip
    at += len(data)
    body.append(data)
  head = json.dumps(header).encode()
  path.write_bytes(struct.pack('<Q', len(head)) + head + b''.join(body))
  done = t.train(*args)
  return done, accepted(done)


@row('D.weights_ema', 'a unet_ema folder (decay = 0.9999)')
def _(t: Case) -> Verdict:
  args = _net_copy(t)
  path = t.folder / 'net' / 'unet' / 'config.json'
  config = json.loads(path.read_text()) | {
    'decay': 0.9999, 'inv_gamma': 1.0, 'min_decay': 0.0,
    'optimization_step': 100, 'power': 0.75, 'update_after_step': 0,
    'use_ema_warmup': False,
  }  # fmt: skip
  path.write_text(json.dumps(config))
  done = t.train(*args)
  return done, accepted(done)


@row('D.weights_fp16_variant', 'weights of the variant fp16')
def _(t: Case) -> Verdict:
  from safetensors import numpy as safetensors_numpy

  args = _net_copy(t)
  path = weights(t.folder / 'net')
  state = safetensors_numpy.load(path.read_bytes())
  path.with_suffix('.fp16.safetensors').write_bytes(
    safetensors_numpy.save({k: v.astype(np.float16) for k, v in state.items()})
  )
  path.unlink()
  done = t.train(*args)
  return done, accepted(done)


@row('D.dangling', 'a dangling link is not left out by skip_broken')
def _(t: Case) -> Verdict:
  images(t.folder / 'set')
  (t.folder / 'set' / 'x.png').symlink_to('gone.png')
  done = t.train(*folder_of(t.folder / 'set'), *sub(data__skip_broken=True))
  return done, accepted(done)


@row('D.slash', 'a path with and without a slash at its end')
def _(t: Case) -> Verdict:
  images(t.folder / 'set')
  first = t.train(*folder_of(t.folder / 'set'), whole=True)
  if first.code:
    return first, accepted(first)
  done = t.train(*folder_of(f'{t.folder / "set"}/'))
  return done, accepted(done)


@row('D.moved', 'the same images moved')
def _(t: Case) -> Verdict:
  images(t.folder / 'set')
  first = t.train(*folder_of(t.folder / 'set'), whole=True)
  if first.code:
    return first, accepted(first)
  (t.folder / 'set').rename(t.folder / 'moved')
  done = t.train(*folder_of(t.folder / 'moved'))
  return done, accepted(done)


for _extras in ('gpu', 'bench,gpu', 'test;touch x', '[cuda]'):

  @row(f'D.extras_{_extras}', f'JAXDIFF_EXTRAS={_extras} installs nothing')
  def _(t: Case, extras=_extras) -> Verdict:
    (t.folder / 'launch').mkdir()
    for name in ('launch/local.sh', 'launch/constraints.txt', 'pyproject.toml'):
      shutil.copy(commands.ROOT / name, t.folder / name)
    python = t.folder / '.venv' / 'bin' / 'python'
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/sh\nexit 0\n')
    python.chmod(0o755)
    start = time.monotonic()
    ran = subprocess.run(
      ['bash', t.folder / 'launch' / 'local.sh', 'true'],
      env={'PATH': os.environ['PATH'], 'JAXDIFF_EXTRAS': extras},
      capture_output=True,
      text=True,
      check=False,
    )
    done = Done(
      ran.returncode, ran.stdout, ran.stderr, time.monotonic() - start, 0
    )
    wrong = [] if done.code == 2 else ['accepted']
    return done, wrong + [f'{len(done.lines)} lines'] * (len(done.lines) != 1)


for _name in ('run[1]', 'run*', 'run?', 'run{a,b}', 'run name', '-run', '~run'):

  @row(f'D.workdir_{_name}', f'--workdir={_name} trains, then fails')
  def _(t: Case, name=_name) -> Verdict:
    done = t.train(workdir=t.folder / name, whole=True, timeout=120)
    if not accepted(done):
      done = t.launch('sample', workdir=t.folder / name)
    return done, either(done)


@row('D.folder_deleted', 'a folder deleted while training: "all is saved"')
def _(t: Case) -> Verdict:
  def delete(pid: int) -> None:
    log = t.run / 'logs' / 'process-000.log'
    while not (log.exists() and 'compiled' in log.read_text()):
      time.sleep(0.05)
      if not pathlib.Path(f'/proc/{pid}').exists():
        return
    shutil.rmtree(t.run, ignore_errors=True)
    time.sleep(0.5)
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGTERM)

  done = t.train(
    *sub(train__num_steps=10**6, train__checkpoint_every=10**5),
    after=lambda pid: threading.Thread(
      target=delete, args=(pid,), daemon=True
    ).start(),
  )
  whole = (t.run / 'config.json').exists()
  if done.code == 75 and not (whole and list(t.run.rglob('checkpoints/*'))):
    return done, ['accepted: says that all is saved']
  return done, ['traceback'] * done.traceback + [done.ended] * bool(done.ended)


@row('D.port_used', 'a coordinator port in use: segmentation fault')
def _(t: Case) -> Verdict:
  with socket.socket() as taken:
    taken.bind(('localhost', 0))
    taken.listen()
    done = t.train(
      f'--coordinator=localhost:{taken.getsockname()[1]}', '--num_processes=2',
      '--process_id=0', '--wait_seconds=5', timeout=40, preload=False,
    )  # fmt: skip
  return done, refused(done, '--coordinator')


for _value in (
  'localhost', 'localhost:', 'localhost:x', ':1', 'localhost:99999',
  'no.such.host.invalid:1', 'http://localhost:1',
):  # fmt: skip

  @row(f'D.coordinator_{_value}', f'--coordinator={_value}')
  def _(t: Case, value=_value) -> Verdict:
    done = t.train(
      f'--coordinator={value}', '--num_processes=2', '--process_id=0',
      '--wait_seconds=5', timeout=40, preload=False,
    )  # fmt: skip
    return done, refused(done, '--coordinator')


@row('D.two_runs', 'two runs in one folder do all the work twice')
def _(t: Case) -> Verdict:
  second = []

  def start(pid: int) -> None:
    log = t.run / 'logs' / 'process-000.log'
    while not log.exists() and pathlib.Path(f'/proc/{pid}').exists():
      time.sleep(0.05)
    done = commands.launch(
      t.folder / 'second', 'train', '--cpu_devices=1',
      f'--config={t.lab.config}', f'--workdir={t.run}',
      *sub(train__num_steps=400), preload=False, timeout=90,
    )  # fmt: skip
    second.append(done)
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGTERM)

  threads = []

  def begin(pid: int) -> None:
    threads.append(threading.Thread(target=start, args=(pid,)))
    threads[0].start()

  first = t.train(*sub(train__num_steps=400), after=begin, timeout=120)
  threads[0].join()
  wrong = ['first: ' + x for x in accepted(first) if first.code != 75]
  return second[0], wrong + refused(second[0])


@row('D.full_disk', 'a full 2 MB disk: a traceback in place of one line')
def _(t: Case) -> Verdict:
  t.run.mkdir()
  mount = ['mount', '-t', 'tmpfs', '-o', 'size=200k', 'tmpfs', str(t.run)]
  if subprocess.run(mount, check=False, capture_output=True).returncode:
    return None, []
  try:
    done = t.launch('audit', whole=True)
  finally:
    subprocess.run(['umount', str(t.run)], check=True)
  return done, refused(done, late=True)


@row('D.read_only', 'a report from a read-only medium fails on its log')
def _(t: Case) -> Verdict:
  run = t.copy()
  bind = ['mount', '--bind', '-o', 'ro', str(run), str(run)]
  if subprocess.run(bind, check=False, capture_output=True).returncode:
    return None, []
  subprocess.run(['mount', '-o', 'remount,ro,bind', str(run)], check=True)
  try:
    done = t.launch('report')
  finally:
    subprocess.run(['umount', str(run)], check=True)
  return done, accepted(done)


@row('D.help', '--help shows neither --config nor --workdir')
def _(t: Case) -> Verdict:
  done = t.launch('audit', '--help')
  shown = done.out + done.err
  wrong = [
    f'does not list --{name}'
    for name in ('config', 'workdir', 'dry_run', 'cpu_devices')
    if not re.search(rf'--(\[no\])?{name}:', shown)
  ]
  return done, wrong + ['traceback'] * done.traceback


for _file in (
  'provenance.json', 'config.json', 'metrics.csv', 'membership/summary.csv',
  'extraction/summary.csv', 'signals/queries.csv', 'examples.csv',
):  # fmt: skip
  for _how, _damage in (
    ('half', half),
    ('empty', lambda p: p.write_bytes(b'')),
    ('bytes', lambda p: p.write_bytes(bytes(range(128, 256)))),
  ):

    @row(f'D.torn_{_file}_{_how}', f'{_file} is torn ({_how}), then audit')
    def _(t: Case, file=_file, damage=_damage) -> Verdict:
      run = t.copy()
      damage(run / file)
      done = t.launch('audit')
      return done, same_or_refused(t, done)


for _name, _json in (
  ('list', '[]'), ('null', 'null'), ('number', '{"data_sha256": 5}'),
  ('nested', '[' * 100_000), ('nan', '{"data_sha256": NaN}'),
  ('environments', '{"data_sha256": "SHA", "environments": 5}'),
):  # fmt: skip

  @row(f'D.provenance_{_name}', f'provenance.json is {_json[:40]}')
  def _(t: Case, text=_json) -> Verdict:
    run = t.copy()
    path = run / 'provenance.json'
    sha = json.loads(path.read_text())['data_sha256']
    path.write_text(text.replace('SHA', sha))
    done = t.launch('audit')
    return done, same_or_refused(t, done)


@row('D.run_config_nested', 'config.json of a run is 100,000 brackets')
def _(t: Case) -> Verdict:
  run = t.copy()
  (run / 'config.json').write_text('[' * 100_000)
  done = t.launch('audit')
  return done, refused(done, 'config.json')


@row('D.run_config_list', 'config.json of a run is a list')
def _(t: Case) -> Verdict:
  run = t.copy()
  (run / 'config.json').write_text('[1]')
  done = t.launch('audit')
  return done, refused(done, 'config.json')


@row('D.run_config_type', "config.json's num_models is text")
def _(t: Case) -> Verdict:
  run = t.copy()
  path = run / 'config.json'
  path.write_text(path.read_text().replace('"num_models": 2',
                                           '"num_models": "2"'))  # fmt: skip
  done = t.launch('audit')
  return done, refused(done)


def _add_block(name: str, file: str, **changes) -> None:
  @row(f'D.block_{name}', f'{file}: {name.replace("_", " ")}')
  def _(t: Case) -> Verdict:
    run = t.copy()
    drop_tables(run)
    rewrite(run / file, **changes)
    done = t.launch('audit')
    return done, same_or_refused(t, done)


_signals, _samples, _near = (
  f'{name}/model-000/00000000.npz'
  for name in ('signals', 'samples', 'neighbours')
)
_add_block('signals_fewer_rows', _signals, signals=lambda a: a[:-1])
_add_block('signals_fewer_all', _signals, signals=lambda a: a[:-1],
  indices=lambda a: a[:-1])  # fmt: skip
_add_block('signals_fewer_columns', _signals, signals=lambda a: a[:, :-1])
_add_block('signals_ints', _signals, signals=lambda a: a.astype(np.int8))
_add_block('signals_nan', _signals, signals=lambda a: a * np.nan)
_add_block('signals_text', _signals, signals=lambda a: a.astype(str))
_add_block('signals_indices', _signals, indices=lambda a: a[::-1])
_add_block('samples_fewer', _samples, images=lambda a: a[:-1])
_add_block('samples_float', _samples, images=lambda a: a.astype(np.float64))
_add_block('samples_shape', _samples, images=lambda a: a[:, :4])
_add_block('samples_indices', _samples, indices=lambda a: a + 16)
for _index in range(4):

  @row(f'D.block_neighbours_{_index}', f'{_near}: array {_index} cut short')
  def _(t: Case, index=_index) -> Verdict:
    run = t.copy()
    drop_tables(run)
    with np.load(run / _near) as block:
      names = sorted(name for name in block.files if block[name].ndim)
    rewrite(run / _near, **{names[index % len(names)]: lambda a: a[:-1]})
    done = t.launch('audit')
    return done, same_or_refused(t, done)


def record(path: pathlib.Path) -> bytes:
  """A file of 32 records, and its content."""
  commands.apart(_write_record, path)
  return path.read_bytes()


def _write_record(path: pathlib.Path) -> None:
  from array_record.python import array_record_module

  writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
  for i in range(32):
    writer.write(encoded(picture(i)))
  writer.close()


def of_records(path: pathlib.Path, **more) -> list[str]:
  return source(
    'array_record', path, data__image_size=8, data__channels=1, **more
  )


for _place in (0.02, 0.3, 0.5, 0.7, 0.98):

  @row(f'D.record_{_place}', f'array_record with a byte changed at {_place}')
  def _(t: Case, place=_place) -> Verdict:
    path = t.folder / 'a.array_record'
    content = bytearray(record(path))
    whole = t.train(*of_records(path), workdir=t.folder / 'whole')
    content[int(place * len(content))] ^= 0xFF
    path.write_bytes(content)
    done = t.train(*of_records(path))
    wrong = either(done, 'a.array_record')
    if whole.code == done.code == 0 and not wrong:
      # What lies between records may change: nothing reads it.
      one, two = (
        json.loads((t.folder / name / 'provenance.json').read_text())
        for name in ('whole', 'run')
      )
      if one['data_sha256'] != two['data_sha256']:
        wrong = ['accepted: other images']
    return done, wrong


@row('D.record_skip', 'the same with skip_broken')
def _(t: Case) -> Verdict:
  path = t.folder / 'a.array_record'
  content = bytearray(record(path))
  content[len(content) // 2] ^= 0xFF
  path.write_bytes(content)
  done = t.train(
    *source('array_record', path, data__image_size=8, data__channels=1,
            data__skip_broken=True)
  )  # fmt: skip
  return done, either(done, 'a.array_record')


def _zip(t: Case, name: str, content: bytes, **how) -> list[str]:
  with zipfile.ZipFile(t.folder / 'a.npz', 'w') as archive:
    archive.writestr(name, content, **how)
  return source('npz', t.folder / 'a.npz')


def _patched(t: Case, offset: int, value: int) -> list[str]:
  """An npz with a field changed in both of its headers."""
  flags = npz(t.folder / 'a.npz', images=pixels())
  path = t.folder / 'a.npz'
  content = bytearray(path.read_bytes())
  central = content.rindex(b'PK\1\2')
  for at in (offset, central + offset + 2):
    struct.pack_into('<H', content, at, value)
  path.write_bytes(content)
  return flags


def _npy(header: str) -> bytes:
  text = header.encode().ljust(117) + b'\n'
  return b'\x93NUMPY\1\0' + struct.pack('<H', len(text)) + text + bytes(100)


for _name, _flags_of in (
  ('member_not_npy', lambda t: _zip(t, 'images.npy', b'hello')),
  ('member_other', lambda t: _zip(t, 'images.txt', b'hello')),
  ('empty_zip', lambda t: npz(t.folder / 'a.npz')),
  ('encrypted', lambda t: _patched(t, 6, 1)),
  ('method', lambda t: _patched(t, 8, 97)),
  ('lzma', lambda t: _zip(t, 'images.npy', b'hello',
                          compress_type=zipfile.ZIP_LZMA)),
  ('twice', lambda t: npz(t.folder / 'a.npz', images=pixels(),
                          **{'images.npy': pixels()})),
  ('header_words', lambda t: _zip(t, 'images.npy', _npy('{' * 100))),
  ('header_call', lambda t: _zip(t, 'images.npy', _npy('__import__("os")'))),
  ('header_shape', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8, 8, 1), }"))),
  ('header_huge', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000000, 800), }"))),
  ('header_wide', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': '|u1', 'fortran_order': False, 'shape': (9999999999999999999,"
    " 8), }"))),
  ('header_none', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': None, 'fortran_order': False, 'shape': (1,), }"))),
  ('header_descr', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': 'zz', 'fortran_order': 5, 'shape': 5, }"))),
  ('header_object', lambda t: _zip(t, 'images.npy', _npy(
    "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"))),
  ('header_deep', lambda t: _zip(t, 'images.npy', b'\x93NUMPY\2\0'
    + struct.pack('<I', 9000) + b'(' * 8999 + b'\n')),
  ('source_2d', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    source=np.array([['a', 'b']] * 32))),
  ('source_scalar', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    source=np.array('a'))),
  ('source_float', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    source=np.full(32, np.nan))),
  ('labels_bool', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    labels=np.ones(32, bool))),
  ('labels_negative', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    labels=np.full(32, -1))),
  ('images_empty', lambda t: npz(t.folder / 'a.npz',
    images=np.zeros((0, 8, 8, 1), np.uint8))),
  ('images_flat', lambda t: npz(t.folder / 'a.npz',
    images=np.zeros((32, 0, 8, 1), np.uint8))),
  ('other_array', lambda t: npz(t.folder / 'a.npz', images=pixels(),
    groups=np.arange(32))),
):  # fmt: skip

  @row(f'D.npz_{_name}', f'an npz: {_name.replace("_", " ")}')
  def _(t: Case, flags_of=_flags_of, name=_name) -> Verdict:
    done = t.train(*flags_of(t))
    if name in ('source_float', 'source_2d'):
      return done, either(done)
    named = () if name.startswith('images_') else ('npz',)
    return done, refused(done, *named)


for _name, _content in (
  ('empty', b''),
  ('text', b'hello'),
  ('torn', b'\x93NUMPY\1\0\xff\xff{'),
  ('header', _npy('{' * 100)),
  ('shape', _npy("{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 8)}")),
  ('huge', _npy("{'descr': '|u1', 'fortran_order': False, 'shape': "
                '(9999999999999999999, 8, 8, 1)}')),
  ('object', _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}")),
  ('pickle', pickle.dumps([1])),
):  # fmt: skip

  @row(f'D.npy_{_name}', f'images.npy: {_content[:40]!r}')
  def _(t: Case, content=_content) -> Verdict:
    (t.folder / 'images.npy').write_bytes(content)
    done = t.train(*source('npy', t.folder))
    return done, refused(done, 'images.npy')


for _mode in ('xz', 'bz2', 'gz'):

  @row(f'D.tar_{_mode}_flips', f'24 byte changes of a tar.{_mode}')
  def _(t: Case, mode=_mode) -> Verdict:
    whole = tar(t.folder / 'whole', cifar_members(rows=1), f'w:{mode}')
    content = whole.read_bytes()
    for i in range(24):
      path = t.folder / f'c.tar.{mode}'
      broken = bytearray(content)
      # Not gzip's bytes 4 to 9: a date, that says nothing of the content.
      broken[i if i < 4 else (i * len(content)) // 25] ^= 0x55
      path.write_bytes(broken)
      done = t.train(*cifar(path))
      wrong = refused(done, path.name)
      if wrong:
        return done, [*wrong, f'change {i}']
    return done, []


@row('D.archive_wrong', "a wrong archive's message has 5 lines")
def _(t: Case) -> Verdict:
  path = t.folder / 'c.tar.gz'
  path.write_text('<html>not found</html>\n' * 100)
  done = t.train(*cifar(path))
  return done, refused(done, 'c.tar.gz')


_UNET_VALUES = (
  ('sample_size', ('"a"', '0', '-8', '8.5', '[8]', '[8, 8, 8]', '{}', 'true',
                   '1e400', '[]', '1000000')),
  ('in_channels', ('"a"', '0', '-1', 'null', '[]', '1.5', '1000000000')),
  ('out_channels', ('"a"', '0', '-1', 'null', '[]')),
  ('block_out_channels', ('null', '[]', '5', '"ab"', '[0, 4]', '[-4, 4]',
                          '[4]', '["a", "b"]', '[[4], [4]]', '[4.5, 4]',
                          '[4, 1000000000]', '{}')),
  ('layers_per_block', ('null', '0', '-1', '"a"', '1.5', '[]', '[1, 1]',
                        '1000000000')),
  ('down_block_types', ('null', '[]', '5', '"DownBlock2D"', '[5, 5]',
                        '[null, null]', '[[], []]', '{}')),
  ('up_block_types', ('null', '[]', '5', '[{}, {}]')),
  ('mid_block_type', ('null', '5', '[]', '{}')),
  ('norm_num_groups', ('null', '0', '-1', '3', '"a"', '1.5', '[]')),
  ('attention_head_dim', ('0', '-1', '"a"', '1.5', '[]', '3')),
  ('attn_norm_num_groups', ('0', '-1', '"a"', '7')),
  ('norm_eps', ('null', '"a"', '-1', '[]', 'NaN', '1e400')),
  ('act_fn', ('null', '5', '[]', '{}')),
  ('time_embedding_type', ('null', '5', '[]', '{}')),
  ('time_embedding_dim', ('0', '-1', '"a"', '[]', '1.5')),
  ('class_embed_type', ('5', '[]', '{}', '"timestep"')),
  ('num_class_embeds', ('0', '-1', '"a"', '[]', '1.5', '1000000000000')),
  ('dropout', ('null', '"a"', '-1', '2', '[]')),
  ('freq_shift', ('null', '"a"', '[]', '1e400')),
  ('flip_sin_to_cos', ('null', '"a"', '5', '[]')),
  ('mid_block_scale_factor', ('null', '0', '"a"', '[]')),
  ('downsample_padding', ('null', '"a"', '-1', '[]', '1.5', '1000')),
  ('downsample_type', ('null', '5', '[]')),
  ('upsample_type', ('null', '5', '[]')),
  ('resnet_time_scale_shift', ('null', '5', '[]', '{}')),
  ('add_attention', ('null', '"a"', '5', '[]')),
  ('_class_name', ('null', '5', '[]')),
  ('_diffusers_version', ('5', '[]')),
)  # fmt: skip


def _add_json(kind: str, file: str, key: str, value: str) -> None:
  @row(f'D.{kind}_{key}_{value}', f'{file}: {key} = {value}')
  def _(t: Case) -> Verdict:
    args = _net_copy(t)
    path = t.folder / 'net' / file
    content = json.loads(path.read_text())
    content[key] = 'HERE'
    path.write_text(json.dumps(content).replace('"HERE"', value))
    done = t.train(*args, timeout=20)
    return done, either(done)


for _key, _values in _UNET_VALUES:
  for _value in _values:
    _add_json('unet', 'unet/config.json', _key, _value)
for _key, _values in (
  ('num_train_timesteps',
   ('null', '0', '-1', '"a"', '[]', '1.5', '1000000000')),
  ('beta_start', ('null', '"a"', '-1', '[]', 'NaN', '2')),
  ('beta_end', ('null', '"a"', '-1', '[]', 'NaN', '2')),
  ('beta_schedule', ('null', '5', '[]', '{}')),
  ('prediction_type', ('null', '5', '[]', '{}')),
  ('variance_type', ('null', '5', '[]', '{}')),
  ('clip_sample', ('null', '"a"', '[]', '5')),
  ('clip_sample_range', ('null', '"a"', '[]', '2.0')),
  ('timestep_spacing', ('null', '5', '[]', '{}')),
  ('trained_betas', ('[0.1]', '5', '"a"')),
):  # fmt: skip
  for _value in _values:
    _add_json('scheduler', 'scheduler/scheduler_config.json', _key, _value)

for _name, _text in (
  ('nested', '[' * 100_000), ('list', '[]'), ('digits', '1' * 5000),
  ('bytes', '\udcff'), ('empty', ''), ('deep', '{"a":' * 100_000),
  ('twice', '{"sample_size": 8, "sample_size": 9}'), ('bom', '\ufeff{}'),
):  # fmt: skip

  @row(f'D.unet_json_{_name}', f'unet/config.json is {ascii(_text[:20])}')
  def _(t: Case, text=_text) -> Verdict:
    args = _net_copy(t)
    (t.folder / 'net' / 'unet' / 'config.json').write_bytes(
      text.encode('utf-8', 'surrogateescape')
    )
    done = t.train(*args)
    return done, refused(done, 'config.json')


for _key, _value in (
  ('model__attn_norm_num_groups', 7), ('model__attn_norm_num_groups', -1),
  ('model__norm_eps', -1.0), ('model__norm_eps', 'nan'),
  ('model__norm_eps', 'inf'), ('model__mid_block_scale_factor', 0.0),
  ('model__mid_block_scale_factor', 'nan'), ('model__freq_shift', 1e30),
  ('model__freq_shift', 'nan'), ('model__freq_shift', 4.0),
  ('model__downsample_padding', -1), ('model__downsample_padding', 1000),
  ('data__channels', 2), ('data__channels', 0), ('data__channels', -1),
  ('data__num_examples', -1), ('name', '"a\nb"'), ('split', 'nonsense'),
  ('signals__timesteps', '(50,50)'), ('signals__timesteps', '(True,50)'),
  ('membership__timestep', -1), ('extraction__target_precision', 'nan'),
  ('sample__guidance_scale', 'nan'), ('sample__eta', 'nan'),
  ('diffusion__beta_schedule', 'nonsense'), ('model__dtype', 'float16'),
  ('train__ema_decay', 1.0), ('side__cohesion', 'nan'),
):  # fmt: skip
  _id = ascii(f'{_key.replace("__", ".")}={_value}')[1:-1]

  @row(f'D.key_{_id}', f'unchecked key: {_id!r}')
  def _(t: Case, key=_key, value=_value) -> Verdict:
    images(t.folder / 'set')
    flags = folder_of(t.folder / 'set') if key == 'data__channels' else []
    extra = {'model__add_attention': True} if 'attn' in key else {}
    if key == 'signals__timesteps':
      extra = {'membership__timestep': 50}
    done = t.train(*flags, *sub(**{key: value}, **extra), timeout=30)
    if key == 'name' or 'timesteps' in key:
      return done, either(done)
    return done, refused(done, key.replace('__', '.').split('.')[-1])


@row('D.labels_none', 'labels "None" and "NA" are "missing"')
def _(t: Case) -> Verdict:
  images(t.folder / 'set')
  names = ('None', 'NA', 'nan', 'null')
  (t.folder / 'set' / 'metadata.csv').write_text(
    'file_name,label\n'
    + ''.join(f'{i}.png,{names[i % 4]}\n' for i in range(32))
  )
  done = t.train(*folder_of(t.folder / 'set'))
  return done, accepted(done)


@row('D.file_name_na', 'an image called NA (or null)')
def _(t: Case) -> Verdict:
  images(t.folder / 'set', [*(f'{i}.png' for i in range(31)), 'NA/x.png'])
  (t.folder / 'set' / 'metadata.csv').write_text(
    'file_name,label\n' + ''.join(f'{i}.png,0{i % 2}\n' for i in range(31))
    + 'NA/x.png,1\n'
  )  # fmt: skip
  done = t.train(*folder_of(t.folder / 'set'))
  return done, either(done)


for _name, _content in (
  ('nul', b'file_name\n0.png\0\n'), ('quote', b'file_name\n"0.png\n'),
  ('utf16', 'file_name\n0.png\n'.encode('utf-16')),
  ('latin1', 'file_name\nü.png\n'.encode('latin1')),
  ('wide', b'file_name,label\n0.png,1,2,3\n'), ('head', b'file_name\n'),
  ('absolute', b'file_name\n/etc/passwd\n'), ('empty', b''),
  ('long', b'file_name\n' + b'a' * 5000 + b'\n'),
  ('escape', b'file_name\na\x1b[31m.png\n'),
  ('semicolon', b'file_name;label\n0.png;1\n'),
  ('crlf_in', b'file_name\n"0\r\n.png"\n'),
):  # fmt: skip

  @row(f'D.metadata_{_name}', f'metadata.csv: {_content[:50]!r}')
  def _(t: Case, content=_content) -> Verdict:
    images(t.folder / 'set')
    (t.folder / 'set' / 'metadata.csv').write_bytes(content)
    done = t.train(*folder_of(t.folder / 'set'))
    return done, refused(done, '/etc' if b'/etc' in content else '/set')


@row('D.out_tilde', 'export --out=~/x makes a folder called ~')
def _(t: Case) -> Verdict:
  home = t.folder / 'home'
  home.mkdir()
  stray = commands.ROOT / '~'
  done = t.launch(
    'export', '--out=~/net', workdir=t.lab.base(), env={'HOME': str(home)}
  )
  wrong = accepted(done)
  if stray.exists():
    shutil.rmtree(stray)
    wrong.append('side effect: a folder ~')
  elif not wrong and not (home / 'net').exists():
    wrong.append('not there')
  return done, wrong


for _name in ('init', 'inception', 'data', 'other'):

  @row(f'D.tilde_{_name}', f'~ in the path of {_name}')
  def _(t: Case, name=_name) -> Verdict:
    home = t.folder / 'home'
    home.mkdir()
    if name == 'init':
      shutil.copytree(t.lab.net(0), home / 'net')
      flags = sub(model__init_from='~/net')
    elif name == 'other':
      shutil.copytree(t.lab.base(), home / 'base')
      flags = sub(extraction__other_run='~/base')
    elif name == 'data':
      npz(home / 'a.npz', images=pixels())
      flags = source('npz', '~/a.npz')
    else:
      (home / 'i.safetensors').write_bytes(b'x')
      flags = sub(quality__inception='~/i.safetensors')
    done = t.train(*flags, env={'HOME': str(home)})
    if name == 'inception':
      return done, refused(done, 'whole')
    return done, accepted(done)


@row('D.csv_formula', 'formulas in `source` are written raw')
def _(t: Case) -> Verdict:
  names = [f'{i}.png' for i in range(28)]
  images(t.folder / 'set', [*names, '=1+1.png', '+1.png', '-1.png', '@a.png'])
  done = t.train(*folder_of(t.folder / 'set'))
  wrong = accepted(done)
  if not wrong:
    raw = [x for x in cells(t.run / 'examples.csv', 'source') if x[0] in '=+-@']
    wrong = [f'side effect: {raw[0]}'] if raw else []
  return done, wrong


@row('D.umask', 'outputs, training images included, take the umask')
def _(t: Case) -> Verdict:
  old = os.umask(0o000)
  try:
    done = t.launch('audit', whole=True, timeout=120)
  finally:
    os.umask(old)
  wrong = accepted(done)
  if not wrong:
    mode = t.run.stat().st_mode & 0o077
    open_ = [
      str(path.relative_to(t.run))
      for path in t.run.rglob('*')
      if path.stat().st_mode & 0o022
    ]
    if mode & 0o007 or open_:
      wrong = [f'side effect: mode {mode:o}, {len(open_)} writable by others']
  return done, wrong


@row('D.workdir_is_file', '--workdir is a file')
def _(t: Case) -> Verdict:
  t.run.write_text('x')
  done = t.train()
  return done, refused(done, '--workdir')


@row('D.shard', '--shard=1/0, a/b, 3/2')
def _(t: Case) -> Verdict:
  path = t.folder / 'own.py'
  path.write_text(CONFIG + SWEEP.replace('OVERRIDES', '{}'))
  for value in (
    '1/0',
    'a/b',
    '3/2',
    '-1/2',
    '0/',
    '\u00b2/3',
    '1/' + '9' * 5000,
  ):
    done = t.launch('sweep', f'--config={path}', f'--shard={value}')
    wrong = refused(done, '--shard')
    if wrong:
      return done, [*wrong, f'--shard={value[:10]}']
  return done, []


for _name, _points in (
  ('none', 'None'), ('empty', '[]'), ('number', '5'), ('words', "['a']"),
  ('no_run', "[{'knob': 'a', 'value': '1', 'overrides': {}}]"),
  ('above', "[{'knob': 'a', 'value': '1', 'run': '../up', 'overrides': {}}]"),
  ('absolute', "[{'knob': 'a', 'value': '1', 'run': '/tmp/jaxdiff-abs', "
               "'overrides': {}}]"),
  ('no_name', "[{'knob': 'a', 'value': '1', 'run': '', 'overrides': {}}]"),
  ('run_number', "[{'knob': 'a', 'value': 1, 'run': 5, 'overrides': {}}]"),
  ('raises', '1 / 0'),
):  # fmt: skip

  @row(f'D.sweep_points_{_name}', f'sweep() returns {_points}')
  def _(t: Case, points=_points) -> Verdict:
    path = t.folder / 'own.py'
    path.write_text(CONFIG + f'\n\ndef sweep(arg=None):\n  return {points}\n')
    done = t.launch('sweep', f'--config={path}', timeout=40)
    wrong = refused(done)
    outside = t.folder / 'up'
    if outside.exists() or pathlib.Path('/tmp/jaxdiff-abs').exists():
      shutil.rmtree('/tmp/jaxdiff-abs', ignore_errors=True)
      wrong.append('side effect: wrote outside')
    return done, wrong


def main(argv: list[str] | None = None) -> int:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='ids, a regular expression')
  parser.add_argument('--out', type=pathlib.Path)
  parser.add_argument('--list', action='store_true')
  parser.add_argument('--progress', action='store_true')
  parser.add_argument('--spawn', action='store_true')
  parser.add_argument('--whole', action='store_true')
  parser.add_argument('--lab', type=pathlib.Path)
  args = parser.parse_args(argv)
  chosen = [name for name in ROWS if re.match(args.only, name)]
  if args.list:
    for name in chosen:
      print(f'{name}\t{ROWS[name][0]}')
    return 0
  environment()
  rows = []
  with tempfile.TemporaryDirectory(prefix='jaxdiff-faults-') as scratch:
    folder = args.lab or pathlib.Path(scratch)
    folder.mkdir(parents=True, exist_ok=True)
    lab = Lab(folder, not args.spawn, args.whole)
    for number, name in enumerate(chosen):
      fault, work = ROWS[name]
      case = Case(pathlib.Path(scratch) / f'row-{number}', lab)
      case.folder.mkdir()
      try:
        done, wrong = work(case)
      except Exception as error:  # a row that is broken is a row that fails
        done, wrong = None, [f'row: {type(error).__name__}: {error}'[:200]]
      rows.append((name, name.partition('.')[0], fault, done, wrong))
      shutil.rmtree(case.folder, ignore_errors=True)
      if args.progress:
        print(
          json.dumps({
            'id': name, 'wrong': wrong,
            'exit': done.code if done else None,
            's': round(done.seconds, 1) if done else None,
            'last': done.last[:200] if done else '',
          }),
          file=sys.stderr, flush=True,
        )  # fmt: skip
      if args.out:
        args.out.write_text(commands.table(rows))
  print(commands.table(rows))
  return int(any(wrong for *_, wrong in rows))


def environment() -> None:
  """Compiled programs are kept: here for this machine's next rows too."""
  os.environ.setdefault('JAX_PLATFORMS', 'cpu')
  os.environ.setdefault('JAX_DISABLE_MOST_OPTIMIZATIONS', '1')
  os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
  if 'JAX_COMPILATION_CACHE_DIR' not in os.environ:
    cache = pathlib.Path(tempfile.gettempdir()) / f'jaxdiff-cache-{os.getuid()}'
    os.environ['JAX_COMPILATION_CACHE_DIR'] = str(cache)
    os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0.1'


if __name__ == '__main__':
  sys.exit(main())
