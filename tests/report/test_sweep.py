"""A sweep in words: what follows from intervals, and nothing else."""

import numpy as np
import pandas as pd

from jaxdiff.report import sweep

ACCURACY = 'accuracy of a classifier that learned from samples'
FAR = 'FD-PCA to images never trained on'


def table(**settings):
  """Rows (metric, low, high) of each setting, the first being `base`."""
  rows = []
  for number, (setting, values) in enumerate(settings.items()):
    run = 'base' if number == 0 else f'run{number}'
    for metric, (low, high) in values.items():
      middle = (low + high) / 2
      rows.append(('knob', setting, run, metric, middle, low, high))
  columns = ['knob', 'setting', 'run', 'metric', 'value', 'low', 'high']
  return pd.DataFrame(rows, columns=columns)


BASE = {
  'share extracted': (0.5, 0.6), 'nearest sample lira auc': (0.8, 0.9),
  ACCURACY: (0.7, 0.8), FAR: (1.0, 1.2), 'images trained on': (np.nan, np.nan),
}  # fmt: skip


def test_what_helped_and_at_what_cost():
  found = table(
    none=BASE,
    helps=BASE | {'share extracted': (0.1, 0.2)},
    costs=BASE | {'share extracted': (0.1, 0.2), ACCURACY: (0.1, 0.2)},
    improves=BASE | {'nearest sample lira auc': (0.1, 0.2), FAR: (0.1, 0.2)},
    harms=BASE | {'share extracted': (0.8, 0.9)},
    both=BASE
    | {'share extracted': (0.1, 0.2), 'nearest sample lira auc': (0.95, 1.0)},
    nothing=BASE | {ACCURACY: (0.1, 0.2)},
    overlaps=BASE | {'share extracted': (0.2, 0.5)},
  )
  less, more, mixed, same = sweep.summary(found)
  assert less.split(': ', 1)[1] == (
    'helps (share extracted); costs (share extracted, its samples surely '
    'worse); improves (nearest sample lira auc, its samples surely better).'
  )
  assert more.endswith(': harms (share extracted).')
  assert mixed.endswith(
    ': both (less: share extracted; more: nearest sample lira auc).'
  )
  assert same.endswith(': nothing; overlaps.')
  lines = list(sweep.in_words(found))
  assert len(lines) == 7
  assert lines[1].startswith(
    f'knob, costs: surely less: share extracted, {ACCURACY}; cannot be told '
    'apart: nearest sample lira auc'
  )


def test_a_setting_without_intervals_says_nothing():
  found = table(none=BASE, other={'images trained on': (np.nan, np.nan)})
  assert not list(sweep.summary(found)) and not list(sweep.in_words(found))


def test_settings_in_words_have_a_figure_of_their_own():
  found = table(none=BASE, **{'a setting of many words': BASE})
  (one,) = sweep._drawn(found, {'share extracted'})
  assert 'a setting of many words' in one and FAR in one
  both = pd.concat([found.assign(knob='other'), table(off=BASE, on=BASE)])
  short, wordy = sweep._drawn(both, {'share extracted'})
  assert 'a setting of many words' in wordy
  assert 'a setting of many words' not in short


def test_of_several_knobs_each_setting_is_named_with_its_own():
  found = table(none=BASE, on=BASE | {'share extracted': (0.1, 0.2)})
  again = found[found['run'] != 'base'].assign(knob='other', run='run9')
  (said,) = sweep.summary(pd.concat([found, again]))
  assert 'knob on (share extracted); other on (share extracted).' in said


def test_the_range_of_one_model_is_none():
  one = BASE | {ACCURACY: (0.7, 0.7)}
  found = table(none=one, other=one | {ACCURACY: (0.6, 0.6)})
  assert ACCURACY not in ' '.join(sweep.in_words(found))
  # Nor is anything said where no attack was measured.
  quality = {FAR: (1.0, 1.2)}
  assert not list(sweep.summary(table(none=quality, other=quality)))
