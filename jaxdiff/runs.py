"""The run folder: the only module that names files.

    config.json  provenance.json    resolved config; versions, device, data
    examples.csv                    index, source, label, group, image
    duplicates.npz                  near-duplicates, and of which images
    skipped.csv                     source, reason; where images were left out
    models-000-007/                 a block of models trained together:
      keep.npy                        bool [models, N]: trained on it?
      metrics/00000500.csv            training figures up to that checkpoint
      metrics/00000520.npz            of steps not yet averaged, if stopped
      tensorboard/model-000/          the same figures for TensorBoard
      profile/                        a trace of some steps, if asked for
      checkpoints/                    Orbax, stacked, with SHA-256 manifests
    metrics.csv                     model, step, name, value
    quality.csv                     Frechet distances of samples (quality.py)
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

Every write goes to a temporary name and is renamed; a file that is present is
whole. Zip members of an npz carry a CRC: a torn block reads as absent and is
made again.
"""

from collections.abc import Callable, Collection, Sequence
import dataclasses
import io
import json
import os
import re
from typing import Any
import zipfile
import zlib

from absl import logging
from etils import epath
import numpy as np
import pandas as pd


class InputError(ValueError):
  """Something the user gave is wrong; the message is one line with the mend."""


@dataclasses.dataclass(frozen=True)
class ModelBlock:
  """Models first .. last (inclusive), trained together."""

  path: epath.Path
  first: int
  last: int

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
  """

  path: epath.Path
  trained: epath.Path | None = None

  def __getattr__(self, name: str) -> epath.Path:
    if name not in _FILES:
      raise AttributeError(name)
    return self.path / _FILES[name]

  def at_step(self, step: int) -> 'Run':
    """What an earlier checkpoint gives away: tables and evidence, no models."""
    return Run(self.path / 'steps' / f'{step:08d}', self.path)

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
    return Run(self.path / 'guidance', self.trained or self.path)

  @property
  def canaries(self) -> 'Run':
    """Models that trained on canaries, and their signals."""
    return Run(self.path / 'canaries')

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
      ModelBlock(folder / f'models-{first:03d}-{last:03d}', first, last)
      for first, last in bounds
    ]


_FILES = {
  'config': 'config.json',
  'provenance': 'provenance.json',
  'examples': 'examples.csv',
  'duplicates': 'duplicates.npz',
  'skipped': 'skipped.csv',
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


def folder(path: str) -> epath.Path:
  """Of a run, absolute: Orbax takes no other; gs://bucket/folder is one."""
  if '://' not in path:
    path = os.path.abspath(os.path.expanduser(path))
  return epath.Path(path)


def open_run(
  workdir: str,
  config: dict[str, Any],
  may_grow: Collection[str] = (),
  free: Collection[str] = (),
) -> Run:
  """Opens or starts the folder of a run.

  Args:
    workdir: the folder; made if missing.
    config: the resolved config, as plain JSON values.
    may_grow: keys that may be larger than the folder's.
    free: keys that may differ; nothing else may.

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
    raise InputError(f'the config holds no plain value: {error}') from error
  try:
    if run.config.exists():
      old = json.loads(run.config.read_text())
      changes = _changes(old, config, may_grow, free)
      if changes:
        raise InputError(
          f'{workdir} holds a run of another config ({"; ".join(changes)}): '
          'give --workdir a new folder, or the old values'
        )
      if old == config:
        return run
    elif run.path.exists() and any(
      child.name != _temporary(run.config).name for child in run.path.iterdir()
    ):
      raise InputError(
        f'{workdir} is not empty and holds no run: give --workdir a new folder'
      )
    write_json(run.config, config)
  except json.JSONDecodeError as error:
    raise InputError(
      f'{run.config} is damaged ({error}): restore it, or give --workdir a new '
      'folder'
    ) from error
  except (OSError, ImportError) as error:  # a remote scheme needs its package
    raise InputError(f'--workdir {workdir}: {error}') from error
  return run


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
    if before == after or (name in may_grow and after > before):
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


def _temporary(path: epath.Path) -> epath.Path:
  """One name a file: what a killed run left is overwritten by the next."""
  return path.parent / f'.{path.name}.tmp'


def write(path: epath.Path, data: bytes) -> None:
  """Writes a whole file or nothing: temporary name, then rename.

  A file that already holds these bytes is left alone.
  """
  if path.exists() and path.read_bytes() == data:
    return
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = _temporary(path)
  try:
    temporary.write_bytes(data)
    temporary.replace(path)
  except BaseException:
    temporary.unlink(missing_ok=True)
    raise


def write_json(path: epath.Path, value: Any) -> None:
  """Writes plain values as indented JSON."""
  write(path, (json.dumps(value, indent=2) + '\n').encode())


def read_json(path: epath.Path) -> Any:
  """Reads plain values written by `write_json`."""
  return json.loads(path.read_text())


def write_csv(path: epath.Path, table: pd.DataFrame) -> None:
  """Writes a table without its index; nine digits hold a float32."""
  write(path, table.to_csv(index=False, float_format='%.9g').encode())


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
    InputError: if it is not there.
  """
  if not path.exists():
    raise InputError(f'{path} is missing: run the stage that writes it first')
  return pd.read_csv(io.StringIO(path.read_text()))


def read_npy(path: epath.Path) -> np.ndarray:
  """Reads one array; never unpickles."""
  return np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)


def read_npz(path: epath.Path, *names: str) -> dict[str, np.ndarray] | None:
  """Arrays of a block, checked by CRC; None if it is absent or torn.

  Args:
    path: of the block.
    *names: arrays that a whole block holds; it may hold more.
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


# What NumPy and zipfile raise on damaged files, by kind of damage.
_TORN = (
  zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError, RuntimeError,
  NotImplementedError, KeyError,
)  # fmt: skip


def read_rows(
  path_of: Callable[[int, int], epath.Path],
  model: int,
  total: int,
  block_size: int,
  names: Sequence[str],
) -> dict[str, np.ndarray]:
  """Arrays of all rows of one model, joined from their blocks.

  Args:
    path_of: `run.samples`, `run.neighbours` or `run.signals`.
    model: model number.
    total: number of rows.
    block_size: rows a block.
    names: arrays to read.

  Raises:
    InputError: if a block is absent or torn.
  """
  parts = {name: [] for name in names}
  for start in range(0, total, block_size):
    path = path_of(model, start)
    block = read_npz(path, *names)
    if block is None:
      raise InputError(f'{path} is missing or torn: run its stage again')
    for name in names:
      parts[name].append(block[name])
  return {name: np.concatenate(arrays) for name, arrays in parts.items()}
