"""The run folder: the only module that names files.

    config.json  provenance.json    resolved config; versions, device, data
    examples.csv                    index, source, label, group, image
    duplicates.npz                  near-duplicates, and of which images
    classes.csv                     label, name
    skipped.csv                     source, reason: all that was left out
    tables.json                     SHA-256 of the tables that reports are of
    run.lock                        who holds the folder, or held it last
    models-000-007/                 a block of models trained together:
      keep.npy                        bool [models, N]: trained on it?
      metrics/00000500.csv            training figures up to that checkpoint
      metrics/00000520.npz            of steps not yet averaged, if stopped
      tensorboard/model-000/          the same figures for TensorBoard
      profile/                        a trace of some steps, if asked for
      checkpoints/                    Orbax, stacked, with SHA-256 manifests
    metrics.csv                     model, step, name, value
    quality.csv                     Frechet distances of samples
    samples/model-000/00000000.npz  images uint8, indices, labels
    neighbours/model-000/...npz     distance, index [S, k], training and control
    signals/queries.csv             name, t, draw, flip, cost of each column
    signals/model-000/00000000.npz  signals [n, Q], indices
    extraction/ membership/         tables made from the evidence above
    annotations.csv                 model, sample, memorised: a person's word
    inpainting/ drawn/model-000/...npz    images uint8, indices
      losses/model-000/...npz             of every inpainting, by that model
      images.csv summary.csv examples.npz
    guidance/ surrogates/model-000.npz    classifiers, then a run's own
      samples/ neighbours/ models.csv summary.csv
    canaries/ models-*/ signals/ metrics.csv   a run on canaries
      canaries.csv summary.csv
    report.html
    logs/process-000.log            what each process said; local folders only
    steps/00000500/                 the same of an earlier checkpoint
    steps.csv  steps.html           step, metric, value, low, high

Every write goes to a new file of a random name, which is flushed to the disk
and then renamed; a file that is present is whole. What a killed process left is
removed by the next that holds the folder's lock. Zip members of an npz carry a
CRC, and each block says whose it is: a torn block, or one of another model,
other rows or another run, reads as absent and is made again.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import secrets
import socket
from typing import Any

from absl import logging
from etils import epath
import numpy as np
import pandas as pd

from jaxdiff import inputs


@dataclasses.dataclass(frozen=True)
class ModelBlock:
  """Models first .. last (inclusive), trained together."""

  path: epath.Path
  first: int
  last: int
  identity: str = ''

  @property
  def models(self) -> range:
    return range(self.first, self.last + 1)

  @property
  def keep(self) -> epath.Path:
    return self.path / 'keep.npy'

  @property
  def checkpoints(self) -> epath.Path:
    return self.path / 'checkpoints'

  @property
  def metrics(self) -> epath.Path:
    return self.path / 'metrics'

  @property
  def tensorboard(self) -> epath.Path:
    return self.path / 'tensorboard'

  @property
  def profile(self) -> epath.Path:
    return self.path / 'profile'

  def metrics_part(self, step: int) -> epath.Path:
    return self.metrics / f'{step:08d}.csv'

  def metrics_pending(self, step: int) -> epath.Path:
    return self.metrics / f'{step:08d}.npz'


@dataclasses.dataclass(frozen=True)
class Run:
  """Paths of one run folder.

  Attributes:
    path: the folder.
    trained: the folder that holds the models, where it is another.
    identity: digest of all that the run's results depend on: config, images,
      what came from outside. Blocks of evidence and checkpoints carry it.
  """

  path: epath.Path
  trained: epath.Path | None = None
  identity: str = ''

  def __getattr__(self, name: str) -> epath.Path:
    if name not in _FILES:
      raise AttributeError(name)
    return self.path / _FILES[name]

  def at_step(self, step: int) -> 'Run':
    """What an earlier checkpoint gives away: tables and evidence, no models."""
    return Run(
      self.path / 'steps' / f'{step:08d}',
      self.path,
      f'{self.identity} step {step}' if self.identity else '',
    )

  def samples(self, model: int, start: int) -> epath.Path:
    return self.path / 'samples' / f'model-{model:03d}' / f'{start:08d}.npz'

  def neighbours(self, model: int, start: int) -> epath.Path:
    return self.path / 'neighbours' / f'model-{model:03d}' / f'{start:08d}.npz'

  def signals(self, model: int, start: int) -> epath.Path:
    return self.path / 'signals' / f'model-{model:03d}' / f'{start:08d}.npz'

  def inpaintings(self, model: int, start: int) -> epath.Path:
    name = f'model-{model:03d}'
    return self.path / 'inpainting' / 'drawn' / name / f'{start:08d}.npz'

  def inpainting_losses(self, model: int, start: int) -> epath.Path:
    name = f'model-{model:03d}'
    return self.path / 'inpainting' / 'losses' / name / f'{start:08d}.npz'

  def surrogates(self, model: int, start: int) -> epath.Path:
    """One file a model; it starts at 0."""
    del start
    return self.guided.path / 'surrogates' / f'model-{model:03d}.npz'

  @property
  def guided(self) -> 'Run':
    """Samples that surrogates guided, and their neighbours."""
    return dataclasses.replace(
      self, path=self.path / 'guidance', trained=self.trained or self.path
    )

  @property
  def canaries(self) -> 'Run':
    """Models that trained on canaries, and their signals."""
    return dataclasses.replace(self, path=self.path / 'canaries', trained=None)

  def model_blocks(self, num_models: int, per_block: int) -> list[ModelBlock]:
    """The blocks on disk, then new ones up to `num_models`.

    A run that grows keeps its earlier blocks, whatever their size.
    """
    bounds = []
    folder = self.trained or self.path
    for child in folder.glob('models-*'):
      match = re.fullmatch(r'models-(\d+)-(\d+)', child.name)
      if match:
        bounds.append((int(match[1]), int(match[2])))
    bounds.sort()
    start = bounds[-1][1] + 1 if bounds else 0
    for first in range(start, num_models, per_block):
      bounds.append((first, min(first + per_block, num_models) - 1))
    return [
      ModelBlock(
        folder / f'models-{first:03d}-{last:03d}', first, last, self.identity
      )
      for first, last in bounds
    ]


_FILES = {
  'config': 'config.json',
  'provenance': 'provenance.json',
  'examples': 'examples.csv',
  'tables': 'tables.json',
  'duplicates': 'duplicates.npz',
  'skipped': 'skipped.csv',
  'classes': 'classes.csv',
  'metrics': 'metrics.csv',
  'quality': 'quality.csv',
  'queries': 'signals/queries.csv',
  'extraction_matches': 'extraction/matches.csv',
  'extraction_summary': 'extraction/summary.csv',
  'extraction_curve': 'extraction/curve.csv',
  'extraction_gallery': 'extraction/gallery.csv',
  'extraction_extrapolation': 'extraction/extrapolation.csv',
  'extraction_eidetic': 'extraction/eidetic.csv',
  'extraction_overlap': 'extraction/overlap.csv',
  'extraction_classes': 'extraction/classes.csv',
  'annotations': 'annotations.csv',
  'extraction_annotated': 'extraction/annotated.csv',
  'pairs': 'extraction/pairs.png',
  'inpainting_images': 'inpainting/images.csv',
  'inpainting_examples': 'inpainting/examples.npz',
  'inpainting_summary': 'inpainting/summary.csv',
  'guidance_models': 'guidance/models.csv',
  'guidance_summary': 'guidance/summary.csv',
  'canary_table': 'canaries/canaries.csv',
  'canary_summary': 'canaries/summary.csv',
  'membership_scores': 'membership/scores.csv',
  'membership_summary': 'membership/summary.csv',
  'membership_roc': 'membership/roc.csv',
  'membership_timesteps': 'membership/timesteps.csv',
  'membership_comparison': 'membership/comparison.csv',
  'membership_blind': 'membership/blind.csv',
  'membership_inference': 'membership/dataset_inference.csv',
  'membership_studies': 'membership/studies.csv',
  'membership_extremes': 'membership/extremes.csv',
  'report': 'report.html',
  'logs': 'logs',
  'steps_table': 'steps.csv',
  'steps_page': 'steps.html',
}

# What a report is made of, beside evidence.
REPORTED = tuple(
  name
  for name, file in _FILES.items()
  if file.endswith('.csv')
  and name
  not in ('examples', 'classes', 'skipped', 'annotations', 'steps_table')
) + ('inpainting_examples',)


def folder(path: str) -> epath.Path:
  """Of a run, absolute: Orbax takes no other; gs://bucket/folder is one.

  Raises:
    InputError: for any other address.
  """
  if '://' in path and not path.startswith('gs://'):
    raise inputs.InputError(
      f'{inputs.one_line(path)}: run folders are local, or gs://BUCKET/FOLDER'
    )
  if '://' not in path:
    path = os.path.abspath(os.path.expanduser(path))
  return epath.Path(path)


def make_private(path: epath.Path) -> None:
  """Makes a folder that is nobody else's to read: it holds training images."""
  if '://' not in str(path) and not path.exists():
    os.makedirs(path, mode=0o700)


def open_run(
  workdir: str,
  config: dict[str, Any],
  may_grow: Collection[str] = (),
  free: Collection[str] = (),
  keep: bool = False,
) -> Run:
  """Opens or starts the folder of a run.

  Args:
    workdir: the folder; made if missing.
    config: the resolved config, as plain JSON values.
    may_grow: keys that may be larger than the folder's.
    free: keys that may differ; nothing else may.
    keep: leave the folder's config as it is.

  Returns:
    The run.

  Raises:
    InputError: if the folder holds a run of another config, something that is
      no run at all, or cannot be written.
  """
  run = Run(folder(workdir))
  try:
    config = json.loads(json.dumps(config))
  except TypeError as error:
    raise inputs.InputError(
      f'the config holds no plain value: {error}'
    ) from error
  try:
    if run.config.exists():
      with inputs.reading(
        run.config, 'is damaged (restore it, or give --workdir a new folder)'
      ):
        old = json.loads(inputs.read_bytes(run.config, _MOST_JSON))
      if not isinstance(old, dict):
        raise inputs.InputError(
          f'{run.config} is damaged (no JSON object): restore it, or give '
          '--workdir a new folder'
        )
      changes = _changes(old, config, may_grow, free)
      if changes:
        raise inputs.InputError(
          f'{workdir} holds a run of another config ({"; ".join(changes)}): '
          'give --workdir a new folder, or the old values'
        )
      if keep or old == config:
        return run
    elif run.path.exists() and any(
      child.name != 'run.lock' and not _TEMPORARY.fullmatch(child.name)
      for child in run.path.iterdir()
    ):
      raise inputs.InputError(
        f'{workdir} is not empty and holds no run: give --workdir a new folder'
      )
    make_private(run.path)
    write_json(run.config, config)
  except (OSError, ImportError) as error:  # a remote scheme needs its package
    raise inputs.InputError(f'--workdir {workdir}: {error}') from error
  return run


# Bytes of a config or provenance.
_MOST_JSON = 2**26


def _changes(
  old: dict[str, Any],
  new: dict[str, Any],
  may_grow: Collection[str],
  free: Collection[str],
) -> list[str]:
  """What the new config changes that a used folder cannot take."""
  flat_old, flat_new = _flatten(old), _flatten(new)
  changes = []
  for name in sorted((flat_old.keys() | flat_new.keys()) - set(free)):
    before, after = flat_old.get(name), flat_new.get(name)
    if before == after or (
      name in may_grow
      and all(type(value) is int for value in (before, after))
      and after > before
    ):
      continue
    why = ', and may only grow' if name in may_grow else ''
    changes.append(f'{name} is {before!r} there, {after!r} now{why}')
  return changes


def _flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  flat = {}
  for name, value in tree.items():
    if isinstance(value, dict):
      flat |= _flatten(value, f'{prefix}{name}.')
    else:
      flat[prefix + name] = value
  return flat


# Of a file that is being written: hidden, with a random part.
_TEMPORARY = re.compile(r'\..+\.[0-9a-f]{16}\.tmp')


def _temporary(path: epath.Path) -> epath.Path:
  """A new name each time: nobody can have put a link there beforehand."""
  return path.parent / f'.{path.name}.{secrets.token_hex(8)}.tmp'


def write(path: epath.Path, data: bytes) -> None:
  """Writes a whole file or nothing: a new file, flushed, then renamed.

  A file that already holds these bytes is left alone.
  """
  if path.is_file() and path.read_bytes() == data:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    if '://' in str(path):
      temporary.write_bytes(data)
    else:
      # Neither an existing file nor a link is opened.
      descriptor = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666
      )
      with open(descriptor, 'wb') as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise
  if '://' not in str(path):
    _flush_folder(path.parent)


def _flush_folder(path: epath.Path) -> None:
  """The rename itself, where the file system keeps such things."""
  with contextlib.suppress(OSError):
    descriptor = os.open(path, os.O_RDONLY)
    try:
      os.fsync(descriptor)
    finally:
      os.close(descriptor)


def remove_leftovers(path: epath.Path) -> None:
  """Removes what killed writes of `write` left in a local folder and below.

  Only for who holds the folder's lock: another process may be writing.
  """
  if '://' in str(path):
    return
  for parent, _, names in os.walk(path):
    for name in names:
      if _TEMPORARY.fullmatch(name):
        file = os.path.join(parent, name)
        if not os.path.islink(file):
          os.unlink(file)


# Folders that this process holds, and how often.
_held: dict[str, int] = {}


@contextlib.contextmanager
def lock(path: epath.Path) -> Iterator[None]:
  """Holds a local run folder, which one process at a time may write to.

  The lock is the system's, on a file `run.lock`, and gone with its process,
  however that ended; the file says who held it last. Remote folders have none.

  Raises:
    InputError: naming the process and host that hold it.
  """
  name = str(path)
  if '://' in name or name in _held:
    _held[name] = _held.get(name, 0) + 1
    try:
      yield
    finally:
      _held[name] -= 1
      if not _held[name]:
        del _held[name]
    return
  with _open_lock(path / 'run.lock') as file:
    if file is None:
      yield
      return
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
      if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
        logging.warning('%s cannot be locked here: %s', path, error)
        yield
        return
      holder = inputs.one_line(file.read(1000)) or 'another process'
      raise inputs.InputError(
        f'{inputs.name_of(path)} is in use by {holder}: wait for it, or give '
        '--workdir another folder'
      ) from error
    file.seek(0)
    file.truncate()
    file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    file.flush()
    _held[name] = 1
    try:
      yield
    finally:
      del _held[name]


@contextlib.contextmanager
def _open_lock(path: epath.Path):
  """The lock's file, made if need be; never through a link.

  None on a medium that is only read, where nobody can write.
  """
  try:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
  except OSError as error:
    if error.errno == errno.EROFS:
      yield None
      return
    raise inputs.InputError(
      f'--workdir {inputs.name_of(path.parent)}: {inputs.one_line(error)}'
    ) from error
  with open(descriptor, 'r+') as file:
    yield file


def write_json(path: epath.Path, value: Any) -> None:
  """Writes plain values as indented JSON."""
  write(path, (json.dumps(value, indent=2) + '\n').encode())


def read_json(path: epath.Path) -> Any:
  """Reads plain values written by `write_json`."""
  return json.loads(inputs.read_bytes(path, _MOST_JSON))


def write_csv(path: epath.Path, table: pd.DataFrame) -> None:
  """Writes a table without its index; nine digits hold a float32.

  Text that a spreadsheet would take for a formula gets an apostrophe before it.
  """
  table = table.copy()
  for name in table.columns:
    if table[name].dtype == object or pd.api.types.is_string_dtype(table[name]):
      table[name] = table[name].map(_inert)
  text = table.to_csv(index=False, float_format='%.9g')
  write(path, text.encode('utf-8', 'backslashreplace'))


def _inert(value: object) -> object:
  """A cell that no spreadsheet runs."""
  if not isinstance(value, str) or value[:1] not in tuple('=+-@\t\r'):
    return value
  if value == '-' or re.fullmatch(r'[-+]?[\d.]+(/\d+)*', value):
    return value
  return f"'{value}"


def write_npz(path: epath.Path, **arrays: np.ndarray) -> None:
  """Writes named arrays; equal arrays give equal bytes."""
  buffer = io.BytesIO()
  np.savez(buffer, **arrays)
  write(path, buffer.getvalue())


def write_npy(path: epath.Path, array: np.ndarray) -> None:
  """Writes one array."""
  buffer = io.BytesIO()
  np.save(buffer, array, allow_pickle=False)
  write(path, buffer.getvalue())


def read_csv(path: epath.Path) -> pd.DataFrame:
  """Reads a table written by `write_csv`.

  Raises:
    InputError: if it is not there, or damaged.
  """
  if not path.is_file():
    raise inputs.InputError(
      f'{path} is missing: run the stage that writes it first'
    )
  with inputs.reading(path, 'is damaged, run the stage that writes it again'):
    return pd.read_csv(io.StringIO(path.read_bytes().decode()))


def read_npy(path: epath.Path) -> np.ndarray | None:
  """Reads one array, without unpickling; None if it is absent or torn."""
  if not path.is_file():
    return None
  try:
    return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
  except _TORN:
    logging.warning('%s is torn and will be made again', path)
    return None


def write_block(
  path: epath.Path, identity: str, model: int, **arrays: np.ndarray
) -> None:
  """Writes a block of evidence that says whose it is, and of what."""
  write_npz(path, made_by=np.array(_seal(identity, model, arrays)), **arrays)


def read_block(
  path: epath.Path,
  identity: str,
  model: int,
  rows: np.ndarray | None,
  *names: str,
) -> dict[str, np.ndarray] | None:
  """Arrays of a block; None if it is absent, torn, or not the one wanted.

  Args:
    path: of the block.
    identity: of the run.
    model: model number.
    rows: int [n] that its `indices` must be; None is not compared.
    *names: arrays that it holds.
  """
  block = read_npz(path, 'made_by', 'indices', *names)
  if block is None:
    return None
  if str(block.pop('made_by')) == _seal(identity, model, block) and (
    rows is None or np.array_equal(block['indices'], rows)
  ):
    return block
  logging.warning('%s is of another run, model or rows; made again', path)
  return None


def _seal(identity: str, model: int, arrays: dict[str, np.ndarray]) -> str:
  """SHA-256 of a block's owner and content."""
  digest = hashlib.sha256(f'{identity} model {model}'.encode())
  for name in sorted(arrays):
    array = np.asarray(arrays[name])
    digest.update(f'{name} {array.dtype.str} {array.shape}'.encode())
    digest.update(np.ascontiguousarray(array).tobytes())
  return digest.hexdigest()


def read_npz(path: epath.Path, *names: str) -> dict[str, np.ndarray] | None:
  """Arrays of a file, checked by CRC; None if it is absent or torn.

  Args:
    path: of the file.
    *names: arrays that a whole one holds; it may hold more.
  """
  if not path.exists():
    return None
  try:
    with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as block:
      arrays = {name: block[name] for name in block.files}
    if arrays.keys() >= set(names):
      return arrays
  except _TORN:
    pass
  logging.warning('%s is torn and will be made again', path)
  return None


# NumPy, zipfile and the parser of npy headers raise many kinds on what is torn.
_TORN = (Exception,)


def read_rows(
  run: Run,
  path_of: Callable[[int, int], epath.Path],
  model: int,
  total: int,
  block_size: int,
  names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Arrays of all rows of one model, joined from their blocks.

  Args:
    run: whose evidence.
    path_of: `run.samples`, `run.neighbours` or `run.signals`.
    model: model number.
    total: number of rows.
    block_size: rows a block.
    names: arrays to read.

  Raises:
    InputError: if a block is absent, torn or another's.
  """
  parts = {name: [] for name in names}
  for start in range(0, total, block_size):
    path = path_of(model, start)
    rows = np.arange(start, min(start + block_size, total))
    block = read_block(path, run.identity, model, rows, *names)
    if block is None or any(len(block[name]) != len(rows) for name in names):
      raise inputs.InputError(f'{path} is missing or torn: run its stage again')
    for name in names:
      parts[name].append(block[name])
  return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def table_digests(run: Run) -> dict[str, str]:
  """SHA-256 of every table and picture that the report reads, by name."""
  return {
    name: hashlib.sha256(path.read_bytes()).hexdigest()
    for name, path in ((name, getattr(run, name)) for name in REPORTED)
    if path.is_file()
  }


def check_tables(run: Run) -> None:
  """Refuses tables that are not those that the attacks made.

  Raises:
    InputError: naming the first.
  """
  try:
    recorded = dict(read_json(run.tables))
  except (OSError, ValueError, TypeError, RecursionError) as error:
    raise inputs.InputError(
      f'{run.tables} is missing or damaged: run launch.attack again'
    ) from error
  found = table_digests(run)
  for name in sorted(found.keys() | set(recorded)):
    if found.get(name) != recorded.get(name):
      raise inputs.InputError(
        f'{getattr(run, name)} is not the one that was made (SHA-256 differs): '
        'run launch.attack again, which makes it from the evidence'
      )
