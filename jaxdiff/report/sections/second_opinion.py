"""Copies by other descriptors than pixels, in the report."""

from typing import Any

import numpy as np

from jaxdiff.attacks.extraction import second_opinion
from jaxdiff.report import parts, policy
from jaxdiff.runs import files

PLACE = 1.6

_SHOWN = 12

_METHODS = (
  'PDQ: Facebook, “The TMK+PDQF Video-Hashing Algorithm and the PDQ '
  'Image-Hashing Algorithm”, 2019; thresholds by the distances between '
  'training images, here.',
)


def make(page: parts.Page) -> parts.Section:
  """Which images are copies by another descriptor than pixels?"""
  paths = second_opinion.Paths(page.run)
  summary = files.read_csv(paths.summary)
  matches = files.read_csv(paths.matches)
  shown = matches[(matches['half'] == 'training') & (matches['rank'] <= _SHOWN)]
  pictures = page.pictures
  return parts.Section(
    title='Second opinions',
    html=parts.render(
      'sections/second_opinion.html.jinja',
      rows=[
        {
          'name': row.descriptor,
          'threshold': f'{row.nearer} {row.threshold:.4g} {row.unit}',
          'background': f'{row.background:.2g}',
          'extracted': f'{row.extracted:,} of {row.num_training:,}',
          'control': (
            f'{row.control_hits:,} of {row.num_control:,}'
            if row.num_control
            else '-'
          ),
          'plain': row.plain,
          'precision': parts.number(row.precision, row.low, row.high),
        }
        for row in summary.itertuples()
      ],
      pairs=[
        {
          'descriptor': row.descriptor,
          'training': pictures.training(row.index_),
          'sample': pictures.sample(0, row.number),
          'name': pictures.name(row.index_),
          'sample_name': pictures.sample_name(0, row.number),
          'distance': f'{row.distance:.4g}',
        }
        for row in shown.rename(columns={'index': 'index_'}).itertuples()
      ],
    ),
    finding=' '.join(finding(row) for row in summary.itertuples()),
    tested='copies by ' + ' and '.join(summary['descriptor']),
    methods=_METHODS,
    metrics=tuple(
      metric for row in summary.itertuples() for metric in metrics_of(row)
    ),
  )


def finding(row: Any) -> str:
  """What one descriptor found, in a sentence."""
  found = (
    f'By {row.descriptor}, {row.extracted:,} training images have a copy among '
    'the generated ones'
  )
  if row.num_control:
    return f'{found}, and {row.control_hits:,} held-out images.'
  accidents = row.background * row.num_samples
  if np.isnan(accidents):
    return f'{found}: its training images all look alike to it, or too plain.'
  about = f'about {accidents:.2g}' if accidents else 'hardly any'
  return (
    f'{found}; of {row.num_samples:,} new images {about} would be called '
    'copies by accident, and no held-out image tells.'
  )


def metrics_of(row: Any) -> tuple[policy.Metric, ...]:
  """Precision of the hits, and how many of them are copies by it."""
  name, count = row.descriptor.lower(), int(row.num_training)
  # Where nothing was compared, finding nothing says nothing.
  none = 0.0 if row.num_samples and row.background >= 0.0 else float('nan')
  value, low, high = (
    row.extracted * float(np.clip(end, 0.0, 1.0)) if row.extracted else none
    for end in (row.precision, row.low, row.high)
  )
  return (
    policy.Metric(f'{name}.precision', row.precision, row.low, row.high, count),
    policy.Metric(f'{name}.copied', value, low, high, count),
  )
