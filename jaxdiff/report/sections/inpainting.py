"""Inpainting in the report: what fills the hidden part?"""

from typing import Any

import numpy as np
import pandas as pd

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import paths as inpainting_paths
from jaxdiff.report import figures, galleries, parts
from jaxdiff.runs import files, layout

PLACE = 3


def make(page: parts.Page) -> parts.Section:
  """Do models come nearer to images that they trained on?"""
  return parts.Section(
    title='Inpainting',
    html=parts.render(
      'sections/inpainting.html.jinja',
      inpainting=contents(page.run, page.examples.images),
    ),
    tested='inpainting',
    methods=('Inpainting: RePaint, Lugmayr et al., CVPR 2022.',),
  )


def contents(run: layout.Run, images: np.ndarray) -> list[dict[str, Any]]:
  """One part a mask."""
  summary = files.read_csv(inpainting_paths.Paths(run).summary)
  table = files.read_csv(inpainting_paths.Paths(run).images)
  shown = files.read_npz(inpainting_paths.Paths(run).examples, 'mask', 'index')
  if shown is None:
    raise inputs.InputError(
      f'{inpainting_paths.Paths(run).examples} is missing or torn: run attack '
      'again'
    )
  out = []
  for mask, rows in summary.groupby('mask', sort=False):
    first = rows.iloc[0]
    by_selection = {
      selection: part.set_index('metric')
      for selection, part in rows.groupby('selection', sort=False)
    }
    kept = by_selection['kept']
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
        'nearer': bool(kept.loc['p_value', 'value'] < parts.LEVEL),
        'p_value': parts.p_text(kept.loc['p_value', 'value']),
        'rows': [
          {
            'selection': selection,
            'p_value': parts.p_text(part.loc['p_value', 'value']),
            **{
              name: parts.number(*part.loc[name, ['value', 'low', 'high']])
              for name in ('member', 'other', 'difference', 'share_below')
            },
          }
          for selection, part in by_selection.items()
        ],
        'figure': scatter(table[table['mask'] == mask]),
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


def scatter(table: pd.DataFrame) -> str:
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
