"""CSV tables that users bring."""

from collections.abc import Mapping
import io
from typing import Any
import warnings

import pandas as pd


def read(content: bytes, dtype: Any = str, **options: Any) -> pd.DataFrame:
  """A table whose first row is its head; no text is taken for a missing value.

  Of rows with more cells than the head, as an unquoted comma makes them, pandas
  would take the first cells for an index, or drop the last.

  Args:
    content: UTF-8.
    dtype: of cells, as of pandas.read_csv.
    **options: likewise.

  Raises:
    ValueError: for such rows, or if a column is there twice.
  """
  common: Mapping[str, Any] = {
    'encoding': 'utf-8-sig', 'keep_default_na': False,
  }  # fmt: skip
  head = pd.read_csv(
    io.BytesIO(content), header=None, nrows=1, dtype=str, **common
  )
  if head.iloc[0].duplicated().any():
    raise ValueError('a column is there twice')
  with warnings.catch_warnings():
    warnings.simplefilter('error', pd.errors.ParserWarning)
    try:
      return pd.read_csv(
        io.BytesIO(content), dtype=dtype, index_col=False, **common, **options
      )
    except pd.errors.ParserWarning as error:
      raise ValueError(
        'rows have more cells than the head (quote cells with commas)'
      ) from error
