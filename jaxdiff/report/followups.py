"""What follows from the images given away, within the section on extraction."""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.report import figures, parts
from jaxdiff.runs import files, layout

# Copies up to which every number has a bar of its own.
_FEW = 12


def findings(run: layout.Run, setting: str) -> dict[str, Any]:
  """What follows from the images given away, in one setting."""

  def of_setting(path) -> pd.DataFrame:
    table = files.read_csv(path)
    return table[table['setting'] == setting]

  further = of_setting(extraction_paths.Paths(run).extrapolation).pivot(
    index='target', columns='metric', values=['value', 'low', 'high']
  )
  ends = ('value', 'low', 'high')
  copies = of_setting(extraction_paths.Paths(run).eidetic)
  return {
    'extrapolation': [
      {
        'target': target,
        **{
          metric: parts.count(*(row[end, metric] for end in ends))
          for metric in (
            'extracted', 'at_twice', 'at_least', 'half_predicts',
          )
        },
      }
      for target, row in further.iterrows()
    ],
    'copies': copies_section(copies) if len(copies) else None,
    'recall': (
      [
        {
          'copies': row.copies,
          'images': row.images,
          'share': parts.number(row.value, row.low, row.high),
        }
        for row in of_setting(extraction_paths.Paths(run).recall).itertuples()
      ]
      if extraction_paths.Paths(run).recall.exists()
      else []
    ),
    'overlap': overlap(of_setting(extraction_paths.Paths(run).overlap)),
    'classes': (
      classes(of_setting(extraction_paths.Paths(run).classes))
      if extraction_paths.Paths(run).classes.exists()
      else []
    ),
    'annotated': (
      annotated(of_setting(extraction_paths.Paths(run).annotated))
      if extraction_paths.Paths(run).annotated.exists()
      else None
    ),
  }  # fmt: skip


def copies_section(table: pd.DataFrame) -> dict[str, Any]:
  """Figure 5, and how many have no copy but themselves."""
  return {
    'figure': copies_figure(table),
    'delta': table['delta'].iloc[0],
    'count': len(table),
    'single': int((table['copies'] <= 1).sum()),
    'most': int(table['copies'].max()),
  }


def overlap(table: pd.DataFrame) -> dict[str, Any]:
  """Pairs of models together, and two runs where there are two."""
  models = table[table['kind'] == 'models']
  rows = [
    {
      'first': row.first,
      'second': row.second,
      'population': row.population,
      'extracted': f'{row.first_extracted} and {row.second_extracted}',
      'common': row.common,
      'expected': f'{row.expected:.3g}',
      'p_value': parts.p_text(row.p_value),
    }
    for row in table.itertuples()
  ]
  return {
    'rows': [row for row in rows if row['first'] >= 0],
    'runs': next((row for row in rows if row['first'] < 0), None),
    'pairs': len(models),
    # By Bonferroni: one or more below it is no accident of many pairs.
    'more': int((models['p_value'] < parts.LEVEL / max(len(models), 1)).sum()),
    'common': int(models['common'].sum()),
    'expected': f'{models["expected"].sum():.4g}',
  }


def classes(table: pd.DataFrame) -> list[dict[str, str]]:
  """One row a label that was asked for."""
  return [
    {
      'label': str(row.label),
      'num_samples': f'{row.num_samples:,}',
      'hit_rate': parts.number(row.hit_rate, row.low, row.high),
      'extracted': str(row.extracted),
      'control_hits': str(row.control_hits),
    }
    for row in table.itertuples()
  ]


def annotated(table: pd.DataFrame) -> dict[str, Any]:
  """A person's verdicts against the filter's."""
  extracted = table[table['extracted'] == 1]
  return {
    'count': len(table),
    'extracted': len(extracted),
    'agreed': int(extracted['memorised'].sum()),
    'missed': int((table['memorised'] - table['extracted'] > 0).sum()),
  }


def copies_figure(table: pd.DataFrame) -> str:
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
    axes.hist(table['copies'], bins=edges.tolist(), color=figures.COLOURS[0])
    axes.set_xscale('log')
  return figures.svg(made)
