"""Screens of prompts, in the report."""

from typing import Any

import pandas as pd

from jaxdiff.attacks.prompts import evaluate, paths
from jaxdiff.report import figures, parts
from jaxdiff.runs import files

PLACE = 1.42

_METHODS = (
  'Screens of prompts: Webster, “A Reproducible Extraction of Training Images '
  'from Diffusion Models”, 2023 (dcs, edges); Wen, Liu, Chen, Lyu, ICLR 2024 '
  '(wen_first, wen_trajectory); Asthana, Belagiannis, 2026 (cosine, '
  'anisotropy).',
)

_TRUTHS = {
  'trained': 'Prompts whose images were trained on, against held-out ones',
  'asked': 'Prompts asked, against held-out ones',
  'copies': 'Prompts with several training images, against those with one',
  'found': 'Prompts that the full attack calls memorised, against the others',
}
_WORDS = {'text': 'the text alone, no model'}


def make(page: parts.Page) -> parts.Section:
  """Which screen knows what the full attack would find?"""
  where = paths.Paths(page.run)
  summary = files.read_csv(where.summary)
  count = len(files.read_csv(where.screens))
  tables = [
    {'title': _TRUTHS[truth], 'rows': _rows(part), 'size': _size(part)}
    for truth, part in summary.groupby('truth', sort=False)
  ]
  # The last there is: `found`, where the full attack says.
  shown = summary[summary['truth'].isin(summary['truth'].tail(1))]
  return parts.Section(
    title='Screens of prompts',
    html=parts.render(
      'sections/screen.html.jinja',
      count=count,
      may_hold_out='held_out_prompts' in page.config,
      tables=tables,
      figure=parts.svg_url(figures.screens(shown)) if len(shown) else None,
    ),
    finding=_finding(summary),
    tested='screens of prompts' if len(summary) else '',
    methods=_METHODS,
  )


def _size(part: pd.DataFrame) -> str:
  first = part.iloc[0]
  return f'{first["positives"]:,} of {first["rows"]:,}'


def _rows(part: pd.DataFrame) -> list[dict[str, Any]]:
  """A table's rows, the best average precision first."""
  out = []
  for row in part.sort_values('ap', ascending=False).to_dict('records'):
    text = row['screen'] == evaluate.TEXT
    against = parts.words(pd.Series([row['against_text']]))[0]
    direction = parts.words(pd.Series([row['direction']]))[0]
    out.append(
      {
        'screen': _WORDS.get(row['screen'], row['screen']),
        'calls': '-' if text else f'{row["calls"]:,}',
        'cost': '-' if text or pd.isna(row['cost']) else _percent(row['cost']),
        'ap': parts.number(row['ap'], row['ap_low'], row['ap_high']),
        'auc': parts.number(row['auc'], row['auc_low'], row['auc_high']),
        'kept': parts.number(row['kept'], row['kept_low'], row['kept_high']),
        'budget': (
          '-'
          if pd.isna(row['kept_at_twentieth'])
          else _percent(row['kept_at_twentieth'])
        ),
        'flags': '; '.join(
          [
            *(['points the wrong way'] if direction == 'reversed' else []),
            *([f'{against} the text'] if against else []),
          ]
        ),
      }
    )
  return out


def _finding(summary: pd.DataFrame) -> str:
  """Of the screen with the best average precision on what was found."""
  part = summary[
    (summary['truth'] == 'found') & (summary['screen'] != evaluate.TEXT)
  ]
  if not len(part) or part['kept'].isna().all():
    return ''
  best = part.loc[part['ap'].idxmax()]
  return (
    f'The screen {best["screen"]}, at {_percent(best["cost"])} of the full '
    f'attack’s cost, keeps {best["kept"]:.0%} of the prompts that it finds.'
  )


def _percent(share: float) -> str:
  """Two digits, however small."""
  return f'{100.0 * share:.2g} %'
