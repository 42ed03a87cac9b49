"""Membership from samples alone, in the report."""

from jaxdiff.attacks.membership import nearest_sample
from jaxdiff.report import parts, tables
from jaxdiff.runs import files

PLACE = 2.5

_METHODS = (
  'Distance to the nearest samples: Hilprecht, Härterich, Bernau, “Monte Carlo '
  'and Reconstruction Membership Inference Attacks against Generative Models”, '
  'PoPETs 2019; calibrated here by LiRA and RMIA.',
)


def make(page: parts.Page) -> parts.Section:
  """Do samples lie nearer to an example than they should?"""
  paths = nearest_sample.Paths(page.run)
  blind = files.read_csv(paths.blind).iloc[0]
  found = tables.of_attacks(paths)
  metrics, controls = tables.metrics(paths)
  return parts.Section(
    title='Membership from samples',
    html=parts.render(
      'sections/nearest_sample.html.jinja',
      attacks_found=found,
      blind=tables.of_blind(blind),
      neighbours=page.config['nearest_sample']['neighbours'],
      references=int((~page.examples.attacked).sum()),
    ),
    finding=tables.finding(
      paths,
      ('rmia', 'lira', 'offline_rmia', 'offline_lira', 'threshold'),
      'From samples alone, the attack {attack} tells members from non-members '
      'with an AUC of {auc}.',
    ),
    tested=(
      'membership by distance to the nearest samples: '
      + ', '.join(dict.fromkeys(row['attack'] for row in found['best']))
    ),
    methods=_METHODS,
    metrics=metrics,
    controls=(
      *controls,
      tables.blind_metric(paths.blind, 'blind', len(page.examples)),
    ),
  )
