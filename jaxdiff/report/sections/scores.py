"""Scores that were measured elsewhere, in the report."""

from jaxdiff.attacks.membership import given_signals
from jaxdiff.report import parts, tables

PLACE = 0


def make(page: parts.Page) -> parts.Section:
  """How well do given scores tell members?"""
  paths = given_signals.Paths(page.run)
  found = tables.of_attacks(paths)
  metrics, controls = tables.metrics(paths)
  return parts.Section(
    title='Scores',
    html=parts.render('sections/scores.html.jinja', attacks_found=found),
    finding=tables.finding(
      paths,
      ('rmia', 'lira', 'offline_rmia', 'offline_lira', 'threshold'),
      'The attack {attack} tells members from others with an AUC of {auc}.',
    ),
    tested='membership by scores that were measured elsewhere',
    metrics=metrics,
    controls=controls,
    not_tested=(
      'the blind baseline: no images were given, and whether members and '
      'others differ in anything but training was not looked at',
    ),
  )
