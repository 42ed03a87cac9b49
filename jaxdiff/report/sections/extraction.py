"""Extraction in the report: images that the samples give away."""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import neighbours
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.report import figures, followups, galleries, parts, policy
from jaxdiff.runs import files, layout

PLACE = 1

_METHODS = (
  'Extraction with an adaptive threshold, membership by loss and LiRA on '
  'diffusion losses: Carlini, Hayes, Nasr, Jagielski, Sehwag, Tramèr, '
  'Balle, Ippolito, Wallace, “Extracting Training Data from Diffusion '
  'Models”, USENIX Security 2023.',
  'More samples: Good and Toulmin, Biometrika 1956; Chao, 1984 and 1987.',
)


# Pixels compared at a time.
_PIXELS = 2**24

# Metrics that are numbers of images.
_COUNTS = ('extracted', 'control_hits')


def make(page: parts.Page) -> parts.Section:
  """Which training images do the samples give away?"""
  run, pictures = page.run, page.pictures
  config = page.config['extraction']
  examples = page.examples.of_targets()
  paths = extraction_paths.Paths(run)
  summary = files.read_csv(paths.summary)
  # Alpha 0: too few hits to prove a precision. It hits nothing, and says
  # nothing.
  proven = summary[(summary['setting'] != 'paper') & (summary['alpha'] > 0)]
  setting = proven['setting'].iloc[0] if len(proven) else 'paper'

  def of_setting(path) -> pd.DataFrame:
    table = files.read_csv(path)
    return table[table['setting'] == setting]

  matches, shown = of_setting(paths.matches), of_setting(paths.gallery)
  pooled = _rows_of(summary, setting, 'pooled')
  single = _rows_of(summary, setting, 'median').iloc[0]
  pairs = galleries.pairs(matches, pictures, verdicts(run, setting))
  html = parts.render(
    'sections/extraction.html.jinja',
    config=page.config,
    extraction=extraction_table(summary),
    setting=setting,
    settings=set(summary['setting']),
    curve=parts.svg_url(figures.extraction(of_setting(paths.curve))),
    num_distinct=int(single['num_training']),
    num_control=int(single['num_control']),
    over_models={
      name: parts.span(*pooled.loc[metric, ['low_models', 'high_models']])
      for name, metric in (
        ('share', 'extracted_fraction'),
        ('precision', 'precision'),
      )
    },
    histograms=histograms(
      matches,
      shown,
      summary,
      setting,
      pictures,
      examples.images,
      examples.flip,
      # Folders of old lack both keys.
      config.get('shift', 0),
      config.get('tiles', 0),
    ),
    tiles=config.get('tiles', 0),
    findings=followups.findings(run, setting),
    pairs=pairs[: galleries.SHOWN],
    more_pairs=pairs[galleries.SHOWN :],
    num_pairs=int((matches['half'] == 'training').sum()),
    table=(paths.named if paths.named.exists() else paths.matches).name,
    num_models=examples.num_models,
    near_misses=galleries.neighbours(shown, 'near_miss', pictures),
    novel=galleries.neighbours(shown, 'novel', pictures),
  )
  sheet = galleries.sheet(matches, examples.images, pictures)
  if sheet is not None:
    files.write(paths.pairs, sheet)
  return parts.Section(
    title='Extraction',
    html=html,
    finding=finding(summary, setting, page.subject.told.samples),
    tested='untargeted extraction from samples',
    methods=_METHODS,
    metrics=tuple(
      policy.Metric.of(
        str(name),
        row,
        ('value', 'low', 'high'),
        int(row['num_training']),
        setting,
      )
      for name, row in pooled.iterrows()
    ),
  )


def _rows_of(extraction: pd.DataFrame, setting: str, target: str):
  return extraction[
    (extraction['setting'] == setting) & (extraction['target'] == target)
  ].set_index('metric')


def finding(
  summary: pd.DataFrame, setting: str, samples: str = 'Samples of these models'
) -> str:
  """The share given away and its precision, in a sentence."""
  rows = _rows_of(summary, setting, 'pooled')
  share, precise = rows.loc['extracted_fraction'], rows.loc['precision']
  percent = lambda value: f'{100 * value:.0f} %'
  extracted = (
    f'{samples} give away {percent(share["value"])} (95 % '
    f'interval {percent(share["low"])} to {percent(share["high"])}) of their '
    'training images'
  )
  if 'num_control' in rows and not rows['num_control'].iloc[0]:
    return (
      f'{extracted}; how many of these are accidents cannot be said without '
      'held-out images.'
    )
  if np.isnan(precise['value']):
    return f'{extracted}.'
  return (
    f'{extracted}, at a precision of {parts.of_row(precise)}, as images '
    'that were never trained on tell.'
  )


def extraction_table(extraction: pd.DataFrame) -> list[dict[str, str]]:
  """One row a target and setting; the summaries of a setting come first."""
  models = [x for x in extraction['target'].unique() if x.startswith('model-')]
  if len(models) == 1:
    # Sums and medians of one model are that model.
    extraction = extraction[extraction['target'] == 'pooled']
    extraction = extraction.assign(target=models[0])
  rows = []
  for (setting, target), group in extraction.groupby(
    ['setting', 'target'], sort=False
  ):
    alpha = group['alpha'].iloc[0]
    row = {
      'setting': setting,
      'target': target,
      'alpha': 'per target' if np.isnan(alpha) else f'{alpha:.3g}',
    }
    for _, line in group.iterrows():
      said = parts.count if line['metric'] in _COUNTS else parts.number
      row[line['metric']] = said(line['value'], line['low'], line['high'])
    rows.append(row)
  return sorted(
    rows, key=lambda row: (row['setting'], row['target'].startswith('model-'))
  )


def verdicts(run: layout.Run, setting: str) -> dict[tuple[int, int], str]:
  """What a person said of a sample, by model and number."""
  if not extraction_paths.Paths(run).annotated.exists():
    return {}
  table = files.read_csv(extraction_paths.Paths(run).annotated)
  return {
    (row.model, row.sample): (
      'by hand: memorised' if row.memorised else 'by hand: not memorised'
    )
    for row in table[table['setting'] == setting].itertuples()
  }


def histograms(
  matches: pd.DataFrame,
  shown: pd.DataFrame,
  extraction: pd.DataFrame,
  setting: str,
  pictures: galleries.Pictures,
  images: np.ndarray,
  flip: bool,
  shift: int,
  tiles: int,
) -> list[dict[str, Any]]:
  """A hit and a near miss: distances to all training images, and the cut."""
  out = []
  hits = matches[matches['half'] == 'training'].sort_values('ratio')
  misses = shown[(shown['kind'] == 'near_miss') & (shown['rank'] == 0)]
  for what, rows in (
    ('A hit', hits), ('A near miss', misses.sort_values('distance')),
  ):  # fmt: skip
    if rows.empty:
      continue
    row = rows.iloc[0]
    sample = pictures.sample_array(row['model'], row['sample'])
    found = _distances(sample, images, flip, shift, tiles)
    of_model = _rows_of(extraction, setting, f'model-{row["model"]:03d}').iloc[
      0
    ]
    cut = of_model['alpha'] * found[: int(of_model['num_neighbours'])].mean()
    out.append(
      {
        'what': what,
        'figure': parts.svg_url(figures.distances(found, cut)),
        'nearest': f'{found[0]:.3f}',
        'cut': f'{cut:.3f}',
        'model': row['model'],
        'number': row['sample'],
      }
    )
  return out


def _distances(
  sample: np.ndarray, images: np.ndarray, flip: bool, shift: int, tiles: int
) -> np.ndarray:
  """Of one sample to all images, as extraction takes them, rising: [N]."""
  height, width, channels = sample.shape
  grid = max(tiles, 1)
  shape = (grid, height // grid, grid, width // grid, channels)
  smallest = np.full(len(images), np.inf)
  step = max(1, _PIXELS // sample.size)
  for version in neighbours.versions(sample[None], flip, shift):
    for start in range(0, len(images), step):
      rows = slice(start, start + step)
      difference = np.subtract(images[rows], version, dtype=np.int16)
      parts = difference.reshape(-1, *shape)
      squares = np.einsum('niajbc,niajbc->nij', parts, parts, dtype=np.int64)
      largest = squares.max(axis=(1, 2))
      smallest[rows] = np.minimum(smallest[rows], largest)
  rmse = np.sqrt(smallest * grid**2 / sample.size) / 255.0
  return np.sort(rmse.astype(np.float32))
