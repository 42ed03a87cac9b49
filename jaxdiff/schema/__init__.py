"""Every config key: its default, range and meaning, in this one place.

`configs/common.py` makes ConfigDicts of it, `plans/checks.py` the checks of
kinds and ranges, and this prints docs/configuration.md:

    launch/local.sh python -m jaxdiff.schema > docs/configuration.md

Each kind of subject has keys of its own, a module each. No JAX: configs are
read before it starts. Which values go together is said by `plans/kinds/` and
`plans/stages/`; which choices there are, beside the functions they choose.
"""

from collections.abc import Iterator
import copy
import json
from typing import Any

from jaxdiff.schema import (
  captioned,
  diffusers,
  ensemble,
  folders,
  gan,
  pipeline,
  scores,
)
from jaxdiff.schema.key import Group, Key

__all__ = ['GROUPS', 'KEYS', 'Group', 'Key', 'flat', 'identified', 'kind_of',
           'lines', 'renamed']  # fmt: skip

# What a config is of that does not say it.
ENSEMBLE = 'ensemble'
# Kinds whose models the run trains itself.
TRAINED = (ENSEMBLE, 'captioned', 'gan')

# Groups of keys, by the kind of subject that a config is of: '' are its own.
GROUPS: dict[str, dict[str, Group]] = {
  ENSEMBLE: ensemble.GROUPS,
  'folders': folders.GROUPS,
  'scores': scores.GROUPS,
  'diffusers': diffusers.GROUPS,
  'pipeline': pipeline.GROUPS,
  'captioned': captioned.GROUPS,
  'gan': gan.GROUPS,
}

# Every key of a kind by its dotted name.
KEYS: dict[str, dict[str, Key]] = {
  kind: {
    f'{group}.{name}' if group else name: key
    for group, (_, keys) in groups.items()
    for name, key in keys.items()
  }
  for kind, groups in GROUPS.items()
}

# Configs of a kind that have another name.
_FILES = {'gan': 'digits_gan'}

# Groups that had another name once, and what folders of runs still call them.
FORMER = {'side': 'guidance'}


def kind_of(config: Any) -> str:
  """The kind of subject that a config is of.

  Args:
    config: a ConfigDict, or the dict of a stored one.

  Raises:
    ValueError: for one that there is not.
  """
  kind = config.get('subject', ENSEMBLE)
  if not isinstance(kind, str) or kind not in GROUPS:
    raise ValueError(f'subject: no {kind!r}; there is {", ".join(GROUPS)}')
  return kind


def renamed(config: dict[str, Any]) -> dict[str, Any]:
  """A stored config by today's names, with defaults for keys of later days."""
  former = {old: new for new, old in FORMER.items()}
  config = {
    former.get(name, name): copy.deepcopy(value)
    for name, value in config.items()
  }
  for name, key in KEYS[kind_of(config)].items():
    *groups, leaf = name.split('.')
    node = config
    for group in groups:
      node = node.setdefault(group, {}) if isinstance(node, dict) else None
    if key.late and isinstance(node, dict):
      # As JSON gives it back.
      node.setdefault(leaf, json.loads(json.dumps(key.default)))
  return config


def identified(config: dict[str, Any]) -> dict[str, Any]:
  """The part of a config that identifies a run, by the names it had at first.

  Args:
    config: nested dicts of values.
  """
  keys = KEYS[kind_of(config)]
  out: dict[str, Any] = {}
  for name, value in flat(config).items():
    key = keys[name]
    if key.late and value == key.default:
      continue
    *groups, leaf = name.split('.')
    node = out
    for group in groups:
      node = node.setdefault(FORMER.get(group, group), {})
    if not (key.free or key.grows):
      node[leaf] = value
  return out


def flat(tree: Any, prefix: str = '') -> dict[str, Any]:
  """Values of nested dicts or ConfigDicts by dotted name."""
  out: dict[str, Any] = {}
  for name, value in tree.items():
    if hasattr(value, 'items'):
      out |= flat(value, f'{prefix}{name}.')
    else:
      out[prefix + name] = value
  return out


def lines() -> Iterator[str]:
  """docs/configuration.md."""
  yield '# Configuration'
  yield ''
  yield (
    'Made by `python -m jaxdiff.schema`. Any key can be given on the command '
    'line: `--config.train.num_steps=500`. A config file changes defaults '
    '(`configs/`). In a run folder *grows* may only grow, *free* may change, '
    'all else is fixed.'
  )
  for kind, groups in GROUPS.items():
    if kind != ENSEMBLE:
      yield ''
      yield f'# Configs of {kind} (`configs/{_FILES.get(kind, kind)}.py`)'
    for group, (title, keys) in groups.items():
      yield ''
      yield f'## {title}'
      yield ''
      yield '| key | default | range | meaning |'
      yield '|---|---|---|---|'
      for name, key in keys.items():
        yield _line(f'{group}.{name}' if group else name, key)


def _line(dotted: str, key: Key) -> str:
  """A row of the table."""
  span = ''
  if key.low is not None:
    span = f'{_said(key.low)} .. {_said(key.high)}'
  marks = ', '.join(
    text for text, on in (('free', key.free), ('grows', key.grows)) if on
  )
  meaning = f'{key.meaning} ({marks})' if marks else key.meaning
  return f'| `{dotted}` | `{key.default!r}` | {span} | {meaning} |'


def _said(number: float | None) -> str:
  """As people write it: 2^40."""
  if isinstance(number, int):
    for less in (0, 1):
      power = (number + less).bit_length() - 1
      if power > 14 and number + less == 2**power:
        return f'2^{power}' + (' - 1' if less else '')
  return f'{number:g}'
