"""report.html: one self-contained page for somebody who did not run it."""

import markupsafe
import numpy as np

from jaxdiff.report import parts, sections
from jaxdiff.report.parts import Page
from jaxdiff.runs import files, layout


def write(page: Page) -> None:
  """Writes report.html, and extraction/pairs.png where there are any."""
  written = {
    name: make(page)
    for name, make in sections.SECTIONS.items()
    if name in page.done
  }
  keep = page.examples.keep
  text = parts.render(
    'report.html.jinja',
    name=page.name,
    finding=' '.join(x.finding for x in written.values() if x.finding),
    warnings=[markupsafe.Markup(x.warning) for x in written.values()],
    num_models=len(keep),
    num_training=int(np.median(keep.sum(axis=1))),
    num_examples=len(page.examples),
    config=page.config,
    left_out=left_out(page.run),
    near_duplicates=near_duplicates(page.run),
    sections=[
      {'name': name, 'title': x.title, 'html': markupsafe.Markup(x.html)}
      for name, x in written.items()
    ],
    tested=[x.tested for x in written.values() if x.tested],
    not_tested=[
      *(line for x in written.values() for line in x.not_tested),
      *(f'{words}: {why}' for words, why in page.not_done),
    ],
    methods=[
      markupsafe.Markup(line) for x in written.values() for line in x.methods
    ],
    provenance=page.run.provenance.read_text(),
    config_text=page.run.config.read_text(),
  )
  files.write(page.run.report, text.encode())


def left_out(run: layout.Run) -> list[dict[str, str]]:
  """What of the images was not used: a row a reason, with how many."""
  if not run.skipped.exists():
    return []
  table = files.read_csv(run.skipped)
  counts = table['reason'].astype(str).value_counts(sort=True)
  return [
    {'reason': reason, 'count': f'{count:,}'}
    for reason, count in counts.head(20).items()
  ]


def near_duplicates(run: layout.Run) -> int:
  """Images that are near-duplicates of others."""
  table = files.read_csv(run.examples)
  return len(table) - table['image'].nunique()
