"""Canaries in the report: how exposed is planted noise?"""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.attacks.canaries import paths as canaries_paths
from jaxdiff.report import figures, parts
from jaxdiff.runs import files, layout

PLACE = 5

_METHODS = (
  'Exposure: Carlini et al., “The Secret Sharer”, USENIX Security 2019. '
  'The bound on epsilon: Steinke, Nasr, Jagielski, “Privacy Auditing with'
  ' One (1) Training Run”, NeurIPS 2023.',
)  # fmt: skip


def make(page: parts.Page) -> parts.Section:
  """How far ahead do canaries rank of others that were left out?"""
  return parts.Section(
    title='Canaries',
    html=parts.render(
      'sections/canaries.html.jinja', canaries=contents(page.run)
    ),
    tested='canaries',
    methods=_METHODS,
  )


def contents(run: layout.Run) -> dict[str, Any]:
  """Exposure by copies, and what is said of all canaries together."""
  summary = files.read_csv(canaries_paths.Paths(run).summary)
  by_copies = summary[summary['copies'] >= 0]
  together = summary[summary['copies'] < 0].set_index('metric')
  most = float(np.log2(summary['pool'].iloc[0] + 1))

  def epsilon(suffix: str = '') -> str:
    return f'{together.loc[f"epsilon_lower_bound{suffix}", "value"]:.2f}'

  return {
    'figure': exposure(by_copies, most),
    'most': f'{most:.1f}',
    'pool': int(summary['pool'].iloc[0]),
    'num_models': int(summary['num_models'].iloc[0]),
    't': int(summary['t'].iloc[0]),
    'draws': int(summary['draws'].iloc[0]),
    'delta': f'{summary["delta"].iloc[0]:g}',
    'spearman': parts.number(
      *together.loc['spearman', ['value', 'low', 'high']]
    ),
    'uniformity': parts.p_text(together.loc['uniformity_p', 'value']),
    'uniform': bool(together.loc['uniformity_p', 'value'] >= parts.LEVEL),
    'epsilon': epsilon(),
    'epsilon_range': f'{epsilon("_smallest")} to {epsilon("_largest")}',
    'epsilon_cap': epsilon('_cap'),
    'coins': int(together.loc['epsilon_lower_bound', 'num_canaries']),
    'per_count': int(by_copies['num_canaries'].iloc[0]),
    'rows': [
      {'copies': str(copies)}
      | {
        row.metric: (
          parts.number(row.value, row.low, row.high)
          + f'; by chance {row.chance:.2g}'
        )
        for row in part.itertuples()
      }
      for copies, part in by_copies.groupby('copies')
    ],
  }


def exposure(summary: pd.DataFrame, most: float) -> str:
  """Exposure against copies inserted (figure 15).

  Args:
    summary: rows of canaries/summary.csv by copies.
    most: the largest exposure that the pool allows.
  """
  made, axes = figures.new(3.2)
  copies = sorted(summary['copies'].unique())
  for number, (metric, label) in enumerate(
    (('max_exposure', 'largest'), ('median_exposure', 'median'))
  ):
    of_metric = (
      summary[summary['metric'] == metric].set_index('copies').loc[copies]
    )
    figures.bars(
      axes,
      np.arange(len(copies)) + 0.08 * number,
      of_metric,
      figures.COLOURS[number],
      label,
    )
    axes.axhline(
      of_metric['chance'].iloc[0],
      color=figures.COLOURS[number],
      linestyle='--',
      linewidth=1,
    )
  axes.axhline(most, color='#808080', linestyle=':', linewidth=1)
  axes.set_xticks(range(len(copies)), copies)
  axes.set(xlabel='Copies in the training set', ylabel='Exposure (bits)')
  axes.set_ylim(bottom=0.0)
  axes.legend(frameon=False, fontsize='small', loc='lower right')
  return figures.svg(made)
