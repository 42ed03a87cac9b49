"""The `jaxdiff` command: launchers and shipped configs, wherever it is run.

    jaxdiff audit --config=digits --workdir=runs/digits

A verb is a module of launch/. `--config=NAME` and `--config=NAME:arg` are
shipped configs; what has a slash or ends in .py is a file of one's own. In a
checkout `python -m launch.VERB` is the same.
"""

import ast
from collections.abc import Sequence
import difflib
import importlib.metadata
import pathlib
import runpy
import sys
from typing import NoReturn

from jaxdiff.runtime import preemption, startup

# In launch/, but no verbs.
_SHARED = ('__init__', 'main', 'plain', 'flag_errors')


def main() -> None:
  """Runs a verb; exits with 2 and one line where there is none."""
  home = shipped()
  verbs = _verbs(home)
  verb, *flags = sys.argv[1:] or ['--help']
  if verb in ('-h', '--help', 'help'):
    print(_help(home, verbs))
    return
  if verb == '--version':
    print(importlib.metadata.version('jaxdiff'))
    return
  if verb not in verbs:
    _fail(f'no verb {verb!r}{_nearest(verb, verbs)}')
  # Launchers import `launch` and configs import `configs`.
  sys.path.insert(0, str(home))
  sys.argv = [f'jaxdiff {verb}', *_with_paths(flags, home)]
  preemption.leave_at_once()
  startup.collect_less()
  runpy.run_module(f'launch.{verb}', run_name='__main__')


def shipped() -> pathlib.Path:
  """The folder with launch/ and configs/: in the wheel, or the checkout."""
  here = pathlib.Path(__file__).resolve().parent
  inside = here / '_shipped'
  return inside if inside.is_dir() else here.parent


def _verbs(home: pathlib.Path) -> dict[str, str]:
  """What each verb does, in its module's first sentence."""
  verbs = {}
  for path in sorted((home / 'launch').glob('*.py')):
    if path.stem not in _SHARED:
      words = ast.get_docstring(ast.parse(path.read_text())) or ''
      verbs[path.stem] = words.partition('\n')[0]
  return verbs


def _configs(home: pathlib.Path) -> dict[str, pathlib.Path]:
  """Shipped configs by name."""
  return {
    path.stem: path
    for path in sorted((home / 'configs').glob('*.py'))
    if 'def get_config(' in path.read_text()
  }


def _help(home: pathlib.Path, verbs: dict[str, str]) -> str:
  width = max(map(len, verbs))
  lines = [f'  {name:<{width}}  {text}' for name, text in verbs.items()]
  return '\n'.join(
    [
      'jaxdiff VERB --config=NAME --workdir=FOLDER [--config.KEY=VALUE ...]',
      '', *lines, '',
      f'configs: {", ".join(_configs(home))}; or a file of your own',
      'flags of a verb: jaxdiff VERB --help',
    ]
  )  # fmt: skip


def _with_paths(flags: Sequence[str], home: pathlib.Path) -> list[str]:
  """Flags, with the file's path where --config has a shipped config's name."""
  out, configs = list(flags), _configs(home)
  for place, flag in enumerate(flags):
    name, equals, value = flag.partition('=')
    if name not in ('--config', '-config'):
      continue
    if not equals:
      place += 1
      value = flags[place] if place < len(flags) else ''
    stem, colon, arg = value.partition(':')
    if not stem or '/' in stem or stem.endswith('.py'):
      continue
    if stem not in configs:
      _fail(f'--config: no config {stem!r}{_nearest(stem, configs)}')
    path = f'{configs[stem]}{colon}{arg}'
    out[place] = f'{name}={path}' if equals else path
  return out


def _nearest(name: str, known) -> str:
  near = difflib.get_close_matches(name, list(known), n=1)
  return f'; did you mean {near[0]}?' if near else f'; {", ".join(known)}'


def _fail(message: str) -> NoReturn:
  print(f'jaxdiff: {message}', file=sys.stderr)
  sys.exit(2)
