"""Policies over a report: what must not be, by the right end of an interval.

A rule names a field of report.json, a comparison and a number, and says what
must not hold: `extraction.precision >= 0.5`. Whoever says that something leaks
must be sure of it, and so must whoever says that it does not:

* *fail* if it holds at every value of the field's 95 % interval;
* *pass* if it holds at none;
* *undecided* otherwise, or where the field has no value. That is no pass.

With `_low`, `_high` or `_value` after the field's name, that number alone is
compared: `extraction.precision_low >= 0.5`.
"""

from collections.abc import Iterable, Sequence
import dataclasses
import difflib
import math
import operator
import re
from typing import Any

from jaxdiff import inputs

_COMPARE = {
  '>=': operator.ge, '<=': operator.le, '>': operator.gt, '<': operator.lt,
}  # fmt: skip
_RULE = re.compile(
  r'\s*(?P<field>[^<>]*[^<>\s])\s*(?P<how>>=|<=|>|<)\s*(?P<bound>\S+)\s*'
)
_ENDS = ('low', 'high', 'value')

PASS, FAIL, UNDECIDED = 'pass', 'fail', 'undecided'

# Of AUCs alone, a rule is blind to what matters most.
WARNING = (
  'rules on AUC alone do not see the few examples that are surely told: add '
  'one on tpr@fpr=0.01'
)


@dataclasses.dataclass(frozen=True)
class Metric:
  """A number of the report, under the name of its stage.

  Attributes:
    name: within the stage, `attack.metric` or `metric`.
    value: NaN where the data cannot say.
    low: of the 95 % interval; NaN where there is none.
    high: likewise.
    count: examples, or whatever it is a number of.
    setting: of extraction.
  """

  name: str
  value: float
  low: float
  high: float
  count: int
  setting: str = ''

  @classmethod
  def of(
    cls,
    name: str,
    row: Any,
    names: Sequence[str],
    count: int,
    setting: str = '',
  ) -> 'Metric':
    """From value, low and high of a row, by what they are called there."""
    value, low, high = (float(row[x]) for x in names)
    return cls(name, value, low, high, count, setting)


def counted(name: str, number: float, count: int) -> Metric:
  """A number of things: how many of these there are is no estimate.

  Args:
    name: within the stage.
    number: of them.
    count: of what.
  """
  return Metric(name, number, number, number, count)


@dataclasses.dataclass(frozen=True)
class Rule:
  """What must not hold.

  Attributes:
    text: as it was given.
    field: of report.json, by its dotted name.
    end: 'low', 'high' or 'value' alone; '' is the whole interval.
    how: the comparison.
    bound: the number.
  """

  text: str
  field: str
  end: str
  how: str
  bound: float


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What came of a rule."""

  rule: Rule
  status: str
  observed: Metric | None


def parse(texts: Sequence[str], fields: Iterable[str]) -> list[Rule]:
  """Rules by their text.

  Args:
    texts: like 'membership.lira.auc >= 0.6'.
    fields: that the report will have.

  Raises:
    InputError: for what is no rule, or a field that the report will not have.
  """
  known = sorted(fields)
  rules = []
  for text in texts:
    match = _RULE.fullmatch(text)
    shown = inputs.one_line(text, 100)
    try:
      bound = float(match['bound']) if match else math.nan
    except ValueError:
      bound = math.nan
    if match is None or not math.isfinite(bound):
      raise inputs.InputError(
        f'--fail_if={shown}: wants a field, >=, <=, > or <, and a number, like '
        "'extraction.precision >= 0.5'"
      )
    field, end = match['field'], ''
    if field not in known:
      for name in _ENDS:
        if field.endswith(f'_{name}'):
          field, end = field.removesuffix(f'_{name}'), name
    if field not in known:
      near = difflib.get_close_matches(field, known, n=3, cutoff=0.3)
      hint = f'; there is {", ".join(near or known[:8])}'
      raise inputs.InputError(
        f'--fail_if={shown}: the report will have no {field}{hint}'
      )
    rules.append(Rule(text.strip(), field, end, match['how'], bound))
  return rules


def warnings_of(rules: Sequence[Rule]) -> list[str]:
  """What a set of rules does not see."""
  aucs = [rule for rule in rules if rule.field.endswith('.auc')]
  rates = [rule for rule in rules if '.tpr@fpr=' in rule.field]
  return [WARNING] if aucs and not rates else []


def judge(rule: Rule, metric: Metric | None) -> Verdict:
  """What comes of a rule on its field; None is a field without a value."""
  status = UNDECIDED
  if metric is not None:
    ends = {'low': metric.low, 'high': metric.high, 'value': metric.value}
    values = [ends[rule.end]] if rule.end else [metric.low, metric.high]
    if all(map(math.isfinite, values)):
      compare = _COMPARE[rule.how]
      holds = {compare(value, rule.bound) for value in values}
      status = UNDECIDED if len(holds) > 1 else FAIL if True in holds else PASS
  return Verdict(rule, status, metric)


def in_words(verdict: Verdict) -> str:
  """A line for the terminal."""
  observed = 'no value'
  if verdict.observed is not None and math.isfinite(verdict.observed.value):
    metric = verdict.observed
    observed = f'{metric.value:.4g} ({metric.low:.4g} to {metric.high:.4g})'
  return f'{verdict.status}: {verdict.rule.text}: {observed}'
