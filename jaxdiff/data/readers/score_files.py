"""Scores and signals of membership that were measured elsewhere.

What is read, and how it is told apart (docs/scores.md):

* a table, CSV or Parquet: model, example, member, score[, attack];
* two .npy: scores of members, and of non-members; or two .json of a list of
  numbers, or of {image_id, t_error} (quantile regression of Tang et al.);
* an .npz with members and non_members (or nonmembers; CDI), or with scores and
  memberships (ml_privacy_meter's attack_result);
* a folder with signals.npy [K, N] or [K, N, Q] and keep.npy bool [K, N];
* a folder of experiment_i/ with keep.npy and scores/*.npy (tensorflow/privacy);
* a folder with signals/{loss,lira,rmia}_signals.npy [N, K], and memberships.npy
  bool [K, N] (ml_privacy_meter).

Nothing is unpickled. Signals are turned so that smaller speaks for a member.
"""

from collections.abc import Sequence
import dataclasses
import hashlib
import io
import json
import pathlib
import re
import zipfile

import numpy as np
import pandas as pd
from pyarrow import parquet

from jaxdiff import inputs

LAYOUTS = ('auto', 'jaxdiff', 'tensorflow_privacy', 'ml_privacy_meter')
COLUMNS = ('model', 'example', 'member', 'score')

# Bytes of a JSON of scores: a hundred for each of a million.
_MOST_JSON = 2**27

# Signals of ml_privacy_meter: turned so that smaller speaks for a member.
_METER = {
  'loss': lambda values: values,
  'lira': lambda values: -values,
  # Probabilities; RMIA wants their negative logarithm.
  'rmia': lambda values: -np.log(np.maximum(values, 1e-45)),
}


@dataclasses.dataclass(frozen=True)
class Column:
  """One signal.

  Attributes:
    name: of the signal or attack.
    values: float64 [K, N, Q], smaller for members; NaN where there is none.
    final: whether it is an attack's verdict already, to be ranked as it is.
  """

  name: str
  values: np.ndarray
  final: bool


@dataclasses.dataclass(frozen=True)
class ScoreSet:
  """What a user measured.

  Attributes:
    keep: bool [K, N], which model trained on which example.
    columns: the signals.
    examples: [N] names of the examples.
    models: [K] names of the models.
    layout: where it comes from, in words.
    digest: SHA-256 of all files that were read.
  """

  keep: np.ndarray
  columns: tuple[Column, ...]
  examples: tuple[str, ...]
  models: tuple[str, ...]
  layout: str
  digest: str


class _Files:
  """Reads files, and remembers what was in them."""

  def __init__(self) -> None:
    self._digest = hashlib.sha256()

  def read(self, path: pathlib.Path, most: int | None = None) -> bytes:
    content = inputs.read_bytes(path, most)
    self._digest.update(hashlib.sha256(content).digest())
    return content

  def array(self, path: pathlib.Path) -> np.ndarray:
    """An .npy."""
    content = self.read(path)
    with inputs.reading(path, 'no whole array'):
      return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)

  def digest(self) -> str:
    return self._digest.hexdigest()


def read(
  path: str,
  *,
  members: str = '',
  non_members: str = '',
  layout: str = 'auto',
  larger_is_member: bool = True,
) -> ScoreSet:
  """Reads whatever a path names.

  Args:
    path: a file or folder; '' if the two below are given.
    members: .npy or .json of the scores of members.
    non_members: likewise, of others.
    layout: of a folder, one of LAYOUTS.
    larger_is_member: how scores without a convention are meant.

  Raises:
    InputError: naming the key, file, row or array that is wrong, with the mend.
  """
  files = _Files()
  sign = -1.0 if larger_is_member else 1.0
  if bool(members) != bool(non_members) or bool(path) == bool(members):
    raise inputs.InputError(
      'path: give either path, or members and non_members'
    )
  if members:
    inside, outside = (
      _scores_of(files, inputs.local(name, key), key, sign)
      for name, key in ((members, 'members'), (non_members, 'non_members'))
    )
    return _two_sided(files, inside, outside, 'two files of scores')
  place = inputs.local(path, 'path')
  if place.is_dir():
    return _folder(files, place, layout, sign)
  suffix = place.suffix.lower()
  if not place.exists():
    raise inputs.InputError(f'path: no file or folder {inputs.name_of(path)}')
  if suffix in ('.csv', '.parquet'):
    return _table(files, place, sign)
  if suffix == '.npz':
    return _npz(files, place, sign)
  mend = (
    'save the scores as CSV with columns model, example, member, score'
    if suffix in ('.json', '.jsonl', '.npy', '.txt')
    else "in the program that made it: numpy.save('signals.npy', signals) and "
    "numpy.save('keep.npy', keep) into one folder"
  )
  what = (
    'a pickle, which can run any program and is never opened'
    if suffix in ('.pt', '.pth', '.pkl', '.pickle', '.joblib')
    else 'no layout that is read'
  )
  raise inputs.InputError(f'path: {inputs.name_of(path)} is {what}; {mend}')


def _scores_of(
  files: _Files, path: pathlib.Path, key: str, sign: float
) -> np.ndarray:
  """Scores of one side: float64 [n], smaller for members."""
  inputs.regular(path, key)
  if path.suffix.lower() == '.json':
    content = files.read(path, _MOST_JSON)
    with inputs.reading(path, 'no JSON of scores'):
      rows = json.loads(content)
      if rows and isinstance(rows[0], dict):
        # An error of reconstruction: smaller for members.
        values = np.array([float(row['t_error']) for row in rows])
        return _finite(path, values)
      values = sign * np.array([float(row) for row in rows])
  else:
    values = sign * _numbers(path, files.array(path))
  return _finite(path, values.reshape(-1))


def _numbers(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  if values.dtype.kind not in 'fiu':
    raise inputs.InputError(
      f'{inputs.name_of(path)}: {values.dtype} are no scores; save them as '
      'numbers'
    )
  return values.astype(np.float64)


def _finite(path: pathlib.Path, values: np.ndarray) -> np.ndarray:
  if not values.size:
    raise inputs.InputError(f'{inputs.name_of(path)}: holds no score')
  bad = int((~np.isfinite(values)).sum())
  if bad:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: {bad} of {values.size} scores are no finite '
      'number; leave them out, or score them'
    )
  return values


def _two_sided(
  files: _Files, members: np.ndarray, others: np.ndarray, layout: str
) -> ScoreSet:
  """One model, whose members come first."""
  values = np.concatenate([members, others])
  return ScoreSet(
    keep=(np.arange(len(values)) < len(members))[None],
    columns=(Column('score', values[None, :, None], True),),
    examples=(
      *(f'member {i}' for i in range(len(members))),
      *(f'non-member {i}' for i in range(len(others))),
    ),
    models=('0',),
    layout=layout,
    digest=files.digest(),
  )


def _npz(files: _Files, path: pathlib.Path, sign: float) -> ScoreSet:
  content = files.read(path)
  arrays = {}
  with (
    inputs.reading(path, 'no whole npz of arrays'),
    zipfile.ZipFile(io.BytesIO(content)) as archive,
  ):
    inputs.check_size(path, sum(x.file_size for x in archive.infolist()))
    for name in ('members', 'non_members', 'nonmembers', 'scores',
                 'memberships'):  # fmt: skip
      if f'{name}.npy' in archive.namelist():
        arrays[name] = np.lib.format.read_array(
          io.BytesIO(archive.read(f'{name}.npy')), allow_pickle=False
        )
  others = arrays.get('non_members', arrays.get('nonmembers'))
  if 'members' in arrays and others is not None:
    inside, outside = (
      _finite(path, sign * _numbers(path, x).reshape(-1))
      for x in (arrays['members'], others)
    )
    return _two_sided(files, inside, outside, 'npz of members and non-members')
  if {'scores', 'memberships'} <= arrays.keys():
    scores = _finite(path, -_numbers(path, arrays['scores']).reshape(-1))
    member = arrays['memberships'].reshape(-1)
    if len(member) != len(scores) or not np.isin(member, (0, 1)).all():
      raise inputs.InputError(
        f'{inputs.name_of(path)}: wants memberships of 0 and 1, one a score'
      )
    member = member.astype(bool)
    return _two_sided(
      files, scores[member], scores[~member], 'ml_privacy_meter attack_result'
    )
  raise inputs.InputError(
    f'{inputs.name_of(path)}: wants the arrays members and non_members, or '
    'scores and memberships'
  )


def _table(files: _Files, path: pathlib.Path, sign: float) -> ScoreSet:
  """A row a model and example, and perhaps attack."""
  content = files.read(path)
  with inputs.reading(path, 'no whole table'):
    if path.suffix.lower() == '.parquet':
      file = parquet.ParquetFile(io.BytesIO(content))
      wanted = [*COLUMNS, 'attack']
      sizes = [
        file.metadata.row_group(k).total_byte_size
        for k in range(file.num_row_groups)
      ]
      inputs.check_size(path, 8 * sum(sizes))
      table = file.read(
        columns=[name for name in wanted if name in file.schema_arrow.names]
      ).to_pandas()
    else:
      table = pd.read_csv(
        io.BytesIO(content),
        dtype={'model': str, 'example': str, 'attack': str},
        keep_default_na=False,
        na_values={'score': [''], 'member': ['']},
        encoding='utf-8-sig',
      )
  missing = [name for name in COLUMNS if name not in table]
  if missing:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: has no column {missing[0]}; it wants '
      f'{", ".join(COLUMNS)} and perhaps attack'
    )
  if table.empty:
    raise inputs.InputError(f'{inputs.name_of(path)}: holds no score')
  words = table['member'].map(lambda value: str(value).strip().lower())
  known = {'1': True, '0': False, 'true': True, 'false': False, '1.0': True,
           '0.0': False}  # fmt: skip
  if not words.isin(list(known)).all():
    line = int(np.flatnonzero(~words.isin(list(known)))[0]) + 2
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {line}: member is '
      f'{inputs.one_line(repr(words.iloc[line - 2]), 40)}; 1 or 0'
    )
  score = pd.to_numeric(table['score'], errors='coerce').to_numpy(np.float64)
  if not np.isfinite(score).all():
    line = int(np.flatnonzero(~np.isfinite(score))[0]) + 2
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {line}: the score is no finite number'
    )
  member = words.map(known).to_numpy(bool)
  for name in ('model', 'example', 'attack'):
    if name not in table:
      continue
    empty = table[name].isna() | (table[name].astype(str).str.strip() == '')
    if empty.any():
      raise inputs.InputError(
        f'{inputs.name_of(path)} line {int(np.flatnonzero(empty)[0]) + 2}: '
        f'{name} is empty'
      )
  model, models = _codes(table['model'])
  example, examples = _codes(table['example'])
  shape = (len(models), len(examples))
  names = [inputs.name_of(x) for x in examples]
  keep = np.zeros(shape, bool)
  keep[model, example] = member
  contradicted = np.flatnonzero(keep[model, example] != member)
  if len(contradicted):
    row = contradicted[0]
    raise inputs.InputError(
      f'{inputs.name_of(path)} line {row + 2}: example '
      f'{inputs.one_line(names[example[row]], 60)} is a member of this model '
      'in one row and none in another'
    )
  by_attack = (
    table['attack'].astype(str).to_numpy()
    if 'attack' in table
    else np.full(len(table), 'score', object)
  )
  columns: list[Column] = []
  for attack in dict.fromkeys(by_attack):
    rows = np.flatnonzero(by_attack == attack)
    cells = model[rows].astype(np.int64) * shape[1] + example[rows]
    if len(np.unique(cells)) < len(cells):
      _, first = np.unique(cells, return_index=True)
      again = rows[np.setdiff1d(np.arange(len(rows)), first)[0]]
      raise inputs.InputError(
        f'{inputs.name_of(path)} line {again + 2}: this model and example have '
        'a score already'
      )
    values = np.full(shape, np.nan)
    values[model[rows], example[rows]] = sign * score[rows]
    # With a score of every model, a signal that can be calibrated.
    final = (
      'attack' in table or bool(np.isnan(values).any()) or len(models) == 1
    )
    name = inputs.one_line(attack, 60)
    if name in {column.name for column in columns} or name[:1] in '=+-@':
      raise inputs.InputError(
        f'{inputs.name_of(path)}: call attack {inputs.one_line(attack, 60)!r} '
        'otherwise: names differ in their first 57 characters, and begin with '
        'none of = + - @'
      )
    columns.append(Column(name, values[..., None], final))
  return ScoreSet(
    keep=keep,
    columns=tuple(columns),
    examples=tuple(names),
    models=tuple(inputs.name_of(x) for x in models),
    layout='table of scores',
    digest=files.digest(),
  )


def _codes(column: pd.Series) -> tuple[np.ndarray, list[str]]:
  """Numbers of the values, in the order in which they come, and these."""
  numbers, values = pd.factorize(column.astype(str))
  return numbers, list(values)


def _folder(
  files: _Files, path: pathlib.Path, layout: str, sign: float
) -> ScoreSet:
  experiments = sorted(
    (child for child in path.iterdir() if (child / 'keep.npy').is_file()),
    key=lambda child: [
      int(part) if part.isdigit() else part
      for part in re.split(r'(\d+)', child.name)
    ],
  )
  looks_like = {
    'jaxdiff': (path / 'signals.npy').exists(),
    'tensorflow_privacy': bool(experiments),
    'ml_privacy_meter': bool(_meter_signals(path)),
  }
  fits = [name for name, fit in looks_like.items() if fit]
  if layout == 'auto':
    if len(fits) != 1:
      found = f'is of several layouts ({", ".join(fits)})' if fits else (
        'is of no layout that is read: signals.npy and keep.npy; experiment_*/'
        'keep.npy and scores/; signals/*_signals.npy and memberships.npy'
      )  # fmt: skip
      raise inputs.InputError(f'path: {inputs.name_of(path)} {found}')
    layout = fits[0]
  elif not looks_like[layout]:
    raise inputs.InputError(
      f'layout: {inputs.name_of(path)} is not of layout {layout}'
    )
  if layout == 'jaxdiff':
    signals = sign * _numbers(
      path / 'signals.npy', files.array(path / 'signals.npy')
    )
    keep = files.array(path / 'keep.npy')
    return _of_signals(
      files, path, {'signal': signals}, keep, 'signals.npy and keep.npy'
    )
  if layout == 'ml_privacy_meter':
    return _of_meter(files, path)
  return _of_experiments(files, path, experiments)


def _meter_signals(path: pathlib.Path) -> dict[str, pathlib.Path]:
  places = (path, path / 'signals')
  return {
    name: place / f'{name}_signals.npy'
    for name in _METER
    for place in places
    if (place / f'{name}_signals.npy').is_file()
  }


def _of_meter(files: _Files, path: pathlib.Path) -> ScoreSet:
  """Arrays [N, K], the models along the second axis."""
  places = [
    place / 'memberships.npy'
    for place in (path, path / 'signals', path.parent)
    if (place / 'memberships.npy').is_file()
  ]
  if not places:
    raise inputs.InputError(
      f'{inputs.name_of(path)}: has signals but no memberships.npy, bool '
      '[K, N]; copy it there'
    )
  keep = files.array(places[0])
  signals = {}
  for name, file in _meter_signals(path).items():
    values = _numbers(file, files.array(file))
    if values.ndim != 2 or values.T.shape != keep.shape:
      raise inputs.InputError(
        f'{inputs.name_of(file)}: {values.shape} must be [N, K] of '
        f'memberships.npy [K, N], {keep.shape}'
      )
    signals[name] = _METER[name](values.T)
  return _of_signals(files, path, signals, keep, 'ml_privacy_meter')


def _of_experiments(
  files: _Files, path: pathlib.Path, experiments: Sequence[pathlib.Path]
) -> ScoreSet:
  """A folder a model; of several epochs, the last."""
  keep, signals = [], []
  for folder in experiments:
    found = sorted((folder / 'scores').glob('*.npy'))
    if not found:
      raise inputs.InputError(
        f'{inputs.name_of(folder)}: has no scores/*.npy; run its score.py, '
        'which makes them from logits'
      )
    keep.append(np.atleast_1d(files.array(folder / 'keep.npy')))
    values = np.atleast_1d(_numbers(found[-1], files.array(found[-1])))
    # [N], or [N, ..., augmentations].
    signals.append(-values.reshape(len(values), -1))
    for name, array in (('keep.npy', keep), (found[-1].name, signals)):
      if array[-1].shape != array[0].shape or len(array[-1]) != len(keep[0]):
        raise inputs.InputError(
          f'{inputs.name_of(folder)}: {name} {array[-1].shape} does not go '
          'with '
          f'{inputs.name_of(experiments[0])}: {array[0].shape}, '
          f'{len(keep[0])} examples'
        )
  return _of_signals(
    files,
    path,
    {'score': np.stack(signals)},
    np.stack(keep),
    'tensorflow/privacy',
    tuple(inputs.name_of(folder.name) for folder in experiments),
  )


def _of_signals(
  files: _Files,
  path: pathlib.Path,
  signals: dict[str, np.ndarray],
  keep: np.ndarray,
  layout: str,
  models: tuple[str, ...] = (),
) -> ScoreSet:
  if keep.ndim != 2 or not np.isin(keep, (0, 1)).all():
    raise inputs.InputError(
      f'{inputs.name_of(path)}: wants keep bool [K, N], which model trained on '
      f'which example; it is {keep.dtype} {keep.shape}'
    )
  columns = []
  for name, values in signals.items():
    if values.shape[:2] != keep.shape or values.ndim not in (2, 3):
      raise inputs.InputError(
        f'{inputs.name_of(path)}: signals {values.shape} must be [K, N] or '
        f'[K, N, Q] of keep, {keep.shape}'
      )
    _finite(path, values)
    columns.append(Column(name, values.reshape(*keep.shape, -1), False))
  return ScoreSet(
    keep=keep.astype(bool),
    columns=tuple(columns),
    examples=tuple(str(i) for i in range(keep.shape[1])),
    models=models or tuple(str(i) for i in range(len(keep))),
    layout=layout,
    digest=files.digest(),
  )
