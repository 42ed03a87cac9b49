"""Memorisation by training step, where some of it was not measured."""

from etils import epath
import pandas as pd

from jaxdiff.report import compare, steps
from jaxdiff.runs import files, layout
from jaxdiff.sampling import quality


def test_few_samples_have_no_distance(tmp_path, monkeypatch):
  run = layout.Run(epath.Path(tmp_path))
  row = (0, quality.DISTINCT, 'samples', 1.0, None, None, 1, 1, 0)
  files.write_csv(
    quality.Paths(run).quality, pd.DataFrame([row], columns=quality.COLUMNS)
  )
  found = pd.DataFrame(
    [('LiRA, AUC', 0.7, 0.6, 0.8)], columns=['metric', 'value', 'low', 'high']
  )
  monkeypatch.setattr(steps.sweep, 'results', lambda run: found)
  page = steps.write('some', {10: run, 20: run}, run)
  assert '0.7 (0.6 to 0.8)' in page.read_text()
  table = files.read_csv(run.steps_table)
  assert list(table['metric']) == ['LiRA, AUC'] * 2


def test_a_rate_without_a_value_is_neither_drawn_nor_said(
  tmp_path, monkeypatch
):
  """Of few images no rate of 1 % can be told."""
  run = layout.Run(epath.Path(tmp_path))
  row = (0, quality.DISTINCT, 'samples', 1.0, None, None, 1, 1, 0)
  files.write_csv(
    quality.Paths(run).quality, pd.DataFrame([row], columns=quality.COLUMNS)
  )
  found = pd.DataFrame(
    [('x auc', 0.7, 0.6, 0.8), ('x tpr@fpr=0.01', None, None, None)],
    columns=['metric', 'value', 'low', 'high'],
  ).astype({'value': float})
  monkeypatch.setattr(steps.sweep, 'results', lambda run: found)
  drawn = []
  figure = steps.figures_of_runs.steps
  monkeypatch.setattr(
    steps.figures_of_runs, 'steps',
    lambda table, given_away, rest: (
      drawn.append(given_away) or figure(table, given_away, rest)
    ),
  )  # fmt: skip
  assert 'tpr@fpr=0.01' in steps.write('some', {10: run}, run).read_text()
  assert drawn == [['x auc']]
  table = pd.concat(
    [found.assign(family=name, step=10, of='x') for name in 'ab']
  ).astype({'low': float, 'high': float})
  (said,) = compare.in_words(table)
  assert 'x auc' in said
