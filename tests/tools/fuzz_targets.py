"""Loaders of data sets and models, and small whole files of each, to damage."""

from collections.abc import Callable
import dataclasses
import gzip
import hashlib
import io
import json
import pathlib
import pickle
import random
import struct
import tarfile
import tempfile
from typing import Any
from unittest import mock
import zipfile
import zlib

import numpy as np
from PIL import Image

from tests.tools import mutations

Files = dict[str, bytes]


@dataclasses.dataclass(frozen=True)
class Target:
  """A loader and whole files for it.

  Attributes:
    make: rng -> whole files by name; variants of a format by chance.
    load: folder -> what was loaded, as a digest; raises what the loader does.
    checked: names of files whose every byte is under a checksum.
    damaged: names of files to damage.
    inner: (rng, content) -> content, damaged within and packed again.
  """

  make: Callable[[random.Random], Files]
  load: Callable[[pathlib.Path], str]
  damaged: tuple[str, ...]
  checked: tuple[str, ...] = ()
  inner: Callable[[random.Random, bytes], bytes] | None = None


class Loaded(BaseException):  # noqa: N818  (it is no error)
  """Carries what a loader gave out of `plans.make`, past its handlers."""


def digest(*parts: Any) -> str:
  """Of arrays and plain values."""
  out = hashlib.sha256()
  for part in parts:
    if isinstance(part, np.ndarray) and part.dtype != object:
      out.update(f'{part.dtype} {part.shape}'.encode())
      out.update(np.ascontiguousarray(part).tobytes())
    elif isinstance(part, np.ndarray):
      out.update(repr(part.tolist()).encode('utf-8', 'surrogateescape'))
    else:
      out.update(repr(part).encode('utf-8', 'surrogateescape'))
  return out.hexdigest()


def through_plans(**overrides) -> str:
  """Digest of the data set that a config leads to."""
  from jaxdiff import plans
  from tests import tiny

  def stop(config, dataset, *more) -> None:
    del config, more
    raise Loaded(dataset)

  config = tiny.config(data__num_examples=0, **overrides)
  with mock.patch.object(plans.checks, 'check_size', stop):
    try:
      plans.make(config)
    except Loaded as loaded:
      (data,) = loaded.args
      return digest(data.images, data.labels, data.group, data.num_classes)
  raise AssertionError('plans.make does not check images any more')


def pixels(count: int, size: int = 8, channels: int = 1) -> np.ndarray:
  rng = np.random.default_rng(0)
  return rng.integers(0, 256, (count, size, size, channels), np.uint8)


def encoded(array: np.ndarray, kind: str, mode: str | None = None, **options):
  """An image file of an array [H, W, C], in another mode if need be."""
  image = Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array)
  if mode is not None:
    image = image.convert(mode)
  buffer = io.BytesIO()
  image.save(buffer, kind, **options)
  return buffer.getvalue()


# Image files.


def _png(rng: random.Random) -> bytes:
  array = pixels(1, 8, 3)[0]
  mode = rng.choice(('RGB', 'L', 'P', 'RGBA', '1', 'I;16', 'LA'))
  if mode == 'I;16':
    buffer = io.BytesIO()
    Image.fromarray(array[..., 0].astype(np.uint16) * 257).save(buffer, 'PNG')
    return buffer.getvalue()
  options = {}
  if rng.random() < 0.3:
    exif = Image.Exif()
    exif[0x0112] = 6
    options['exif'] = exif
  return encoded(array, 'PNG', mode, **options)


def _repaired_png(rng: random.Random, content: bytes) -> bytes:
  """A chunk damaged, its checksum right; of pixels, often what is packed."""
  chunks, at = [], 8
  while at + 12 <= len(content):
    (size,) = struct.unpack_from('>I', content, at)
    chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
    at += 12 + size
  index = rng.randrange(len(chunks))
  kind, body = chunks[index]
  if kind == b'IDAT' and rng.random() < 0.5:
    body = zlib.compress(mutations.mutate(rng, zlib.decompress(body)))
  elif rng.random() < 0.2:
    kind = mutations.mutate(rng, kind)[:4].ljust(4, b'x')
  else:
    body = mutations.mutate(rng, body)
  chunks[index] = kind, body
  if rng.random() < 0.2:
    chunks.insert(rng.randrange(len(chunks)), rng.choice(chunks))
  return content[:8] + b''.join(
    struct.pack('>I', len(body)) + kind + body
    + struct.pack('>I', zlib.crc32(kind + body))
    for kind, body in chunks
  )  # fmt: skip


def _jpg(rng: random.Random) -> bytes:
  options = rng.choice(
    ({}, {'progressive': True}, {'optimize': True}, {'subsampling': 2})
  )
  if rng.random() < 0.4:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = rng.randrange(1, 9), 'maker'
    options = options | {'exif': exif}
  mode = rng.choice(('RGB', 'L', 'CMYK'))
  return encoded(pixels(1, 16, 3)[0], 'JPEG', mode, **options)


def _gif(rng: random.Random) -> bytes:
  frames = [Image.fromarray(one).convert('P') for one in pixels(3, 8, 3)]
  buffer = io.BytesIO()
  more = {}
  if rng.random() < 0.5:
    more = {'save_all': True, 'append_images': frames[1:], 'loop': 0}
  frames[0].save(buffer, 'GIF', **more)
  return buffer.getvalue()


def _bmp(rng: random.Random) -> bytes:
  mode = rng.choice(('RGB', 'L', 'P', '1', 'RGBA'))
  return encoded(pixels(1, 8, 3)[0], 'BMP', mode)


def _webp(rng: random.Random) -> bytes:
  frames = [Image.fromarray(one) for one in pixels(3, 8, 3)]
  buffer = io.BytesIO()
  more = rng.choice(
    ({}, {'lossless': True},
     {'save_all': True, 'append_images': frames[1:]})
  )  # fmt: skip
  frames[0].save(buffer, 'WEBP', **more)
  return buffer.getvalue()


def _tif(rng: random.Random) -> bytes:
  array = pixels(1, 8, 3)[0]
  kind = rng.random()
  buffer = io.BytesIO()
  if kind < 0.15:
    grey = array[..., 0].astype(np.float32) * 257
    Image.fromarray(grey).save(buffer, 'TIFF')
    return buffer.getvalue()
  if kind < 0.3:
    grey = array[..., 0].astype(np.uint16) * 257
    Image.fromarray(grey).save(buffer, 'TIFF')
    return buffer.getvalue()
  packed = rng.choice((None, 'tiff_lzw', 'tiff_adobe_deflate', 'packbits',
                       'jpeg'))  # fmt: skip
  mode = 'RGB' if packed == 'jpeg' else rng.choice(('RGB', 'L', 'P', 'CMYK'))
  return encoded(array, 'TIFF', mode, compression=packed)


def _ppm(rng: random.Random) -> bytes:
  array = pixels(1, 8, 3)[0]
  kind = rng.randrange(5)
  if kind == 0:
    return encoded(array, 'PPM')
  if kind == 1:
    return encoded(array, 'PPM', 'L')
  if kind == 2:
    numbers = ' '.join(map(str, array.reshape(-1)))
    return f'P3\n8 8\n255\n{numbers}\n'.encode()
  if kind == 3:
    return b'P5\n8 8\n65535\n' + array[..., 0].astype('>u2').tobytes()
  return b'P1\n8 8\n' + b'1 0 ' * 32


def _image_target(kind: str, one: Callable[[random.Random], bytes]) -> Target:
  name = f'b.{kind}'

  def make(rng: random.Random) -> Files:
    return {'a.png': encoded(pixels(1)[0], 'PNG'), name: one(rng)}

  return Target(
    make=make,
    load=lambda folder: through_plans(
      data__name='image_folder', data__path=str(folder), data__image_size=8,
      data__channels=3,
    ),
    damaged=(name,),
    checked=(name,) if kind == 'png' else (),
    inner=_repaired_png if kind == 'png' else None,
  )  # fmt: skip


# Archives.


def _cifar_members(kind: str, rows: int) -> Files:
  rng = np.random.default_rng(0)
  out = {}
  for i in range(1, 6):
    data = rng.integers(0, 256, (rows, 3072), np.uint8)
    labels = rng.integers(0, 10, rows)
    if kind == 'binary':
      content = np.concatenate([labels[:, None].astype(np.uint8), data], 1)
      out[f'cifar-10-batches-bin/data_batch_{i}.bin'] = content.tobytes()
    else:
      batch = {
        b'batch_label': b'training batch', b'labels': labels.tolist(),
        b'data': data, b'filenames': [b'a.png'] * rows,
      }  # fmt: skip
      out[f'cifar-10-batches-py/data_batch_{i}'] = pickle.dumps(
        batch, protocol=2
      )
  return out


def packed_tar(members: Files, mode: str = 'w') -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode=mode) as archive:
    for name, content in members.items():
      info = tarfile.TarInfo(name)
      info.size = len(content)
      archive.addfile(info, io.BytesIO(content))
  return buffer.getvalue()


def _cifar(kind: str, rows: int, packing: str = 'gz') -> Target:
  name = f'cifar.tar.{packing}'
  members = _cifar_members(kind, rows)
  pack = {'gz': lambda x: gzip.compress(x, mtime=0)}

  def make(rng: random.Random) -> Files:
    del rng
    if packing == 'gz':
      return {name: pack['gz'](packed_tar(members))}
    return {name: packed_tar(members, f'w:{packing}')}

  def inner(rng: random.Random, content: bytes) -> bytes:
    if rng.random() < 0.5:
      tar = bytearray(gzip.decompress(content))
      # A member's head, its checksum right more often than not.
      heads = [512 * i for i in range(len(tar) // 512)
               if tar[512 * i + 257 : 512 * i + 262] == b'ustar']  # fmt: skip
      at = rng.choice(heads)
      head = mutations.mutate(rng, bytes(tar[at : at + 512]))
      head = bytearray(head[:512].ljust(512, b'\0'))
      if rng.random() < 0.7:
        head[148:156] = b' ' * 8
        head[148:156] = b'%06o\0 ' % sum(head)
      tar[at : at + 512] = head
      return pack['gz'](bytes(tar))
    changed = dict(members)
    one = rng.choice(list(changed))
    changed[one] = mutations.mutate(rng, changed[one])
    return pack['gz'](packed_tar(changed))

  def load(folder: pathlib.Path) -> str:
    from jaxdiff.data.readers import cifar

    # The name is today's; where it is another, whole ones are refused.
    with mock.patch.object(cifar, '_CIFAR_ROWS', rows):
      return through_plans(data__name='cifar10', data__path=str(folder / name))

  return Target(
    make=make,
    load=load,
    damaged=(name,),
    checked=(name,),
    inner=inner if packing == 'gz' else None,
  )


def _idx(packed: bool) -> Target:
  end = '.gz' if packed else ''
  names = f'train-images-idx3-ubyte{end}', f'train-labels-idx1-ubyte{end}'
  images = struct.pack('>IIII', 0x803, 16, 8, 8) + pixels(16).tobytes()
  labels = struct.pack('>II', 0x801, 16) + bytes(range(8)) * 2

  def make(rng: random.Random) -> Files:
    del rng
    pair = images, labels
    if packed:
      pair = [gzip.compress(one, mtime=0) for one in pair]
    return dict(zip(names, pair, strict=True))

  return Target(
    make=make,
    load=lambda folder: through_plans(
      data__name='fashion_mnist', data__path=str(folder)
    ),
    damaged=names,
    checked=names if packed else (),
    inner=(
      (lambda rng, content: gzip.compress(
        mutations.mutate(rng, gzip.decompress(content)), mtime=0))
      if packed else None
    ),
  )  # fmt: skip


def npz(**arrays: np.ndarray) -> bytes:
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  return buffer.getvalue()


def zipped_again(rng: random.Random, content: bytes) -> bytes:
  """A member of a zip damaged and packed again, or renamed."""
  with zipfile.ZipFile(io.BytesIO(content)) as archive:
    members = {name: archive.read(name) for name in archive.namelist()}
  one = rng.choice(list(members))
  if rng.random() < 0.1:
    name = mutations.mutate(rng, one.encode()).decode('latin1')
    members[name.replace('\0', '') or 'x'] = members.pop(one)
  else:
    members[one] = mutations.mutate(rng, members[one])
  buffer = io.BytesIO()
  with zipfile.ZipFile(
    buffer, 'w', rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
  ) as archive:
    for name, member in members.items():
      archive.writestr(zipfile.ZipInfo(name), member)
  return buffer.getvalue()


def _npz_target() -> Target:
  def make(rng: random.Random) -> Files:
    del rng
    whole = npz(
      images=pixels(16), labels=np.arange(16) % 3, group=np.arange(16) // 2,
      source=np.array([f'image {i}' for i in range(16)]),
    )  # fmt: skip
    return {'a.npz': whole}

  return Target(
    make=make,
    load=lambda folder: through_plans(
      data__name='npz', data__path=str(folder / 'a.npz')
    ),
    damaged=('a.npz',),
    checked=('a.npz',),
    inner=zipped_again,
  )


def _npy_target() -> Target:
  def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()

  whole = {
    'images.npy': npy(pixels(16)), 'labels.npy': npy(np.arange(16) % 3),
    'group.npy': npy(np.arange(16) // 2),
  }  # fmt: skip
  return Target(
    make=lambda rng: dict(whole),
    load=lambda folder: through_plans(data__name='npy', data__path=str(folder)),
    damaged=tuple(whole),
  )


def _metadata_target() -> Target:
  def make(rng: random.Random) -> Files:
    names = [f'{i}.png' for i in range(8)]
    head = rng.choice(('file_name', 'file_name,label', 'file_name,label,group'))
    lines = [head] + [
      ','.join([name, f'{i % 3}', f'person {i % 4}'][: head.count(',') + 1])
      for i, name in enumerate(names)
    ]
    files = {
      name: encoded(one, 'PNG')
      for name, one in zip(names, pixels(8), strict=True)
    }
    return files | {'metadata.csv': ('\n'.join(lines) + '\n').encode()}

  return Target(
    make=make,
    load=lambda folder: through_plans(
      data__name='image_folder', data__path=str(folder), data__image_size=8,
      data__channels=1,
    ),
    damaged=('metadata.csv',),
  )  # fmt: skip


def _record_target() -> Target:
  def make(rng: random.Random) -> Files:
    del rng
    return {'a.array_record': _written()}

  return Target(
    make=make,
    load=lambda folder: through_plans(
      data__name='array_record', data__path=str(folder / 'a.array_record'),
      data__image_size=8, data__channels=1,
    ),
    damaged=('a.array_record',),
    checked=('a.array_record',),
  )  # fmt: skip


def _written(records: list[bytes] | None = None, cache={}) -> bytes:  # noqa: B006
  """A small array_record of images; written once a process."""
  if records is None and 'plain' in cache:
    return cache['plain']
  from array_record.python import array_record_module

  with tempfile.TemporaryDirectory() as scratch:
    path = pathlib.Path(scratch) / 'a.array_record'
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for one in records or [encoded(x, 'PNG') for x in pixels(8)]:
      writer.write(one)
    writer.close()
    content = path.read_bytes()
  if records is None:
    cache['plain'] = content
  return content


def _tfds_target() -> Target:
  folder = 'tiny/1.0.0'

  def make(rng: random.Random, cache={}) -> Files:  # noqa: B006
    del rng
    if cache:
      return dict(cache)
    import tensorflow_datasets as tfds
    from tensorflow_datasets import proto

    features = tfds.features.FeaturesDict({
      'image': tfds.features.Image(shape=(8, 8, 1), encoding_format='png'),
      'label': tfds.features.ClassLabel(num_classes=3),
    })  # fmt: skip
    records = []
    for i, one in enumerate(pixels(8)):
      example = proto.tf_example_pb2.Example()
      example.features.feature['image'].bytes_list.value.append(
        encoded(one, 'PNG')
      )
      example.features.feature['label'].int64_list.value.append(i % 3)
      records.append(example.SerializeToString())
    info = {
      'name': 'tiny', 'version': '1.0.0', 'fileFormat': 'array_record',
      'splits': [{
        'name': 'train', 'shardLengths': ['8'], 'numBytes': '1',
        'filepathTemplate': '{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}',
      }],
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
      features.save_config(scratch)
      cache |= {
        f'{folder}/{path.name}': path.read_bytes()
        for path in pathlib.Path(scratch).iterdir()
      }
    cache[f'{folder}/dataset_info.json'] = json.dumps(info).encode()
    cache[f'{folder}/tiny-train.array_record-00000-of-00001'] = _written(
      records
    )
    return dict(cache)

  return Target(
    make=make,
    load=lambda where: through_plans(
      data__name='tfds', data__path=str(where), data__tfds_name='tiny',
    ),
    damaged=(f'{folder}/features.json', f'{folder}/dataset_info.json'),
    inner=mutations.mutate_json,
  )  # fmt: skip


# Nets.


def _net_target() -> Target:
  names = {
    'config': 'unet/config.json',
    'scheduler': 'scheduler/scheduler_config.json',
    'weights': 'unet/diffusion_pytorch_model.safetensors',
  }
  config = {
    '_class_name': 'UNet2DModel', 'sample_size': [8, 8], 'in_channels': 1,
    'out_channels': 1, 'block_out_channels': [4, 4], 'layers_per_block': 1,
    'down_block_types': ['DownBlock2D', 'DownBlock2D'],
    'up_block_types': ['UpBlock2D', 'UpBlock2D'], 'norm_num_groups': 2,
    'add_attention': False, 'attention_head_dim': None, 'norm_eps': 1e-5,
    'act_fn': 'silu', 'dropout': 0.0, 'freq_shift': 0, 'center_input_sample':
    None, 'flip_sin_to_cos': True, 'mid_block_scale_factor': 1,
    'downsample_padding': 1, 'time_embedding_type': 'positional',
    'resnet_time_scale_shift': 'default', 'downsample_type': 'conv',
    'upsample_type': 'conv', 'num_class_embeds': None, 'class_embed_type': None,
    'attn_norm_num_groups': None, 'num_train_timesteps': None,
    'mid_block_type': 'UNetMidBlock2D',
  }  # fmt: skip
  config = {k: v for k, v in config.items() if k != 'center_input_sample'}
  scheduler = {
    '_class_name': 'DDPMScheduler', 'beta_schedule': 'linear',
    'num_train_timesteps': 1000, 'beta_start': 1e-4, 'beta_end': 0.02,
    'prediction_type': 'epsilon', 'timestep_spacing': 'leading',
    'variance_type': 'fixed_small', 'clip_sample': True, 'trained_betas': None,
    'steps_offset': 0, 'thresholding': False, 'clip_sample_range': 1.0,
  }  # fmt: skip

  def make(rng: random.Random, cache={}) -> Files:  # noqa: B006
    del rng
    if not cache:
      from safetensors import numpy as safetensors_numpy

      from jaxdiff.interop import diffusers_weights
      from jaxdiff.models import unet

      fields = {
        field.name for field in dataclasses.fields(unet.UNet)
      } & config.keys()
      net = unet.UNet(**{
        name: tuple(config[name])
        if isinstance(config[name], list) else config[name]
        for name in fields
      })  # fmt: skip
      rng = np.random.default_rng(0)
      cache[names['weights']] = safetensors_numpy.save({
        name: rng.standard_normal(shape).astype(np.float32)
        for name, shape in diffusers_weights.shapes(net, (8, 8, 1)).items()
      })  # fmt: skip
      cache[names['config']] = json.dumps(config).encode()
      cache[names['scheduler']] = json.dumps(scheduler).encode()
    return dict(cache)

  def load(folder: pathlib.Path) -> str:
    import jax

    from jaxdiff import plans
    from jaxdiff.data import datasets
    from jaxdiff.plans import model as plans_model
    from tests import tiny

    original = plans_model.start_from

    def stop(*args, **kwargs) -> None:
      init_fn = original(*args, **kwargs)
      raise Loaded(init_fn(None))

    config = tiny.config(
      num_models=1, data__num_examples=0, model__block_out_channels=(4, 4),
      model__norm_num_groups=2, model__attention_head_dim=0,
      model__init_from=str(folder),
    )  # fmt: skip
    data = datasets.make(
      pixels(16), np.zeros(16, np.int32), [str(i) for i in range(16)]
    )
    with mock.patch.object(plans_model, 'start_from', stop):
      try:
        plans.make(config, data)
      except Loaded as loaded:
        leaves = jax.tree.leaves(loaded.args[0])
        return digest(*map(np.asarray, leaves))
    raise AssertionError('plans.make does not call start_from any more')

  def inner(rng: random.Random, content: bytes) -> bytes:
    if content[:1] == b'{':
      return mutations.mutate_json(rng, content)
    return _safetensors_head(rng, content)

  return Target(
    make=make, load=load, damaged=tuple(names.values()), inner=inner
  )


def _safetensors_head(rng: random.Random, content: bytes) -> bytes:
  """The header of a safetensors file as JSON, damaged."""
  (size,) = struct.unpack_from('<Q', content)
  head = mutations.mutate_json(rng, content[8 : 8 + size])
  if rng.random() < 0.3:
    head = mutations.mutate(rng, head)
  return struct.pack('<Q', len(head)) + head + content[8 + size :]


def _inception_target() -> Target:
  def make(rng: random.Random) -> Files:
    del rng
    from safetensors import numpy as safetensors_numpy

    state = {
      'Conv2d_1a_3x3.conv.weight': np.ones((32, 3, 3, 3), np.float32),
      **{
        f'Conv2d_1a_3x3.bn.{name}': np.ones(32, np.float32)
        for name in ('weight', 'bias', 'running_mean', 'running_var')
      },
    }
    return {'i.safetensors': safetensors_numpy.save(state)}

  def load(folder: pathlib.Path) -> str:
    from jaxdiff.interop import inception

    inception.read(str(folder / 'i.safetensors'))
    return 'read'

  return Target(
    make=make,
    load=load,
    damaged=('i.safetensors',),
    inner=_safetensors_head,
  )


def _block_target() -> Target:
  def make(rng: random.Random) -> Files:
    arrays = {'indices': np.arange(16)}
    arrays[rng.choice(('signals', 'images'))] = pixels(16)
    return {'00000000.npz': npz(**arrays)}

  def load(folder: pathlib.Path) -> str:
    from etils import epath

    from jaxdiff.runs import files as runs_files

    block = runs_files.read_npz(epath.Path(folder / '00000000.npz'), 'indices')
    if block is None:
      raise ValueError(f'{folder}: torn')
    return digest(*[x for name in sorted(block) for x in (name, block[name])])

  return Target(
    make=make,
    load=load,
    damaged=('00000000.npz',),
    checked=('00000000.npz',),
    inner=zipped_again,
  )


def targets(cifar_rows: int = 2) -> dict[str, Target]:
  """Every loader, by name."""
  return {
    'cifar_binary': _cifar('binary', cifar_rows),
    'cifar_python': _cifar('python', cifar_rows),
    'cifar_xz': _cifar('binary', 1, 'xz'),
    'cifar_bz2': _cifar('binary', 1, 'bz2'),
    'idx_gz': _idx(True),
    'idx': _idx(False),
    'npz': _npz_target(),
    'npy': _npy_target(),
    'png': _image_target('png', _png),
    'jpg': _image_target('jpg', _jpg),
    'gif': _image_target('gif', _gif),
    'bmp': _image_target('bmp', _bmp),
    'webp': _image_target('webp', _webp),
    'tiff': _image_target('tiff', _tif),
    'ppm': _image_target('ppm', _ppm),
    'metadata': _metadata_target(),
    'array_record': _record_target(),
    'tfds': _tfds_target(),
    'diffusers': _net_target(),
    'inception': _inception_target(),
    'block': _block_target(),
  }
