"""report.html: one self-contained page made from the tables of a run."""

import base64
import io

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from jaxdiff import runs
from jaxdiff.report import figures

_PAIRS = 24


def write(
  name: str, images: np.ndarray, block_size: int, run: runs.Run
) -> None:
  """Writes report.html.

  Args:
    name: of the experiment.
    images: uint8 [N, H, W, C], all examples.
    block_size: samples a file.
    run: with finished membership and extraction tables.
  """
  membership = runs.read_csv(run.membership_summary)
  extraction = runs.read_csv(run.extraction_summary)
  environment = jinja2.Environment(
    loader=jinja2.PackageLoader('jaxdiff.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  text = environment.get_template('report.html.jinja').render(
    name=name,
    finding=finding(membership, extraction),
    membership=membership_table(membership),
    extraction=extraction_table(extraction),
    roc=_data_url(figures.roc(runs.read_csv(run.membership_roc))),
    curve=_data_url(figures.extraction(runs.read_csv(run.extraction_curve))),
    pairs=pairs(images, block_size, run),
    provenance=run.provenance.read_text(),
    config=run.config.read_text(),
  )
  runs.write(run.report, text.encode())


def _number(value: float, low: float, high: float) -> str:
  """'0.982 (0.971 to 0.990)', or a dash where the data cannot say."""
  if np.isnan(value):
    return '-'
  if np.isnan(low):
    return f'{value:.4g}'
  return f'{value:.4g} ({low:.4g} to {high:.4g})'


# The attack of the headline, in order of preference: named beforehand, since
# the best of many on the same scores would be read as better than it is.
_HEADLINE = (
  ('strong_lira', 'pooled', 'other_models'),
  ('strong_lira', 'pooled', 'fixed'),
  ('strong_threshold', '-', 'other_models'),
  ('strong_threshold', '-', 'fixed'),
)


def finding(membership: pd.DataFrame, extraction: pd.DataFrame) -> str:
  """The result in a few sentences."""
  setting = 'chosen' if 'chosen' in set(extraction['setting']) else 'paper'
  rows = extraction[
    (extraction['setting'] == setting) & (extraction['target'] == 'pooled')
  ].set_index('metric')
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
      f', at a precision of {precise["value"]:.3f} against images that were '
      'never trained on.'
    )
  value = _number(*(auc.loc[best, name] for name in ('value', 'low', 'high')))
  return (
    f'{extracted} The membership attack {best[0]} tells members from '
    f'non-members with an AUC of {value}.'
  )


def membership_table(membership: pd.DataFrame) -> list[dict[str, str]]:
  """One row an attack, variance and timestep rule."""
  rows = []
  keys = ['attack', 'variance', 'timestep_rule', 't']
  for values, group in membership.groupby(keys, sort=False):
    row = dict(zip(keys, map(str, values), strict=True))
    for _, line in group.iterrows():
      row[line['metric']] = _number(line['value'], line['low'], line['high'])
    rows.append(row)
  return rows


def extraction_table(extraction: pd.DataFrame) -> list[dict[str, str]]:
  """One row a target and setting."""
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
      row[line['metric']] = _number(line['value'], line['low'], line['high'])
    rows.append(row)
  return rows


def pairs(
  images: np.ndarray, block_size: int, run: runs.Run
) -> list[dict[str, str]]:
  """Training images beside the samples that give them away."""
  found = runs.read_csv(run.extraction_matches)
  found = found[found['half'] == 'training']
  setting = 'chosen' if (found['setting'] == 'chosen').any() else 'paper'
  found = found[found['setting'] == setting].sort_values(
    ['ratio', 'model', 'sample'], kind='stable'
  )
  out = []
  for row in found.drop_duplicates('index').head(_PAIRS).to_dict('records'):
    start = row['sample'] // block_size * block_size
    path = run.samples(row['model'], start)
    block = runs.read_npz(path, 'images')
    if block is None:
      raise runs.InputError(f'{path} is missing or torn: sample again')
    caption = (
      f'image {row["index"]}, model {row["model"]}: RMSE {row["distance"]:.3f}'
    )
    out.append(
      {
        'training': _png(images[row['index']]),
        'sample': _png(block['images'][row['sample'] - start]),
        'caption': caption,
      }
    )
  return out


def _png(image: np.ndarray) -> str:
  """uint8 [H, W, C] -> data URL of a PNG."""
  buffer = io.BytesIO()
  squeezed = image[..., 0] if image.shape[-1] == 1 else image
  Image.fromarray(squeezed).save(buffer, format='PNG')
  return _data_url(buffer.getvalue())


def _data_url(png: bytes) -> str:
  return 'data:image/png;base64,' + base64.b64encode(png).decode()
