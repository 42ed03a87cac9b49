"""What sections of the report share: their page, and how numbers are said."""

import base64
from collections.abc import Callable, Iterator, Mapping
import dataclasses
import functools
import json
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from jaxdiff import subjects
from jaxdiff.data import examples as examples_lib
from jaxdiff.report import galleries, policy
from jaxdiff.runs import files, layout

# Level of tests that sentences are made of.
LEVEL = 0.05


@dataclasses.dataclass(frozen=True)
class Page:
  """A report to be written.

  Attributes:
    name: of the experiment.
    subject: what was attacked.
    run: with finished tables.
    done: names of the stages that were done.
    not_done: (words, why) of every other.
  """

  name: str
  subject: subjects.Subject
  run: layout.Run
  done: tuple[str, ...]
  not_done: tuple[tuple[str, str], ...]

  @property
  def examples(self) -> examples_lib.Examples:
    return subjects.given(self.subject.examples)

  @functools.cached_property
  def config(self) -> dict[str, Any]:
    """The folder's config."""
    return json.loads(self.run.config.read_text())

  @functools.cached_property
  def left_out(self) -> list[dict[str, str]]:
    """What of the images was not used: a row a reason, with how many."""
    if not self.run.skipped.exists():
      return []
    reasons = files.read_csv(self.run.skipped)['reason'].astype(str)
    counts = reasons.value_counts(sort=True)
    return [
      {'reason': reason, 'count': f'{count:,}'}
      for reason, count in counts.head(20).items()
    ]

  @property
  def num_left_out(self) -> int:
    """How many files, arrays and images were not used."""
    if not self.run.skipped.exists():
      return 0
    return len(files.read_csv(self.run.skipped))

  def not_tested(self, written: Mapping[str, 'Section']) -> Iterator[str]:
    """What was not looked at, in words."""
    for section in written.values():
      yield from section.not_tested
    yield from self.subject.told.not_tested
    for stage, why in self.not_done:
      yield f'{stage}: {why}'

  @functools.cached_property
  def pictures(self) -> galleries.Pictures:
    """Images of the run by number."""
    samples = self.subject.samples
    return galleries.Pictures(
      self.examples.images,
      1 if samples is None else samples.block_size,
      self.run,
      list(files.read_csv(self.run.examples)['source'].astype(str)),
      () if samples is None else samples.names,
    )


@dataclasses.dataclass(frozen=True)
class Section:
  """What one stage says in a report; `html`, `warning`, `methods` are HTML.

  Attributes:
    title: in the table of contents.
    html: the section, from its heading on.
    finding: a sentence for the head of the page.
    warning: HTML that stands there too.
    tested: what was tested, in words; '' if it is no test.
    not_tested: what of it was not, each in words.
    methods: what it follows, each in HTML.
    metrics: its numbers in report.json, which policies are about.
    controls: likewise, of what must hold before these mean anything.
  """

  title: str
  html: str
  finding: str = ''
  warning: str = ''
  tested: str = ''
  not_tested: tuple[str, ...] = ()
  methods: tuple[str, ...] = ()
  metrics: tuple[policy.Metric, ...] = ()
  controls: tuple[policy.Metric, ...] = ()


# Of a finished stage: what it says.
SectionFn = Callable[[Page], Section]


def environment() -> jinja2.Environment:
  """Templates of this package; whatever goes into them is escaped."""
  templates = jinja2.Environment(
    loader=jinja2.PackageLoader('jaxdiff.report'),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
  )
  templates.filters['svg_url'] = svg_url
  templates.filters['short'] = galleries.short
  return templates


def render(template: str, **values: Any) -> str:
  """A template of this package, filled in."""
  return environment().get_template(template).render(**values)


def svg_url(svg: str) -> str:
  """A figure as the source of an img element."""
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg.encode()).decode()


def number(value: float, low: float, high: float, digits: int = 3) -> str:
  """'0.982 (0.971 to 0.990)', or a dash where the data cannot say."""
  if np.isnan(value):
    return '-'
  if np.isnan(low):
    return _text(value, digits)
  return (
    f'{_text(value, digits)} ({_text(low, digits)} to {_text(high, digits)})'
  )


def count(value: float, low: float, high: float) -> str:
  """'62 (56 to 68)': a number of things, its ends outward to whole ones."""
  if np.isnan(value):
    return '-'
  shown = f'{value:,.0f}' if value == round(value) else f'{value:,.1f}'
  if np.isnan(low):
    return shown
  return f'{shown} ({np.floor(low):,.0f} to {np.ceil(high):,.0f})'


def of_row(row: pd.Series, digits: int = 3) -> str:
  """`number` of a row's value, low and high."""
  return number(row['value'], row['low'], row['high'], digits)


def _text(value: float, digits: int) -> str:
  """In so many digits; what is not quite 1 is not rounded to 1."""
  if 1.0 - 10.0**-digits < value < 1.0:
    decimals = min(int(np.ceil(-np.log10(1.0 - value))) + 1, 9)
    return f'{value:.{decimals}f}' if decimals < 9 else 'above 0.9999999'
  return f'{value:.{digits}g}'


def span(low: float, high: float, digits: int = 3) -> str:
  """'0.97 to 0.99', or a dash."""
  if np.isnan(low):
    return '-'
  return f'{_text(low, digits)} to {_text(high, digits)}'


def p_text(p_value: float) -> str:
  """'0.03', or '3e-08' for what is very small."""
  if np.isnan(p_value):
    return '-'
  return f'{p_value:.2g}' if p_value >= 1e-300 else 'below 1e-300'


def words(column: pd.Series) -> pd.Series:
  """Text of a table: empty cells are read as missing numbers."""
  return column.astype(object).fillna('').astype(str)
