"""The run folder: who is where. Attacks name their own files (`paths.py`).

    config.json  provenance.json    resolved config; versions, device, data
    examples.csv                    index, source, label, group, image
    duplicates.npz                  near-duplicates, and of which images
    noise.json                      noise multiplier of private training
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
    report.html  report.json        for people; for programs
    logs/process-000.log            what each process said; local folders only
    steps/00000500/                 the same of an earlier checkpoint
    steps.csv  steps.html           step, metric, value, low, high

Every write goes to a new file of a random name, which is flushed to the disk
and then renamed; a file that is present is whole. What a killed process left is
removed by the next that holds the folder's lock. Zip members of an npz carry a
CRC, and each block says whose it is: a torn block, or one of another model,
other rows or another run, reads as absent and is made again.
"""

import dataclasses
import os
import re
from typing import overload

from etils import epath

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


class File:
  """Attribute of a run, or of a part of it: the path of one of its files.

  Attributes:
    name: in the run folder.
    reported: whether reports are made of it.
    old: what tables.json called it before it went by `name`.
  """

  def __init__(self, name: str, *, reported: bool = True, old: str = ''):
    self.name = name
    self.reported = reported
    self.old = old or name.rpartition('.')[0].replace('/', '_')

  @overload
  def __get__(self, owner: None, kind: type) -> 'File': ...

  @overload
  def __get__(self, owner: 'Run | Part', kind: type) -> epath.Path: ...

  def __get__(
    self, owner: 'Run | Part | None', kind: type
  ) -> 'File | epath.Path':
    return self if owner is None else owner.path / self.name


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

  config = File('config.json')
  provenance = File('provenance.json')
  tables = File('tables.json')
  duplicates = File('duplicates.npz')
  noise = File('noise.json')
  preflight = File('preflight.json')
  examples = File('examples.csv')
  skipped = File('skipped.csv')
  classes = File('classes.csv')
  metrics = File('metrics.csv')
  report = File('report.html')
  document = File('report.json')
  logs = File('logs')
  steps_table = File('steps.csv')
  steps_page = File('steps.html')

  def at_step(self, step: int) -> 'Run':
    """What an earlier checkpoint gives away: tables and evidence, no models."""
    return Run(
      self.path / 'steps' / f'{step:08d}',
      self.path,
      f'{self.identity} step {step}' if self.identity else '',
    )

  def samples(self, model: int, start: int) -> epath.Path:
    return block_path(self.path / 'samples', model, start)

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


class Part:
  """Files of one stage in a run folder, or in one within it.

  A subclass names them: `summary = layout.File('side/summary.csv')`.
  """

  def __init__(self, run: Run):
    self.run = run
    self.path = run.path

  @classmethod
  def reported(cls) -> tuple[File, ...]:
    """Files that reports are made of."""
    return tuple(
      value
      for value in vars(cls).values()
      if isinstance(value, File) and value.reported
    )


def block_path(folder: epath.Path, model: int, start: int) -> epath.Path:
  """The file of a block of evidence: rows of one model, from `start`."""
  return folder / f'model-{model:03d}' / f'{start:08d}.npz'


def folder(path: str) -> epath.Path:
  """Of a run, absolute: Orbax takes no other; gs://bucket/folder is one.

  Raises:
    InputError: for any other address, or without the package for this one.
  """
  if '://' in path and not path.startswith('gs://'):
    raise inputs.InputError(
      f'{inputs.one_line(path)}: run folders are local, or gs://BUCKET/FOLDER'
    )
  if '://' not in path:
    return epath.Path(os.path.abspath(os.path.expanduser(path)))
  try:
    found = epath.Path(path)
    found.exists()
  except (ImportError, OSError, ValueError) as error:
    raise inputs.InputError(
      f'{inputs.one_line(path)}: {inputs.one_line(error)} (JAXDIFF_EXTRAS=tpu '
      'before launch/local.sh brings what gs:// needs)'
    ) from error
  return found
