"""Policies: told by the right end of the interval, or undecided."""

import math

import pytest

from jaxdiff import inputs
from jaxdiff.report import document, policy

FIELDS = ('membership.lira.auc', 'membership.lira.tpr@fpr=0.01',
          'extraction.precision')  # fmt: skip


def metric(value, low, high):
  return policy.Metric('x', value, low, high, 100)


@pytest.mark.parametrize(
  ('rule', 'numbers', 'status'),
  [
    # What leaks is judged by the lower end, what is safe by the upper.
    ('extraction.precision >= 0.5', (0.8, 0.6, 0.9), 'fail'),
    ('extraction.precision >= 0.5', (0.8, 0.5, 0.9), 'fail'),
    ('extraction.precision > 0.5', (0.8, 0.5, 0.9), 'undecided'),
    ('extraction.precision >= 0.5', (0.3, 0.1, 0.49), 'pass'),
    ('extraction.precision >= 0.5', (0.3, 0.1, 0.5), 'undecided'),
    ('extraction.precision < 0.5', (0.3, 0.1, 0.49), 'fail'),
    ('extraction.precision <= 0.5', (0.8, 0.51, 0.9), 'pass'),
    ('extraction.precision<=0.5', (0.6, 0.5, 0.9), 'undecided'),
    ('extraction.precision >= 0.5', (math.nan,) * 3, 'undecided'),
    ('extraction.precision >= 0.5', None, 'undecided'),
    # One end alone is a number.
    ('extraction.precision_low >= 0.5', (0.8, 0.6, 0.9), 'fail'),
    ('extraction.precision_low >= 0.5', (0.8, 0.4, 0.9), 'pass'),
    ('extraction.precision_high >= 0.5', (0.3, 0.1, 0.5), 'fail'),
    ('extraction.precision_value > 0.5', (0.5, 0.1, 0.6), 'pass'),
    ('extraction.precision_low >= 0.5', (0.8, math.nan, math.nan), 'undecided'),
    ('membership.lira.tpr@fpr=0.01 >= 0.1', (0.2, 0.15, 0.3), 'fail'),
  ],
)
def test_a_rule_is_judged_by_the_right_end(rule, numbers, status):
  (parsed,) = policy.parse([rule], FIELDS)
  found = None if numbers is None else metric(*numbers)
  verdict = policy.judge(parsed, found)
  assert verdict.status == status
  assert policy.in_words(verdict).startswith(f'{status}: {rule}: ')


@pytest.mark.parametrize(
  ('rule', 'message'),
  [
    ('extraction.precison >= 0.5', 'no extraction.precison; there is extr'),
    ('extraction.precision == 0.5', 'wants a field'),
    ('extraction.precision >= much', 'wants a field'),
    ('extraction.precision >= nan', 'wants a field'),
    ('extraction.precision >= 1 or True', 'wants a field'),
    ('', 'wants a field'),
    ('membership.lira.auc_mean > 1', 'no membership.lira.auc_mean'),
    ('\x1b[2J > 1', r'\\x1b'),
  ],
)
def test_what_is_no_rule_is_refused_in_one_line(rule, message):
  with pytest.raises(inputs.InputError, match=message) as error:
    policy.parse([rule], FIELDS)
  assert len(str(error.value).splitlines()) == 1


def test_rules_on_auc_alone_are_warned_of():
  auc, rate, precise = (
    policy.parse([f'{name} > 0.5'], FIELDS)[0] for name in FIELDS
  )
  assert policy.warnings_of([auc, precise]) == [policy.WARNING]
  assert policy.warnings_of([auc, rate]) == []
  assert policy.warnings_of([precise]) == []


def test_json_has_no_number_that_json_does_not_know():
  assert document.plain(
    {'a': math.nan, 'b': (math.inf, 1.5), 'c': {'d': -math.inf, 'e': 'x'}}
  ) == {'a': None, 'b': [None, 1.5], 'c': {'d': None, 'e': 'x'}}
