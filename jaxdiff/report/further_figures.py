"""Figures of inpainting, canaries and copies (paper, figures 5, 13 and 15)."""

import numpy as np
import pandas as pd

from jaxdiff.report import figures

# Copies up to which every number has a bar of its own.
_FEW = 12


def copies(table: pd.DataFrame) -> str:
  """How many training images are copies of what is given away (figure 5)."""
  made, axes = figures.new(2.8)
  axes.set(
    xlabel='Training images within the distance, itself among them',
    ylabel='Images given away',
  )
  most = int(table['copies'].max())
  if most <= _FEW:
    counts = table['copies'].value_counts().reindex(range(1, most + 1))
    axes.bar(counts.index, counts.fillna(0), color=figures.COLOURS[0])
    axes.set_xticks(counts.index)
  else:
    edges = np.unique(np.geomspace(1, most + 1, 30).round()) - 0.5
    axes.hist(table['copies'], bins=edges, color=figures.COLOURS[0])
    axes.set_xscale('log')
  return figures.svg(made)


def inpainting(table: pd.DataFrame) -> str:
  """Distance when trained on the image against when not (figure 13)."""
  made, axes = figures.new(4.6)
  wide = table.pivot_table(
    index=['pair', 'index'], columns='member', values='distance'
  )
  top = 1.05 * wide.to_numpy().max()
  axes.plot([0, top], [0, top], color='#808080', linestyle=':', linewidth=1)
  axes.scatter(wide[0], wide[1], s=18, color=figures.COLOURS[0], alpha=0.7)
  axes.set(
    xlabel='Distance of the model that did not train on it (RMSE)',
    ylabel='Of the model that trained on it',
    xlim=(0, top),
    ylim=(0, top),
    aspect='equal',
  )
  return figures.svg(made)


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
    own = summary[summary['metric'] == metric].set_index('copies').loc[copies]
    figures.bars(
      axes,
      np.arange(len(copies)) + 0.08 * number,
      own,
      figures.COLOURS[number],
      label,
    )
    axes.axhline(
      own['chance'].iloc[0],
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
