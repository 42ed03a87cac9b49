"""report.html: one self-contained page for somebody who did not run it."""

from collections.abc import Sequence

import markupsafe

from jaxdiff.report import document, parts, policy, sections
from jaxdiff.report.parts import Page
from jaxdiff.runs import files, layout


def write(
  page: Page, rules: Sequence[policy.Rule] = ()
) -> list[policy.Verdict]:
  """Writes report.html, report.json, and extraction/pairs.png if there are any.

  Args:
    page: the report.
    rules: that are judged.

  Returns:
    What came of each rule.
  """
  written = {
    name: make(page)
    for name, make in sections.SECTIONS.items()
    if name in page.done
  }
  verdicts = document.write(page, written, rules)
  text = parts.render(
    'report.html.jinja',
    name=page.name,
    findings=[x.finding for x in written.values() if x.finding],
    verdicts=[policy.in_words(verdict) for verdict in verdicts],
    warnings=[markupsafe.Markup(x.warning) for x in written.values()],
    told=page.subject.told,
    num_examples=len(page.examples),
    left_out=page.left_out,
    near_duplicates=near_duplicates(page.run),
    sections=[
      {'name': name, 'title': x.title, 'html': markupsafe.Markup(x.html)}
      for name, x in written.items()
    ],
    tested=[x.tested for x in written.values() if x.tested],
    not_tested=list(page.not_tested(written)),
    methods=[
      markupsafe.Markup(line) for x in written.values() for line in x.methods
    ],
    provenance=page.run.provenance.read_text(),
    config_text=page.run.config.read_text(),
  )
  files.write(page.run.report, text.encode())
  return verdicts


def near_duplicates(run: layout.Run) -> int:
  """Images that are near-duplicates of others."""
  table = files.read_csv(run.examples)
  return len(table) - table['image'].nunique()
