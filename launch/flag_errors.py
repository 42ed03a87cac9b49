"""Turns what went wrong while reading flags into one line with the mend."""

from collections.abc import Sequence
import difflib
import pathlib
import re
import runpy

import ml_collections

from jaxdiff import inputs, schema


def check_file(argv: Sequence[str]) -> None:
  """Raises InputError for a --config that is no regular file, before it opens.

  Args:
    argv: the command line.
  """
  path = dict(_assignments(argv)).get('config', '').partition(':')[0]
  if path and pathlib.Path(path).exists():
    inputs.regular(pathlib.Path(path), '--config')


def explain(argv: Sequence[str], error: BaseException) -> str:
  """One line for a failure to read flags.

  Args:
    argv: the command line.
    error: what parsing it raised.

  Returns:
    The line: names the flag, and the nearest known key or what it must be.
  """
  given = dict(_assignments(argv))
  path, _, arg = given.get('config', '').partition(':')
  if 'config' not in given:
    return _first_line(error)
  if not pathlib.Path(path).is_file():
    known = sorted(
      str(p) for p in pathlib.Path('configs').glob('*.py') if p.stem[0] != '_'
    )
    near = difflib.get_close_matches(path, known, n=1)
    hint = near[0] if near else 'one of ' + ', '.join(known)
    return f'--config: no file {path!r}; did you mean {hint}?'
  try:
    config = runpy.run_path(path)['get_config'](arg or None)
  # The user's file may raise anything.
  except (Exception, SystemExit) as raised:
    said = _unknown_key(raised) or _first_line(raised)
    return f'--config={given["config"]}: {said}'
  if not isinstance(config, ml_collections.ConfigDict):
    return (
      f'--config={given["config"]}: get_config() gives a '
      f'{type(config).__name__}, not a ConfigDict'
    )
  known = schema.flat(config)
  for name, value in given.items():
    if not name.startswith('config.'):
      continue
    key = name.removeprefix('config.')
    if key not in known:
      near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
      hint = f'; did you mean --config.{near[0]}?' if near else ''
      return f'--{name}: {path} has no key {key!r}{hint}'
    if f'config.{key}' in str(error) or repr(value) in str(error):
      want, kind = known[key], type(known[key]).__name__
      return f'--{name}={value}: must be of type {kind}, like {want!r}'
  return _first_line(error)


def _unknown_key(error: BaseException) -> str | None:
  """What a locked config says of a key that it does not have."""
  key = re.search(r'Key "([^"]+)" does not exist', str(error))
  if key is None:
    return None
  near = re.search(r'Did you mean "([^"]+)"', str(error))
  hint = f'; did you mean {near[1]!r}?' if near else ''
  return f'no key {key[1]!r}{hint}'


def _assignments(argv: Sequence[str]):
  """(name, value) of --name=value, --name value and --name."""
  rest = list(argv[1:])
  while rest:
    match = re.fullmatch(r'--?([^=]+)(?:=(.*))?', rest.pop(0), re.DOTALL)
    if match:
      name, value = match.groups()
      if value is None and rest and not rest[0].startswith('-'):
        value = rest.pop(0)
      yield name, value or ''


def _first_line(error: BaseException) -> str:
  return inputs.one_line(error) or type(error).__name__
