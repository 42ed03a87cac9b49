"""The comparison of membership attacks: costs, validity, who beats whom."""

import numpy as np
import pandas as pd

from jaxdiff.report import figures, tables
from jaxdiff.report.sections import membership


def row(attack, auc, queries, shadow_models, rule='fixed', flags=''):
  metrics = {}
  for name, value in (
    ('auc', auc), ('tpr@fpr=0.05', 0.3), ('tpr@fpr=0.01', 0.1),
    ('tpr@fpr=0.001', np.nan), ('null_auc', 0.5),
  ):  # fmt: skip
    metrics |= {
      name: value, f'{name}_low': value - 0.02, f'{name}_high': value + 0.02,
      f'{name}_low_models': value - 0.1, f'{name}_high_models': value + 0.1,
    }  # fmt: skip
  return {
    'attack': attack, 'variance': '-', 'timestep_rule': rule, 't': '100',
    'queries': float(queries), 'shadow_models': shadow_models, 'flags': flags,
    **metrics,
  }  # fmt: skip


TABLE = pd.DataFrame(
  [
    row('threshold', 0.80, 1, 0),
    row('lira', 0.95, 1, 6),
    row('strong_lira', 0.96, 16, 6),
    row('rediffuse', 0.70, 500, 0),
    row('rediffuse', 0.99, 500, 0, 'oracle', 'oracle: chosen'),
  ]
)


def test_a_dear_attack_is_named_with_the_cheapest_that_beats_it():
  lines = membership.cheaper_and_better(tables.best_rule(TABLE))
  # strong_lira is dearer than lira, but their intervals meet; the oracle row
  # neither wins nor saves its attack.
  assert lines == [
    'threshold (AUC 0.8000; 1 query an image, 0 shadow models) beats '
    'ReDiffuse (AUC 0.7000; 500 queries an image, 0 shadow models).'
  ]
  assert membership.cheaper_and_better(TABLE[:3]) == []


def test_rows_say_cost_and_validity():
  rows = tables.rows_of(TABLE)
  assert rows[0]['auc'] == '0.8 (0.78 to 0.82)'
  assert rows[0]['auc_models'] == '0.7 to 0.9'
  assert rows[0]['tpr@fpr=0.001'] == '-'
  assert rows[0]['flags'] == 'valid' and rows[0]['queries'] == '1'
  assert rows[-1]['flags'].startswith('oracle')


def test_no_curve_over_timesteps_is_drawn_of_one():
  rows = [
    {'attack': 'threshold', 'variance': '-', 't': t, 'metric': 'auc',
     'value': 0.6}
    for t in (50, 100)
  ]  # fmt: skip
  drawn = [
    figures.timesteps(pd.DataFrame(rows[:count]), ['threshold'])
    for count in (1, 2)
  ]
  assert drawn[0] == (None, 'AUC')
  assert drawn[1][0].startswith('<svg') and drawn[1][1] == 'AUC'


def test_inference_is_the_median_model_and_the_range():
  table = pd.DataFrame(
    {
      'model': [0, 1, 2, 0], 'suspects': ['members'] * 3 + ['never'],
      'num_images': [8, 8, 8, 8], 'share_below_level': [0.1, 0.5, 0.9, 0.01],
    }
  )  # fmt: skip
  assert membership.inference(table) == [
    {'num_images': '8', 'members': '0.5 (0.1 to 0.9)',
     'never': '0.01 (0.01 to 0.01)'},
  ]  # fmt: skip
