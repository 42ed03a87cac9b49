"""Quality in the report: how good are the samples?"""

import pandas as pd

from jaxdiff.report import parts
from jaxdiff.runs import files
from jaxdiff.sampling import quality as quality_lib

PLACE = 7

_DISTANCES = ('fd_pca', 'fid')
# Share of distinct samples below which a model has collapsed.
_FEW = 0.5


def make(page: parts.Page) -> parts.Section:
  """How far are samples from real images?"""
  table = files.read_csv(quality_lib.Paths(page.run).quality)
  rows = collapsed(table)
  return parts.Section(
    title='Quality',
    html=parts.render(
      'sections/quality.html.jinja',
      quality=quality_table(table[table['metric'].isin(_DISTANCES)]),
      quality_images=int(
        table['num_images'][table['metric'] != quality_lib.ACCURACY].min()
      ),
      accuracy=accuracy(table),
    ),
    warning=(
      parts.render('sections/collapsed.html.jinja', collapsed=rows)
      if rows
      else ''
    ),
  )


def accuracy(quality: pd.DataFrame) -> dict[str, str]:
  """Of a classifier that learned from samples, and from real images."""
  rows = quality[quality['metric'] == quality_lib.ACCURACY]
  return {
    reference: parts.number(
      *(part['value'].quantile(q) for q in (0.5, 0.0, 1.0))
    )
    for reference, part in rows.groupby('reference')
  }


def collapsed(quality: pd.DataFrame) -> list[dict[str, str]]:
  """Models of whose samples most are one and the same."""
  rows = quality[(quality['metric'] == 'distinct') & (quality['value'] < _FEW)]
  return [
    {'model': str(row.model), 'share': f'{100 * row.value:.2g} %'}
    for row in rows.itertuples()
  ]


def quality_table(quality: pd.DataFrame) -> list[dict[str, str]]:
  """One row a reference: median over models and their range, by metric."""
  return [
    {'reference': reference}
    | {
      metric: parts.number(
        *(part['value'].quantile(q) for q in (0.5, 0.0, 1.0))
      )
      for metric, part in rows.groupby('metric', sort=False)
    }
    for reference, rows in quality.groupby('reference', sort=False)
  ]
