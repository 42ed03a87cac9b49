"""Training in the report: its loss."""

from jaxdiff.report import figures, parts
from jaxdiff.runs import files

PLACE = 6


def make(page: parts.Page) -> parts.Section:
  """How training went."""
  figure = figures.training(files.read_csv(page.run.metrics))
  return parts.Section(
    title='Training',
    html=parts.render('sections/train.html.jinja', training=figure),
  )
