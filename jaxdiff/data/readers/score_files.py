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

import io
import json
import pathlib

import numpy as np

from jaxdiff import inputs
from jaxdiff.data.readers import npz, score_folders, score_set, score_tables

# Bytes of a JSON of scores: a hundred for each of a million.
_MOST_JSON = 2**27


def read(
  path: str,
  *,
  members: str = '',
  non_members: str = '',
  layout: str = 'auto',
  larger_is_member: bool = True,
) -> score_set.ScoreSet:
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
  files = score_set.Files()
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
    return score_folders.folder(files, place, layout, sign)
  suffix = place.suffix.lower()
  if not place.exists():
    raise inputs.InputError(f'path: no file or folder {inputs.name_of(path)}')
  if suffix in ('.csv', '.parquet'):
    return score_tables.table(files, place, sign)
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
  files: score_set.Files, path: pathlib.Path, key: str, sign: float
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
        return score_set.finite(path, values)
      values = sign * np.array([float(row) for row in rows])
  else:
    values = sign * score_set.numbers(path, files.array(path))
  return score_set.finite(path, values.reshape(-1))


def _two_sided(
  files: score_set.Files, members: np.ndarray, others: np.ndarray, layout: str
) -> score_set.ScoreSet:
  """One model, whose members come first."""
  values = np.concatenate([members, others])
  return score_set.ScoreSet(
    keep=(np.arange(len(values)) < len(members))[None],
    columns=(score_set.Column('score', values[None, :, None], True),),
    examples=(
      *(f'member {i}' for i in range(len(members))),
      *(f'non-member {i}' for i in range(len(others))),
    ),
    models=('0',),
    layout=layout,
    digest=files.digest(),
  )


def _npz(
  files: score_set.Files, path: pathlib.Path, sign: float
) -> score_set.ScoreSet:
  known = ('members', 'non_members', 'nonmembers', 'scores', 'memberships')
  arrays = npz.arrays(
    io.BytesIO(files.read(path)),
    path,
    lambda members: [f'{x}.npy' for x in known if f'{x}.npy' in members],
  )
  others = arrays.get('non_members', arrays.get('nonmembers'))
  if 'members' in arrays and others is not None:
    inside, outside = (
      score_set.finite(path, sign * score_set.numbers(path, x).reshape(-1))
      for x in (arrays['members'], others)
    )
    return _two_sided(files, inside, outside, 'npz of members and non-members')
  if {'scores', 'memberships'} <= arrays.keys():
    scores = score_set.finite(
      path, -score_set.numbers(path, arrays['scores']).reshape(-1)
    )
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
