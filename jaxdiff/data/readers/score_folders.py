"""Folders of signals: of jaxdiff, tensorflow/privacy and ml_privacy_meter."""

from collections.abc import Sequence
import pathlib
import re

import numpy as np

from jaxdiff import inputs
from jaxdiff.data.readers import score_set

LAYOUTS = ('auto', 'jaxdiff', 'tensorflow_privacy', 'ml_privacy_meter')


# Signals of ml_privacy_meter: turned so that smaller speaks for a member.
_METER = {
  'loss': lambda values: values,
  'lira': lambda values: -values,
  # Probabilities; RMIA wants their negative logarithm.
  'rmia': lambda values: -np.log(np.maximum(values, 1e-45)),
}


def folder(
  files: score_set.Files, path: pathlib.Path, layout: str, sign: float
) -> score_set.ScoreSet:
  """A folder of signals of several models.

  Args:
    files: that reads and digests.
    path: the folder.
    layout: one of LAYOUTS.
    sign: of signals without a convention: -1 where a larger one speaks for a
      member.

  Raises:
    InputError: if it is of no layout, or of several.
  """
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
    signals = sign * score_set.numbers(
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


def _of_meter(files: score_set.Files, path: pathlib.Path) -> score_set.ScoreSet:
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
    values = score_set.numbers(file, files.array(file))
    if values.ndim != 2 or values.T.shape != keep.shape:
      raise inputs.InputError(
        f'{inputs.name_of(file)}: {values.shape} must be [N, K] of '
        f'memberships.npy [K, N], {keep.shape}'
      )
    signals[name] = _METER[name](values.T)
  return _of_signals(files, path, signals, keep, 'ml_privacy_meter')


def _of_experiments(
  files: score_set.Files,
  path: pathlib.Path,
  experiments: Sequence[pathlib.Path],
) -> score_set.ScoreSet:
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
    values = np.atleast_1d(score_set.numbers(found[-1], files.array(found[-1])))
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
  files: score_set.Files,
  path: pathlib.Path,
  signals: dict[str, np.ndarray],
  keep: np.ndarray,
  layout: str,
  models: tuple[str, ...] = (),
) -> score_set.ScoreSet:
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
    score_set.finite(path, values)
    columns.append(
      score_set.Column(name, values.reshape(*keep.shape, -1), False)
    )
  return score_set.ScoreSet(
    keep=keep.astype(bool),
    columns=tuple(columns),
    examples=tuple(str(i) for i in range(keep.shape[1])),
    models=models or tuple(str(i) for i in range(len(keep))),
    layout=layout,
    digest=files.digest(),
  )
