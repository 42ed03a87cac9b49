"""Figures of the report, as SVG text that follows the reader's colour scheme.

Bytes depend on the data alone: no date, no random identifiers.
"""

from __future__ import annotations

from collections.abc import Iterable
import io
from typing import Any

from cycler import cycler
from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import signals
from jaxdiff.report import names as names_lib

with epy.lazy_imports():  # slow to import, not always needed
  import matplotlib
  from matplotlib import figure

# Okabe and Ito's colours, those that read on light and on dark.
# Two lines an attack, plain and strong, in one colour.
COLOURS = ('#0b84d8', '#e06c00', '#00a37a', '#cc5f9e')
DASHES = ('-', '--')

_STYLE = """<style>
:root { --ink: #222; }
@media (prefers-color-scheme: dark) { :root { --ink: #ddd; } }
text { fill: var(--ink); }
</style>"""


def new(height: float = 4.2) -> tuple[figure.Figure, matplotlib.axes.Axes]:
  """An empty figure of the report's width, in inches, and its axes."""
  made = figure.Figure(figsize=(6.8, height), layout='constrained')
  axes = made.subplots()
  axes.spines[['top', 'right']].set_visible(False)
  axes.set_prop_cycle(cycler(color=COLOURS) * cycler(linestyle=DASHES))
  return made, axes


def svg(made: figure.Figure) -> str:
  """SVG text whose black is the reader's ink."""
  buffer = io.StringIO()
  settings: Any = {'svg.hashsalt': 'jaxdiff', 'svg.fonttype': 'none'}
  with matplotlib.rc_context(settings):
    made.savefig(
      buffer,
      format='svg',
      transparent=True,
      metadata={'Date': None, 'Creator': None},
    )
  text = buffer.getvalue()
  # Matplotlib draws in black: text, axes and ticks take the reader's ink.
  text = text[text.index('<svg') :].replace('#000000', 'var(--ink)')
  text = text.replace('<defs>', _STYLE + '<defs>', 1)
  return text.replace("'DejaVu Sans', ", '')


# Attacks on the loss that share a figure, and those that share another, each
# kept to as many lines as there are colours and dashes.
_LOSSES = ('threshold', 'lira', 'offline_lira', 'rmia')
_OTHERS = (*(name for name in signals.OF_NOISE if name != 'loss'), 'quantile')
# Of a discriminator, each with what it is calibrated by.
_OF_DISCRIMINATOR = [
  name + after
  for name in signals.OF_DISCRIMINATOR
  for after in ('', '_lira', '_rmia')
]


def by_signal(names: Iterable[str]) -> tuple[list[str], list[str]]:
  """Attacks on the loss or a discriminator, and others, that figures show."""
  there = set(names)
  losses = [x + name for name in _LOSSES for x in ('', 'strong_')]
  return (
    [name for name in losses + _OF_DISCRIMINATOR if name in there],
    [name for name in _OTHERS if name in there],
  )


def _label(attack: str, variance: str) -> str:
  """Of a curve."""
  # Neither a formula nor hidden, whatever a user calls it.
  name = names_lib.title(attack).replace('$', r'\$').lstrip('_')
  return name if variance == '-' else f'{name}, {variance}'


def _shown(table: pd.DataFrame, names: list[str]):
  """Rows by (attack, variance), LiRA with its pooled variance alone."""
  rows = table[table['variance'].isin(['-', 'pooled'])]
  return rows[rows['attack'].isin(names)].groupby(
    ['attack', 'variance'], sort=False
  )


def roc(table: pd.DataFrame, names: list[str]) -> str:
  """Log-log ROC, a curve an attack (paper, figure 10)."""
  made, axes = new(4.8)
  smallest = table['fpr'][table['fpr'] > 0].min() / 2
  for (attack, variance), rows in _shown(table, names):
    # At the timestep chosen on other models, where that was possible.
    rows = rows[rows['timestep_rule'] == rows['timestep_rule'].iloc[-1]]
    axes.plot(
      np.maximum(rows['fpr'], smallest),
      np.maximum(rows['tpr'], smallest),
      label=_label(attack, variance),
      drawstyle='steps-post',
    )
  line = np.geomspace(smallest, 1.0)
  axes.plot(line, line, color='#808080', linestyle=':', linewidth=1)
  axes.set(
    xscale='log',
    yscale='log',
    xlabel='False-positive rate',
    ylabel='True-positive rate',
    xlim=(smallest, 1.0),
    ylim=(smallest, 1.1),
  )
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def under_ceiling(
  table: pd.DataFrame, names: list[str], ceiling: pd.DataFrame
) -> str:
  """Log-log ROC below what private training allows.

  Args:
    table: of curves.
    names: of the attacks.
    ceiling: columns fpr, ceiling.
  """
  made, axes = new(4.2)
  smallest = table['fpr'][table['fpr'] > 0].min() / 2
  for (attack, variance), rows in _shown(table, names):
    rows = rows[rows['timestep_rule'] == rows['timestep_rule'].iloc[-1]]
    axes.plot(
      np.maximum(rows['fpr'], smallest), np.maximum(rows['tpr'], smallest),
      label=_label(attack, variance), drawstyle='steps-post', linewidth=1,
    )  # fmt: skip
  if (ceiling['ceiling'] < 1.0).any():
    limit = ceiling[ceiling['fpr'] >= smallest]
    axes.plot(
      limit['fpr'], limit['ceiling'], '-', color='#808080', linewidth=2.5,
      label='ceiling',
    )  # fmt: skip
  line = np.geomspace(smallest, 1.0)
  axes.plot(line, line, color='#808080', linestyle=':', linewidth=1)
  axes.set(
    xscale='log', yscale='log', xlabel='False-positive rate',
    ylabel='True-positive rate', xlim=(smallest, 1.0), ylim=(smallest, 1.1),
  )  # fmt: skip
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def timesteps(table: pd.DataFrame, names: list[str]) -> tuple[str | None, str]:
  """TPR at 1 % FPR against the timestep (paper, figure 9).

  Returns:
    The figure, None if no attack was measured at several timesteps; and the
    name of what it shows: AUC where there are too few non-members for the rate.
  """
  metric, label = 'tpr@fpr=0.01', 'TPR at 1 % FPR'
  if table[table['metric'] == metric]['value'].isna().all():
    metric, label = 'auc', 'AUC'
  rows = table[table['metric'] == metric]
  several = [(of, part) for of, part in _shown(rows, names) if len(part) > 1]
  if not several:
    return None, label
  made, axes = new(3.6)
  for (attack, variance), part in several:
    axes.plot(
      part['t'],
      part['value'],
      marker='.',
      label=_label(attack, variance),
    )
  axes.set(xlabel='Timestep t', ylabel=label, ylim=(0, 1.02))
  axes.legend(frameon=False, fontsize='small')
  return svg(made), label


def extraction(table: pd.DataFrame) -> str:
  """Distinct images hit against alpha, training beside control."""
  made, axes = new(3.6)
  sums = table.groupby('alpha')[['extracted', 'control_hits']].sum()
  axes.plot(sums.index, sums['extracted'], label='training images')
  axes.plot(sums.index, sums['control_hits'], label='control: never trained on')
  axes.set(
    xlabel='alpha', ylabel='Distinct images hit, all targets', ylim=(0, None)
  )
  axes.legend(frameon=False)
  return svg(made)


def screens(table: pd.DataFrame) -> str:
  """Average precision of each screen against what it takes of the attack.

  Args:
    table: rows of screens_summary.csv of one truth.
  """
  made, axes = new(3.6)
  costs, label = table['cost'].fillna(0.0), 'Calls, as a share of the attack’s'
  if not (costs > 0.0).any():
    costs, label = table['calls'].astype(float), 'Calls of the denoiser'
  for place, (cost, row) in enumerate(
    zip(costs, table.to_dict('records'), strict=True)
  ):
    if row['screen'] == 'text':
      axes.axhline(row['ap'], color=COLOURS[1], linestyle='--', label='text')
      continue
    ends = [[row['ap'] - row['ap_low']], [row['ap_high'] - row['ap']]]
    axes.errorbar(
      cost, row['ap'], yerr=ends, fmt='o', color=COLOURS[0], capsize=2
    )
    axes.annotate(
      row['screen'], (cost, row['ap']), xytext=(5, 5 if place % 2 else -11),
      textcoords='offset points', fontsize='small',
    )  # fmt: skip
  base = table['positives'].iloc[0] / table['rows'].iloc[0]
  axes.axhline(base, color='#888888', linestyle=':', label='chance')
  axes.set(
    xlabel=label,
    ylabel='Average precision',
    xscale='log',
    ylim=(0, 1.05),
  )
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def least_tau(table: pd.DataFrame, tau: float) -> str:
  """Prompts found by each threshold, those held out beside the others.

  Args:
    table: prompts.csv.
    tau: the threshold that was used.
  """
  made, axes = new(3.0)
  held_out = table['trained'] == 0
  for label, part, colour in (
    ('held out', table[held_out], COLOURS[1]),
    ('others', table[~held_out], COLOURS[0]),
  ):
    finite = np.sort(part['least_tau'].replace(np.inf, np.nan).dropna())
    if len(part):
      share = np.arange(1, len(finite) + 1) / len(part)
      axes.step(
        np.concatenate([[0.0], finite]), np.concatenate([[0.0], share]), '-',
        where='post', label=f'{label} ({len(part):,})', color=colour,
      )  # fmt: skip
  axes.axvline(tau, color='#888888', linestyle=':', label='tau')
  axes.set(
    xlabel='Least tau (RMSE of the worst tile)', ylabel='Share of prompts',
    xlim=(0, None), ylim=(0, None),
  )  # fmt: skip
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def by_rank(table: pd.DataFrame) -> str:
  """Precision among the surest prompts (paper, figure 4), and the control.

  Args:
    table: verified.csv, by rank.
  """
  made, axes = new(3.0)
  rank = np.arange(1, len(table) + 1)
  for column, label, colour in (
    ('extracted', 'copies of a training image', COLOURS[0]),
    ('control_hit', 'copies of a control image', COLOURS[1]),
  ):
    share = np.cumsum(table[column].to_numpy()) / rank
    axes.plot(rank, share, '-', label=label, color=colour)
  axes.set(
    xlabel='Prompts, the surest first', ylabel='Share of them',
    ylim=(0, 1.02),
  )  # fmt: skip
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def distances(found: np.ndarray, cut: float) -> str:
  """Distances from one sample to all training images (paper, figure 7).

  Args:
    found: [N] RMSE.
    cut: the adaptive threshold: alpha times the mean of the n nearest.
  """
  made, axes = new(2.8)
  top = max(found.max(), cut) * 1.05
  axes.hist(found, bins=np.linspace(0.0, top, 50).tolist(), color=COLOURS[0])
  axes.axvline(cut, color=COLOURS[1], linestyle='--', label='threshold')
  axes.set(
    xlabel='Distance to a training image (RMSE)',
    ylabel='Training images',
    yscale='log',
    xlim=(0, top),
  )
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def nearest_distances(
  nearest: np.ndarray, threshold: float, look: float, in_bits: bool
) -> str:
  """Images by their distance to the nearest other.

  Args:
    nearest: [N] RMSE or bits; infinite where it is beyond `look`.
    threshold: of near-duplicates.
    look: how far others were looked for.
    in_bits: of hashes.
  """
  made, axes = new(3.0)
  shown = nearest[np.isfinite(nearest)]
  # A bar a bit, around it.
  edges = np.arange(look + 1.5) - 0.5 if in_bits else np.linspace(0.0, look, 61)
  axes.hist(shown, bins=edges.tolist(), color=COLOURS[0])
  axes.axvline(threshold, color=COLOURS[1], linestyle='--', label='threshold')
  axes.set(
    xlabel=(
      'Distance to the nearest other image '
      f'({"bits of hashes" if in_bits else "RMSE"})'
    ),
    ylabel='Images', yscale='symlog', xlim=(edges[0], edges[-1]),
  )  # fmt: skip
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def training(table: pd.DataFrame) -> str:
  """Training loss: mean over models, and their range."""
  made, axes = new(3.0)
  # A private run has no loss: that would be of its images.
  name, label = 'loss', 'Training loss'
  if name not in set(table['name']):
    name, label = 'noised_grad_norm', 'Norm of the noised gradient'
  losses = table[table['name'] == name].pivot(
    index='step', columns='model', values='value'
  )
  axes.fill_between(
    losses.index,
    losses.min(axis=1),
    losses.max(axis=1),
    color=COLOURS[0],
    alpha=0.3,
    linewidth=0,
    label='range over models',
  )
  axes.plot(losses.index, losses.mean(axis=1), label='mean')
  axes.set(xlabel='Step', ylabel=label, yscale='log')
  axes.legend(frameon=False, fontsize='small')
  return svg(made)


def bars(
  axes: matplotlib.axes.Axes, x, part: pd.DataFrame, colour: str, label: str
) -> None:
  """A line of points with intervals: columns value, low, high."""
  below = (part['value'] - part['low']).clip(lower=0.0)
  above = (part['high'] - part['value']).clip(lower=0.0)
  axes.errorbar(
    x, part['value'], yerr=np.nan_to_num([below, above]), color=colour,
    marker='o', markersize=4, capsize=2, linewidth=1, label=label,
  )  # fmt: skip


def study(table: pd.DataFrame, axis: str) -> str:
  """AUC of the strong attacks against a setting, with intervals.

  Args:
    table: columns setting, attack, metric, value, low, high.
    axis: what the settings are.
  """
  made, axes = new(2.8)
  rows = table[table['metric'] == 'auc']
  settings = list(dict.fromkeys(rows['setting'].astype(str)))
  for number, (attack, part) in enumerate(rows.groupby('attack', sort=False)):
    places = [settings.index(str(setting)) for setting in part['setting']]
    bars(axes, np.array(places) + 0.06 * number, part, COLOURS[number], attack)
  axes.set_xticks(range(len(settings)), settings)
  axes.set(xlabel=axis, ylabel='AUC')
  axes.ticklabel_format(axis='y', useOffset=False)
  axes.legend(frameon=False, fontsize='small')
  return svg(made)
