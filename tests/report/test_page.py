"""The report: what users give is escaped, numbers are said with intervals."""

import numpy as np
import pandas as pd

from jaxdiff.report import parts
from jaxdiff.report.sections import extraction, membership


def table(rows):
  return pd.DataFrame(rows)


def membership_rows(attack, value, variance='-', rule='fixed'):
  return [
    {
      'attack': attack, 'variance': variance, 'timestep_rule': rule, 't': 100,
      'metric': metric, 'value': x, 'low': x - 0.1, 'high': x + 0.1,
    }
    for metric, x in (('auc', value), ('tpr@fpr=0.05', 0.3))
  ]  # fmt: skip


def extraction_rows(setting):
  return [
    {
      'target': 'pooled', 'setting': setting, 'num_neighbours': 5,
      'alpha': np.nan, 'metric': metric, 'value': value, 'low': 0.1,
      'high': 0.9,
    }
    for metric, value in (('extracted_fraction', 0.25), ('precision', 0.97))
  ]  # fmt: skip


def test_the_finding_says_what_was_found_and_how_sure():
  rows = table(extraction_rows('paper') + extraction_rows('chosen'))
  text = extraction.finding(rows, 'chosen')
  assert '25 % (95 % interval 10 % to 90 %)' in text
  assert 'a precision of 0.97 (0.1 to 0.9)' in text
  text = membership.finding(
    table(
      membership_rows('strong_threshold', 0.9)
      + membership_rows('strong_lira', 0.8, 'pooled')
      + membership_rows('strong_lira', 0.85, 'per_example')
    )
  )
  # The headline is fixed beforehand: not the best of the three.
  assert 'Strong LiRA' in text and '0.8 (0.7 to 0.9)' in text


def test_nothing_extracted_has_no_precision():
  rows = extraction_rows('paper')
  rows[1]['value'] = np.nan
  text = extraction.finding(table(rows), 'paper')
  assert 'precision' not in text and 'nan' not in text


def test_a_setting_of_many_alphas_says_so():
  rows = extraction.extraction_table(table(extraction_rows('chosen')))
  assert rows[0]['alpha'] == 'per target'


def test_what_the_data_cannot_say_is_a_dash():
  assert parts.number(np.nan, np.nan, np.nan) == '-'
  assert parts.number(0.5, np.nan, np.nan) == '0.5'


def test_distances_know_mirror_images():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 4, 4, 1), np.uint8)
  sample = images[3][:, ::-1]
  assert extraction._distances(sample, images, False, 0, 0)[0] > 0.1
  found = extraction._distances(sample, images, True, 0, 0)
  assert found[0] == 0.0 and len(found) == 9
  assert (np.diff(found) >= 0).all() and np.isfinite(found).all()


def test_distances_are_those_that_extraction_takes():
  rng = np.random.default_rng(0)
  images = rng.integers(0, 256, (9, 4, 4, 1), np.uint8)
  moved = np.pad(images[3], ((0, 0), (1, 0), (0, 0)), 'edge')[:, :4]
  whole, shifted, by_tiles = (
    extraction._distances(moved, images, False, shift, tiles)
    for shift, tiles in ((0, 0), (1, 0), (0, 2))
  )
  assert (shifted <= whole).all() and shifted[0] < 0.9 * whole[0]
  assert (by_tiles >= whole).all() and by_tiles[0] > whole[0]
