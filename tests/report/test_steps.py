"""Memorisation by training step, where some of it was not measured."""

from etils import epath
import pandas as pd

from jaxdiff.report import steps
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
