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

import dataclasses
import os
import re

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


class _File:
  """Attribute of a run: the path of one of its files."""

  def __init__(self, name: str):
    self.name = name

  def __get__(self, run: 'Run | None', owner: type | None = None):
    return self if run is None else run.path / self.name


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

  config = _File('config.json')
  provenance = _File('provenance.json')
  examples = _File('examples.csv')
  tables = _File('tables.json')
  duplicates = _File('duplicates.npz')
  skipped = _File('skipped.csv')
  classes = _File('classes.csv')
  metrics = _File('metrics.csv')
  quality = _File('quality.csv')
  queries = _File('signals/queries.csv')
  extraction_matches = _File('extraction/matches.csv')
  extraction_summary = _File('extraction/summary.csv')
  extraction_curve = _File('extraction/curve.csv')
  extraction_gallery = _File('extraction/gallery.csv')
  extraction_extrapolation = _File('extraction/extrapolation.csv')
  extraction_eidetic = _File('extraction/eidetic.csv')
  extraction_overlap = _File('extraction/overlap.csv')
  extraction_classes = _File('extraction/classes.csv')
  annotations = _File('annotations.csv')
  extraction_annotated = _File('extraction/annotated.csv')
  pairs = _File('extraction/pairs.png')
  inpainting_images = _File('inpainting/images.csv')
  inpainting_examples = _File('inpainting/examples.npz')
  inpainting_summary = _File('inpainting/summary.csv')
  guidance_models = _File('guidance/models.csv')
  guidance_summary = _File('guidance/summary.csv')
  canary_table = _File('canaries/canaries.csv')
  canary_summary = _File('canaries/summary.csv')
  membership_scores = _File('membership/scores.csv')
  membership_summary = _File('membership/summary.csv')
  membership_roc = _File('membership/roc.csv')
  membership_timesteps = _File('membership/timesteps.csv')
  membership_comparison = _File('membership/comparison.csv')
  membership_blind = _File('membership/blind.csv')
  membership_inference = _File('membership/dataset_inference.csv')
  membership_studies = _File('membership/studies.csv')
  membership_extremes = _File('membership/extremes.csv')
  report = _File('report.html')
  logs = _File('logs')
  steps_table = _File('steps.csv')
  steps_page = _File('steps.html')

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


# What a report is made of, beside evidence.
REPORTED = tuple(
  name
  for name, file in vars(Run).items()
  if isinstance(file, _File)
  and file.name.endswith('.csv')
  and name
  not in ('examples', 'classes', 'skipped', 'annotations', 'steps_table')
) + ('inpainting_examples',)


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
