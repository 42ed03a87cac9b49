"""The Parquet twin of a table holds its cells, names as they are."""

from etils import epath
import pandas as pd

from jaxdiff.runs import files


def test_names_that_look_like_numbers_stay_names(tmp_path):
  table = pd.DataFrame(
    {
      'attack': ['007', 'NA'], 'model': ['01', '02'], 'score': [0.25, None],
      'count': [3, 4],
    }
  )  # fmt: skip
  for folder, models in (('scores', ['01', '02']), ('membership', [1, 2])):
    path = epath.Path(tmp_path / folder / 'table.csv')
    files.write_csv(path, table)
    files.write_parquet(path)
    found = pd.read_parquet(path.with_suffix('.parquet'))
    assert found['attack'].tolist() == ['007', 'NA']
    assert found['model'].tolist() == models
    assert found['count'].tolist() == [3, 4]
    assert found['score'][0] == 0.25 and found['score'].isna().tolist()[1]
