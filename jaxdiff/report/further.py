"""Sections of the report on what only some runs have, and what follows."""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff.report import further_figures, galleries
from jaxdiff.report.membership import number
from jaxdiff.runs import files, layout

_LEVEL = 0.05


def p_text(p_value: float) -> str:
  """'0.03', or '3e-08' for what is very small."""
  if np.isnan(p_value):
    return '-'
  return f'{p_value:.2g}' if p_value >= 1e-300 else 'below 1e-300'


def findings(run: layout.Run, setting: str) -> dict[str, Any]:
  """What follows from the images given away, in one setting."""

  def own(path) -> pd.DataFrame:
    table = files.read_csv(path)
    return table[table['setting'] == setting]

  further = own(run.extraction_extrapolation).pivot(
    index='target', columns='metric', values=['value', 'low', 'high']
  )
  copies = own(run.extraction_eidetic)
  return {
    'extrapolation': [
      {
        'target': target,
        **{
          metric: number(*(row[x, metric] for x in ('value', 'low', 'high')))
          for metric in (
            'extracted', 'at_twice', 'at_least', 'half_predicts',
          )
        },
      }
      for target, row in further.iterrows()
    ],
    'copies': copies_section(copies) if len(copies) else None,
    'overlap': overlap(own(run.extraction_overlap)),
    'classes': (
      classes(own(run.extraction_classes))
      if run.extraction_classes.exists()
      else []
    ),
    'annotated': (
      annotated(own(run.extraction_annotated))
      if run.extraction_annotated.exists()
      else None
    ),
  }  # fmt: skip


def copies_section(table: pd.DataFrame) -> dict[str, Any]:
  """Figure 5, and how many have no copy but themselves."""
  return {
    'figure': further_figures.copies(table),
    'delta': table['delta'].iloc[0],
    'count': len(table),
    'single': int((table['copies'] <= 1).sum()),
    'most': int(table['copies'].max()),
  }


def overlap(table: pd.DataFrame) -> dict[str, Any]:
  """Pairs of models together, and two runs where there are two."""
  models = table[table['kind'] == 'models']
  between = table[table['kind'] == 'runs']
  rows = [
    {
      'first': row.first,
      'second': row.second,
      'population': row.population,
      'extracted': f'{row.first_extracted} and {row.second_extracted}',
      'common': row.common,
      'expected': f'{row.expected:.3g}',
      'p_value': p_text(row.p_value),
    }
    for row in table.itertuples()
  ]
  return {
    'rows': [row for row in rows if row['first'] >= 0],
    'runs': next((row for row in rows if row['first'] < 0), None),
    'pairs': len(models),
    # By Bonferroni: one or more below it is no accident of many pairs.
    'more': int((models['p_value'] < _LEVEL / max(len(models), 1)).sum()),
    'common': int(models['common'].sum()),
    'expected': f'{models["expected"].sum():.4g}',
    'between': not between.empty,
  }


def classes(table: pd.DataFrame) -> list[dict[str, str]]:
  """One row a label that was asked for."""
  return [
    {
      'label': str(row.label),
      'num_samples': f'{row.num_samples:,}',
      'hit_rate': number(row.hit_rate, row.low, row.high),
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


def inpainting(run: layout.Run, images: np.ndarray) -> list[dict[str, Any]]:
  """One part a mask; nothing if the run left inpainting out."""
  if not run.inpainting_summary.exists():
    return []
  summary = files.read_csv(run.inpainting_summary)
  table = files.read_csv(run.inpainting_images)
  shown = files.read_npz(run.inpainting_examples, 'mask', 'index')
  out = []
  for mask, rows in summary.groupby('mask', sort=False):
    first = rows.iloc[0]
    parts = {
      selection: own.set_index('metric')
      for selection, own in rows.groupby('selection', sort=False)
    }
    kept = parts['kept']
    out.append(
      {
        'mask': mask,
        'settings': {
          name: f'{first[name]:g}'
          for name in (
            'draws', 'kept', 'num_images', 'num_steps', 'jump_length',
            'jump_n_sample', 'eta', 't', 'loss_draws',
          )
        },
        'nearer': bool(kept.loc['p_value', 'value'] < _LEVEL),
        'p_value': p_text(kept.loc['p_value', 'value']),
        'rows': [
          {
            'selection': selection,
            'p_value': p_text(own.loc['p_value', 'value']),
            **{
              name: number(*own.loc[name, ['value', 'low', 'high']])
              for name in ('member', 'other', 'difference', 'share_below')
            },
          }
          for selection, own in parts.items()
        ],
        'figure': further_figures.inpainting(table[table['mask'] == mask]),
        'examples': [
          {
            'index': index,
            'original': galleries.png(images[index]),
            **{
              name: galleries.png(shown[name][place])
              for name in ('masked', 'member', 'other')
            },
          }
          for place, index in enumerate(shown['index'])
          if shown['mask'][place] == mask
        ],
      }
    )  # fmt: skip
  return out


def guidance(run: layout.Run) -> dict[str, Any] | None:
  """Guided beside plain samples; None if the run left them out."""
  if not run.guidance_summary.exists():
    return None
  summary = files.read_csv(run.guidance_summary)
  names = ['setting', 'budget', 'num_samples', 'metric']
  rows = []
  for keys, own in summary.groupby(names, sort=False):
    arms = own.set_index('arm')[['value', 'low', 'high']]
    difference = arms.loc['difference']
    verdict = 'not told apart'
    if difference['low'] > 0:
      verdict = 'guided higher'
    elif difference['high'] < 0:
      verdict = 'guided lower'
    rows.append(
      dict(zip(names, keys, strict=True))
      | {arm: number(*values, 2) for arm, values in arms.iterrows()}
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


def canaries(run: layout.Run) -> dict[str, Any] | None:
  """Exposure by copies, and what is said of all; None if left out."""
  if not run.canary_summary.exists():
    return None
  summary = files.read_csv(run.canary_summary)
  by_copies = summary[summary['copies'] >= 0]
  together = summary[summary['copies'] < 0].set_index('metric')
  most = float(np.log2(summary['pool'].iloc[0] + 1))

  def epsilon(suffix: str = '') -> str:
    return f'{together.loc[f"epsilon_lower_bound{suffix}", "value"]:.2f}'

  return {
    'figure': further_figures.exposure(by_copies, most),
    'most': f'{most:.1f}',
    'pool': int(summary['pool'].iloc[0]),
    'num_models': int(summary['num_models'].iloc[0]),
    't': int(summary['t'].iloc[0]),
    'draws': int(summary['draws'].iloc[0]),
    'delta': f'{summary["delta"].iloc[0]:g}',
    'spearman': number(*together.loc['spearman', ['value', 'low', 'high']]),
    'uniformity': p_text(together.loc['uniformity_p', 'value']),
    'uniform': bool(together.loc['uniformity_p', 'value'] >= _LEVEL),
    'epsilon': epsilon(),
    'epsilon_range': f'{epsilon("_smallest")} to {epsilon("_largest")}',
    'epsilon_cap': epsilon('_cap'),
    'coins': int(together.loc['epsilon_lower_bound', 'num_canaries']),
    'per_count': int(by_copies['num_canaries'].iloc[0]),
    'rows': [
      {'copies': str(copies)}
      | {
        row.metric: (
          f'{number(row.value, row.low, row.high)}; by chance {row.chance:.2g}'
        )
        for row in own.itertuples()
      }
      for copies, own in by_copies.groupby('copies')
    ],
  }
