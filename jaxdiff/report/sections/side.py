"""Surrogate guidance in the report: asking for what was not labelled."""

from typing import Any

from jaxdiff.attacks.side import paths as side_paths
from jaxdiff.report import parts
from jaxdiff.runs import files, layout

PLACE = 4


def make(page: parts.Page) -> parts.Section:
  """Do guided samples hit more training images than plain ones?"""
  return parts.Section(
    title='Surrogate guidance',
    html=parts.render('sections/side.html.jinja', guidance=contents(page.run)),
    tested='surrogate guidance',
    methods=('Surrogate guidance: SIDE, Chen et al., 2024.',),
  )


def contents(run: layout.Run) -> dict[str, Any]:
  """Guided beside plain samples."""
  summary = files.read_csv(side_paths.Paths(run).summary)
  names = ['setting', 'budget', 'num_samples', 'metric']
  rows = []
  for keys, part in summary.groupby(names, sort=False):
    arms = part.set_index('arm')[['value', 'low', 'high']]
    difference = arms.loc['difference']
    verdict = 'not told apart'
    if difference['low'] > 0:
      verdict = 'guided higher'
    elif difference['high'] < 0:
      verdict = 'guided lower'
    rows.append(
      dict(zip(names, keys, strict=True))
      | {arm: parts.of_row(values, 2) for arm, values in arms.iterrows()}
      | {'verdict': verdict}
    )
  told = {
    'guided higher': 'hit training images more often than plain ones',
    'guided lower': 'hit training images less often than plain ones',
    'not told apart': 'hit training images about as often as plain ones',
  }
  return {
    'rows': rows,
    'num_models': int(summary['num_models'].iloc[0]),
    'scale': f'{summary["scale"].iloc[0]:g}',
    # Of the first setting, at equal numbers of samples.
    'told': told[rows[0]['verdict']],
    'plain': rows[0]['plain'],
    'guided': rows[0]['guided'],
  }
