"""What a run was made with: recorded, sealed, and compared."""

import collections
import datetime
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import subprocess
from typing import Any

from absl import logging
import jax
import numpy as np
import pandas as pd

from jaxdiff import inputs, schema, subjects
from jaxdiff import plans as plans_lib
from jaxdiff.runs import files, layout
from jaxdiff.runtime import settings


def free(config) -> tuple[str, ...]:
  """Keys that change no result, or none but by rounding.

  And paths, of which it is the content that decides (`plans.Plans.inputs`, the
  images' fingerprint).
  """
  keys = schema.KEYS[schema.kind_of(config)]
  return tuple(name for name, key in keys.items() if key.free)


def grow(config) -> dict[str, str]:
  """Keys that may grow, and the stage that lets them."""
  keys = schema.KEYS[schema.kind_of(config)]
  return {name: key.grows for name, key in keys.items() if key.grows}


def identity(config, plans: plans_lib.Plans) -> str:
  """Digest of all that the results of a run depend on, hardware aside.

  Numbers of models and samples are no part of it: a run may grow.
  """
  made_of = {
    'config': schema.identified(config.to_dict()),
    'data_sha256': plans.dataset.fingerprint(),
    'inputs': plans.inputs,
    'settings': settings.recorded(),
  }
  text = json.dumps(made_of, sort_keys=True, default=list)
  return hashlib.sha256(text.encode()).hexdigest()


def write_inputs(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Tables of the examples, of what was left out, and the provenance."""
  dataset = plans.dataset
  files.write_csv(run.examples, plans.examples())
  files.write_csv(
    run.classes,
    pd.DataFrame(
      {
        'label': np.arange(len(dataset.class_names)),
        'name': [inputs.name_of(name) for name in dataset.class_names],
      }
    ),
  )
  files.write_npz(
    run.duplicates,
    image=dataset.image if dataset.duplicates is None else dataset.duplicates,
    made_of=np.array(dataset.duplicates_of),
  )
  kept_to = plans.subject.guarantee
  if kept_to is not None:
    sigma = kept_to.mechanism.noise_multiplier
    files.write_json(run.noise, {'noise_multiplier': sigma})
  left_out = list(dataset.skipped)
  if left_out:
    files.write_csv(
      run.skipped, pd.DataFrame(left_out, columns=['source', 'reason'])
    )
    reasons = collections.Counter(reason for _, reason in left_out)
    for reason, count in reasons.most_common(5):
      logging.warning('left out: %d of %s', count, reason)
    logging.warning('all that was left out is listed in %s', run.skipped)
  elif run.skipped.exists():
    run.skipped.unlink()  # of files that are gone
  joined = len(dataset) - len(np.unique(dataset.image))
  if joined:
    logging.warning(
      '%d of %d images are near-duplicates of others: they stay on one side of '
      'every split, and count once',
      joined,
      len(dataset),
    )
  record_provenance(plans, run)


def read_provenance(run: layout.Run) -> dict[str, Any] | None:
  """provenance.json; None if it is not there.

  Raises:
    InputError: if it is damaged.
  """
  if not run.provenance.exists():
    return None
  with inputs.reading(
    run.provenance,
    'is damaged, or of an older version (restore it, or give --workdir a new '
    'folder)',
  ):
    record = files.read_json(run.provenance)
    kinds = {
      'data_sha256': str, 'inputs': dict, 'settings': dict,
      'environments': list,
    }  # fmt: skip
    if record.pop('sha256') != _digest(record):
      raise ValueError('its SHA-256 differs')
    for name, kind in kinds.items():
      if not isinstance(record[name], kind):
        raise TypeError(f'{name} is no {kind.__name__}')
    for environment in record['environments']:
      dict(environment)
  return record


def _digest(record: dict[str, Any]) -> str:
  """SHA-256 of a provenance without its own."""
  return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def commit() -> str | None:
  """Git commit of the source, '-dirty' if changed; None outside git."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():
    return None
  try:
    described = subprocess.run(
      ['git', '-C', str(root), 'describe', '--always', '--dirty', '--abbrev=40',
       '--exclude=*'],
      capture_output=True, text=True, check=True,
    )  # fmt: skip
  except (OSError, subprocess.CalledProcessError):
    return None
  return described.stdout.strip()


def record_provenance(plans: plans_lib.Plans, run: layout.Run) -> None:
  """Adds versions and hardware to provenance.json when they are new to it."""
  packages = ('jaxdiff', 'jax', 'jaxlib', 'flax', 'optax', 'numpy', 'scipy')
  now = {
    'python': platform.python_version(),
    'commit': commit(),
    'versions': {name: importlib.metadata.version(name) for name in packages},
    'devices': [str(device) for device in jax.devices()],
    'num_models': subjects.given(plans.subject.examples).num_models,
    'looked_at': plans.looked_at,
  }
  if plans.subject.samples is not None:
    now['num_samples'] = plans.subject.samples.num_samples
  record = read_provenance(run) or {
    'data_sha256': plans.dataset.fingerprint(),
    'inputs': plans.inputs,
    'settings': settings.recorded(),
    'environments': [],
  }
  known = [
    {name: value for name, value in old.items() if name != 'since'}
    for old in record['environments']
  ]
  if now not in known:
    since = datetime.datetime.now(datetime.UTC).isoformat('T', 'seconds')
    record['environments'].append({'since': since, **now})
    files.write_json(run.provenance, record | {'sha256': _digest(record)})
