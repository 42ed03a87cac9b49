"""report.html: one self-contained page for somebody who did not run it."""

import base64
import json
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from jaxdiff.nearest import index as index_lib
from jaxdiff.report import figures, further, galleries
from jaxdiff.report import membership as membership_section
from jaxdiff.report.membership import number
from jaxdiff.runs import files, layout

_DISTANCES = ('fd_pca', 'fid')
# Share of distinct samples below which a model has collapsed.
_FEW = 0.5
# The attack of the headline, in order of preference: named beforehand, since
# the best of many on the same scores would be read as better than it is.
_HEADLINE = (
  ('strong_lira', 'pooled', 'other_models'),
  ('strong_lira', 'pooled', 'fixed'),
  ('strong_threshold', '-', 'other_models'),
  ('strong_threshold', '-', 'fixed'),
)


def write(
  name: str,
  images: np.ndarray,
  keep: np.ndarray,
  block_size: int,
  run: layout.Run,
) -> None:
  """Writes report.html, and extraction/pairs.png where there are any.

  Args:
    name: of the experiment.
    images: uint8 [N, H, W, C], all examples.
    keep: bool [K, N], which model trained on which.
    block_size: samples a file.
    run: with finished membership and extraction tables.
  """
  membership = files.read_csv(run.membership_summary)
  extraction = files.read_csv(run.extraction_summary)
  # Alpha 0: too few hits on the other models to prove a precision. It hits
  # nothing, and says nothing.
  proven = extraction[extraction['setting'] == 'chosen']['alpha'].max() > 0
  setting = 'chosen' if proven else 'paper'

  def of_setting(path) -> pd.DataFrame:
    table = files.read_csv(path)
    return table[table['setting'] == setting]

  matches = of_setting(run.extraction_matches)
  shown = of_setting(run.extraction_gallery)
  pictures = galleries.Pictures(images, block_size, run)
  quality = files.read_csv(run.quality)
  pooled = _rows_of(extraction, setting, 'pooled')
  single = _rows_of(extraction, setting, 'median').iloc[0]
  config = json.loads(run.config.read_text())
  text = (
    environment()
    .get_template('report.html.jinja')
    .render(
      name=name,
      finding=finding(membership, extraction, setting),
      num_models=len(keep),
      num_training=int(np.median(keep.sum(axis=1))),
      num_examples=len(images),
      config=config,
      membership=membership_section.section(run, pictures),
      lira='lira' in set(membership['attack']),
      extraction=extraction_table(extraction),
      setting=setting,
      curve=svg_url(figures.extraction(of_setting(run.extraction_curve))),
      num_distinct=int(single['num_training']),
      num_control=int(single['num_control']),
      over_models={
        name: membership_section.span(
          *pooled.loc[metric, ['low_models', 'high_models']]
        )
        for name, metric in (
          ('share', 'extracted_fraction'),
          ('precision', 'precision'),
        )
      },
      quality=quality_table(quality[quality['metric'].isin(_DISTANCES)]),
      quality_images=int(quality['num_images'].min()),
      collapsed=collapsed(quality),
      left_out=left_out(run),
      near_duplicates=near_duplicates(run),
      training=svg_url(figures.training(files.read_csv(run.metrics))),
      histograms=histograms(
        matches,
        shown,
        extraction,
        setting,
        pictures,
        images,
        keep,
        config['flip'],
      ),
      findings=further.findings(run, setting),
      inpainting=further.inpainting(run, images),
      guidance=further.guidance(run),
      canaries=further.canaries(run),
      pairs=galleries.pairs(matches, pictures, verdicts(run, setting)),
      near_misses=galleries.neighbours(shown, 'near_miss', pictures),
      novel=galleries.neighbours(shown, 'novel', pictures),
      provenance=run.provenance.read_text(),
      config_text=run.config.read_text(),
    )
  )
  files.write(run.report, text.encode())
  sheet = galleries.sheet(matches, images, pictures)
  if sheet is not None:
    files.write(run.pairs, sheet)


def environment() -> jinja2.Environment:
  """Templates of this package; whatever goes into them is escaped."""
  made = jinja2.Environment(
    loader=jinja2.PackageLoader('jaxdiff.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  made.filters['svg_url'] = svg_url
  return made


def _rows_of(extraction: pd.DataFrame, setting: str, target: str):
  return extraction[
    (extraction['setting'] == setting) & (extraction['target'] == target)
  ].set_index('metric')


def finding(
  membership: pd.DataFrame, extraction: pd.DataFrame, setting: str
) -> str:
  """The result in two sentences."""
  rows = _rows_of(extraction, setting, 'pooled')
  share, precise = rows.loc['extracted_fraction'], rows.loc['precision']
  auc = membership[membership['metric'] == 'auc'].set_index(
    ['attack', 'variance', 'timestep_rule']
  )
  best = next(name for name in _HEADLINE if name in auc.index)
  percent = lambda value: f'{100 * value:.0f} %'
  extracted = (
    f'Samples of these models give away {percent(share["value"])} (95 % '
    f'interval {percent(share["low"])} to {percent(share["high"])}) of their '
    'training images'
  )
  if np.isnan(precise['value']):
    extracted += '.'
  else:
    extracted += (
      ', at a precision of '
      f'{number(*precise[["value", "low", "high"]], 3)}, as images that were '
      'never trained on tell.'
    )
  value = number(*(auc.loc[best, name] for name in ('value', 'low', 'high')))
  return (
    f'{extracted} The membership attack {best[0]} tells members from '
    f'non-members with an AUC of {value}, where 0.5 is a coin toss and 1 '
    'certainty.'
  )


def extraction_table(extraction: pd.DataFrame) -> list[dict[str, str]]:
  """One row a target and setting; the summaries of a setting come first."""
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
      row[line['metric']] = number(line['value'], line['low'], line['high'])
    rows.append(row)
  return sorted(
    rows, key=lambda row: (row['setting'], row['target'].startswith('model-'))
  )


def collapsed(quality: pd.DataFrame) -> list[dict[str, str]]:
  """Models of whose samples most are one and the same."""
  rows = quality[(quality['metric'] == 'distinct') & (quality['value'] < _FEW)]
  return [
    {'model': str(row.model), 'share': f'{100 * row.value:.2g} %'}
    for row in rows.itertuples()
  ]


def left_out(run: layout.Run) -> list[dict[str, str]]:
  """What of the images was not used: a row a reason, with how many."""
  if not run.skipped.exists():
    return []
  table = files.read_csv(run.skipped)
  counts = table['reason'].astype(str).value_counts(sort=True)
  return [
    {'reason': reason, 'count': f'{count:,}'}
    for reason, count in counts.head(20).items()
  ]


def near_duplicates(run: layout.Run) -> int:
  """Images that are near-duplicates of others."""
  table = files.read_csv(run.examples)
  return len(table) - table['image'].nunique()


def verdicts(run: layout.Run, setting: str) -> dict[tuple[int, int], str]:
  """What a person said of a sample, by model and number."""
  if not run.extraction_annotated.exists():
    return {}
  table = files.read_csv(run.extraction_annotated)
  return {
    (row.model, row.sample): (
      'by hand: memorised' if row.memorised else 'by hand: not memorised'
    )
    for row in table[table['setting'] == setting].itertuples()
  }


def quality_table(quality: pd.DataFrame) -> list[dict[str, str]]:
  """One row a reference: median over models and their range, by metric."""
  return [
    {'reference': reference}
    | {
      metric: number(*(own['value'].quantile(q) for q in (0.5, 0.0, 1.0)))
      for metric, own in rows.groupby('metric', sort=False)
    }
    for reference, rows in quality.groupby('reference', sort=False)
  ]


def histograms(
  matches: pd.DataFrame,
  shown: pd.DataFrame,
  extraction: pd.DataFrame,
  setting: str,
  pictures: galleries.Pictures,
  images: np.ndarray,
  keep: np.ndarray,
  flip: bool,
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
    found = _distances(sample, images, flip)
    own = _rows_of(extraction, setting, f'model-{row["model"]:03d}').iloc[0]
    cut = own['alpha'] * found[: int(own['num_neighbours'])].mean()
    out.append(
      {
        'what': what,
        'figure': svg_url(figures.distances(found, cut)),
        'nearest': f'{found[0]:.3f}',
        'cut': f'{cut:.3f}',
        'model': row['model'],
        'number': row['sample'],
      }
    )
  return out


def _distances(
  sample: np.ndarray, images: np.ndarray, flip: bool
) -> np.ndarray:
  """RMSE of one sample to all images, mirrored or not, rising: [N]."""
  found = np.full(len(images), np.inf, np.float32)
  for version in (sample, sample[:, ::-1])[: 2 if flip else 1]:
    near, index = index_lib.nearest(version[None], images, len(images))
    found[index[0]] = np.minimum(found[index[0]], near[0])
  return np.sort(found)


def svg_url(svg: str) -> str:
  """A figure as the source of an img element."""
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()
