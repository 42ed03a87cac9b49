"""Figures of several runs, or of several steps of one, as SVG text."""

from __future__ import annotations

from etils import epy
import numpy as np
import pandas as pd

from jaxdiff.report import figures

with epy.lazy_imports():  # slow to import, not always needed
  import matplotlib
  from matplotlib import figure


def sweep(table: pd.DataFrame) -> str:
  """A panel a knob: every metric with its interval, settings in order.

  Args:
    table: columns knob, setting, metric, value, low, high; values in [0, 1].
  """
  knobs = list(dict.fromkeys(table['knob']))
  columns = min(4, len(knobs))
  rows = -(-len(knobs) // columns)
  made = figure.Figure(
    figsize=(3.0 * columns, 2.8 * rows + 0.5), layout='constrained'
  )
  grid = made.subplots(rows, columns, sharey=True, squeeze=False).ravel()
  for axes, knob in zip(grid, knobs, strict=False):
    of_knob = table[table['knob'] == knob]
    settings = list(dict.fromkeys(of_knob['setting']))
    metrics = list(dict.fromkeys(of_knob['metric']))
    for number, metric in enumerate(metrics):
      part = (
        of_knob[of_knob['metric'] == metric]
        .set_index('setting')
        .reindex(settings)
      )
      figures.bars(
        axes,
        np.arange(len(settings)) + 0.1 * (number - (len(metrics) - 1) / 2),
        part,
        figures.COLOURS[number],
        metric,
      )
    axes.set_xticks(range(len(settings)), settings, fontsize='small')
    axes.set(title=knob, ylim=(-0.03, 1.03), xlim=(-0.5, len(settings) - 0.5))
    axes.spines[['top', 'right']].set_visible(False)
  for axes in grid[len(knobs) :]:
    axes.set_visible(False)
  handles, labels = grid[0].get_legend_handles_labels()
  made.legend(
    handles, labels, loc='outside lower center', ncols=len(labels),
    frameon=False,
  )  # fmt: skip
  return figures.svg(made)


def settings(table: pd.DataFrame, given_away: list[str], beside: str) -> str:
  """A line a setting, in words: what was given away, and the quality.

  Args:
    table: columns setting, metric, value, low, high, of one knob.
    given_away: metrics in [0, 1].
    beside: a metric of quality; '' draws none.
  """
  names = list(dict.fromkeys(table['setting']))
  made = figure.Figure(
    figsize=(11.0, 1.1 + 0.42 * len(names)), layout='constrained'
  )
  grid = made.subplots(
    1,
    1 + bool(beside),
    sharey=True,
    squeeze=False,
    width_ratios=[3, 2][: 1 + bool(beside)],
  )[0]
  for axes, metrics in zip(grid, (given_away, [beside]), strict=False):
    for number, metric in enumerate(metrics):
      part = (
        table[table['metric'] == metric].set_index('setting').reindex(names)
      )
      below = (part['value'] - part['low']).clip(lower=0.0)
      above = (part['high'] - part['value']).clip(lower=0.0)
      place = np.arange(len(names)) + 0.16 * (number - (len(metrics) - 1) / 2)
      axes.errorbar(
        part['value'], place, xerr=np.nan_to_num([below, above]), fmt='o',
        color=figures.COLOURS[number % len(figures.COLOURS)],
        markersize=5, capsize=3,
        linewidth=1, label=metric,
      )  # fmt: skip
    axes.grid(axis='x', alpha=0.3)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(axis='y', length=0)
  grid[0].set_yticks(range(len(names)), names)
  grid[0].set(xlim=(-0.03, 1.03), ylim=(len(names) - 0.5, -0.5))
  if beside:
    grid[1].set(xlabel=beside)
    grid[1].set_xlim(left=0.0)
  grid[0].legend(
    frameon=False, fontsize='small', ncols=len(given_away),
    loc='lower left', bbox_to_anchor=(0.0, 1.0),
  )  # fmt: skip
  return figures.svg(made)


def compare(table: pd.DataFrame, given_away: list[str], quality: str) -> str:
  """Families of models: what they give away, by step and by quality.

  Args:
    table: columns family, step, metric, value, low, high.
    given_away: metrics in [0, 1], at most three of which are drawn.
    quality: a distance; '' is none.
  """
  shown = given_away[:3]
  made = figure.Figure(figsize=(11.0, 6.6), layout='constrained')
  grid = made.subplots(2, len(shown), squeeze=False)
  for column, metric in enumerate(shown):
    above, below = grid[:, column]
    for number, (family, rows) in enumerate(
      table.groupby('family', sort=False)
    ):
      colour = figures.COLOURS[number % len(figures.COLOURS)]
      part = rows[rows['metric'] == metric].set_index('step').sort_index()
      if part.empty:
        continue
      figures.bars(above, part.index, part, colour, family)
      good = rows[rows['metric'] == quality].set_index('step')['value']
      good = good.reindex(part.index)
      if good.notna().any():
        below.plot(good, part['value'], color=colour, linewidth=0.6)
        shade = np.linspace(0.25, 1.0, len(part))
        below.scatter(good, part['value'], color=colour, alpha=shade, s=22)
    above.set(title=metric, xlabel='training step', ylim=(-0.03, 1.03))
    above.legend(frameon=False, fontsize='small')
    below.set(xlabel=quality, ylim=(-0.03, 1.03))
    for axes in (above, below):
      axes.spines[['top', 'right']].set_visible(False)
  return figures.svg(made)


def steps(
  table: pd.DataFrame, given_away: list[str], quality: list[str]
) -> str:
  """Memorisation and quality by training step, and one against the other.

  Args:
    table: columns step, metric, value, low, high.
    given_away: metrics in [0, 1].
    quality: distances; the last one is of images never trained on.
  """
  made = figure.Figure(figsize=(11.0, 3.9), layout='constrained')
  left, middle, right = made.subplots(1, 3)
  parts = {
    metric: part.set_index('step') for metric, part in table.groupby('metric')
  }
  for axes, metrics in ((left, given_away), (middle, quality)):
    for number, metric in enumerate(metrics):
      if metric in parts:
        part = parts[metric]
        figures.bars(axes, part.index, part, figures.COLOURS[number], metric)
    axes.set_xlabel('training step')
    if metrics:
      axes.legend(frameon=False, fontsize='small')
    axes.set_ylim(bottom=0.0)
  left.set(title='given away', ylim=(-0.03, 1.03))
  middle.set_title('distance to real images')
  if quality:
    last = parts[quality[-1]]['value']
    shade = np.linspace(0.25, 1.0, len(last))
    for number, metric in enumerate(given_away):
      value = parts[metric]['value'].reindex(last.index)
      right.plot(last, value, color=figures.COLOURS[number], linewidth=0.6)
      right.scatter(
        last, value, color=figures.COLOURS[number], alpha=shade, s=22
      )
  right.set(
    title='one against the other',
    xlabel=quality[-1] if quality else '',
    ylim=(-0.03, 1.03),
  )
  for axes in (left, middle, right):
    axes.spines[['top', 'right']].set_visible(False)
  return figures.svg(made)


def onset(
  table: pd.DataFrame,
  courses: dict[str, pd.DataFrame],
  metric: str,
  level: float,
  quality: list[str],
) -> str:
  """Courses of runs of several sizes, and where memorisation begins in each.

  Args:
    table: columns of `report.onset`, by rising size.
    courses: steps.csv of each run.
    metric: what is looked at.
    level: at which memorisation begins.
    quality: a distance to images never trained on, or nothing.
  """
  made = figure.Figure(figsize=(11.0, 3.9), layout='constrained')
  left, middle, right = made.subplots(1, 3)
  # In order of size, and to be read on light and on dark.
  shades = [
    matplotlib.colors.to_hex(matplotlib.colormaps['viridis'](shade))
    for shade in np.linspace(0.7, 0.25, len(table))
  ]
  for axes, wanted in ((left, [metric]), (middle, quality)):
    for shade, row in zip(shades, table.itertuples(), strict=True):
      course = courses[str(row.run)]
      for name in wanted:
        part = course[course['metric'] == name].set_index('step')
        figures.bars(axes, part.index, part, shade, f'{row.images} images')
    axes.set_xlabel('training step')
    axes.set_ylim(bottom=0.0)
    if wanted:
      axes.legend(frameon=False, fontsize='small')
  left.axhline(level, color='grey', linestyle=':', linewidth=0.8)
  left.set(title=metric, ylim=(-0.03, 1.03))
  middle.set_title('distance to real images')
  middle.set_visible(bool(quality))
  images, step = table['images'].to_numpy(), table['step'].to_numpy()
  ends = [
    step - table['low'].to_numpy(),
    np.where(np.isfinite(table['high']), table['high'], step) - step,
  ]
  right.errorbar(
    images, step, yerr=ends, fmt='o', color=figures.COLOURS[0], capsize=3
  )
  right.plot(
    images, images * np.exp(np.log(step / images).mean()),
    color='grey', linestyle='--', linewidth=0.8, label='in proportion',
  )  # fmt: skip
  right.set(
    title='where it begins', xlabel='training images', ylabel='training step',
    xscale='log', yscale='log',
  )  # fmt: skip
  right.legend(frameon=False, fontsize='small')
  for axes in (left, middle, right):
    axes.spines[['top', 'right']].set_visible(False)
  return figures.svg(made)
