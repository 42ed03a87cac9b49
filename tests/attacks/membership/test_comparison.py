"""The tables of attacks as files."""

from etils import epath
import numpy as np
import pandas as pd

from jaxdiff.attacks.membership import comparison, paths
from jaxdiff.runs import files, layout


def tables(models: int) -> dict[str, pd.DataFrame]:
  rows = pd.DataFrame(
    {
      'attack': 'lira',
      'model': np.repeat(np.arange(models), 10),
      'score': np.arange(10.0 * models),
    }
  )
  return dict.fromkeys(
    ('scores', 'summary', 'roc', 'timesteps', 'comparison'), rows
  )


def test_many_scores_are_parquet_beside_a_csv_of_whole_models(
  tmp_path, monkeypatch
):
  monkeypatch.setattr(comparison, 'MOST_ROWS', 35)
  places = paths.Paths(layout.Run(epath.Path(tmp_path)))
  comparison.write(tables(5), places)
  every = tmp_path / 'membership' / 'scores_all.parquet'
  assert len(pd.read_parquet(every)) == 50
  kept = files.read_csv(places.scores)
  assert list(kept['model'].unique()) == [0, 1, 2] and len(kept) == 30
  # Few again: nothing is left that says otherwise.
  comparison.write(tables(3), places)
  assert len(files.read_csv(places.scores)) == 30 and not every.exists()


def test_one_model_is_there_at_least():
  assert list(comparison.first_models(np.zeros(100, int), 10)) == [0]


def test_names_go_by_their_order_in_the_table():
  names = np.repeat(np.array(['b', '10', '2'], object), 4)
  assert list(comparison.first_models(names, 8)) == ['b', '10']
