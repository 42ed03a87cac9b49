"""Figures of the report, as PNG bytes."""

import io

import matplotlib

matplotlib.use('Agg')
from matplotlib import figure  # noqa: E402
import numpy as np  # noqa: E402
import pandas as pd  # noqa: E402


def _png(made: figure.Figure) -> bytes:
  buffer = io.BytesIO()
  # Without the version in its metadata the file depends on the data alone.
  made.savefig(buffer, format='png', dpi=120, metadata={'Software': None})
  return buffer.getvalue()


def roc(table: pd.DataFrame) -> bytes:
  """Log-log ROC, a curve an attack (paper, figure 10)."""
  made = figure.Figure(figsize=(6.4, 4.8), layout='constrained')
  axes = made.subplots()
  # One curve an attack: at the timestep of the later rule.
  rule = table['timestep_rule'].iloc[-1]
  table = table[table['timestep_rule'] == rule]
  smallest = table['fpr'][table['fpr'] > 0].min()
  for (attack, variance), rows in table.groupby(
    ['attack', 'variance'], sort=False
  ):
    label = attack if variance == '-' else f'{attack} ({variance})'
    axes.plot(
      np.maximum(rows['fpr'], smallest / 2),
      np.maximum(rows['tpr'], smallest / 2),
      label=label,
      drawstyle='steps-post',
    )
  line = np.geomspace(smallest / 2, 1.0)
  axes.plot(line, line, 'k:', linewidth=1)
  axes.set(
    xscale='log',
    yscale='log',
    xlabel='False-positive rate',
    ylabel='True-positive rate',
    xlim=(smallest / 2, 1.0),
    ylim=(smallest / 2, 1.1),
  )
  axes.legend(fontsize='small')
  return _png(made)


def extraction(table: pd.DataFrame) -> bytes:
  """Distinct images hit against alpha, training beside control."""
  made = figure.Figure(figsize=(6.4, 4.0), layout='constrained')
  axes = made.subplots()
  setting = 'chosen' if (table['setting'] == 'chosen').any() else 'paper'
  rows = table[table['setting'] == setting]
  sums = rows.groupby('alpha')[['extracted', 'control_hits']].sum()
  axes.plot(sums.index, sums['extracted'], label='training images')
  axes.plot(
    sums.index, sums['control_hits'], '--', label='control (never trained on)'
  )
  axes.set(
    xlabel='alpha',
    ylabel='Distinct images hit, all targets',
    ylim=(0, None),
  )
  axes.legend()
  return _png(made)
