"""Imports go downward: to no higher floor and no sibling package."""

import ast
import functools
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]

FLOORS = {
  'jaxdiff.inputs': 0,
  'jaxdiff.schema': 0,
  'jaxdiff.runtime': 1,
  'jaxdiff.runs': 2,
  'jaxdiff.diffusion': 3,
  'jaxdiff.models': 3,
  'jaxdiff.data': 3,
  'jaxdiff.metrics': 3,
  'jaxdiff.nearest': 3,
  'jaxdiff.training': 4,
  'jaxdiff.sampling': 4,
  'jaxdiff.interop': 4,
  # An attack that is not named: it builds on no other.
  'jaxdiff.attacks.*': 4,
  'jaxdiff.attacks.side': 5,
  'jaxdiff.attacks.canaries': 5,
  'jaxdiff.attacks.prompts': 5,
  'jaxdiff.defences': 5,
  'jaxdiff.api': 6,
  'jaxdiff.guard': 6,
  'jaxdiff.subjects': 6,
  'jaxdiff.plans': 7,
  'jaxdiff.report': 7,
  'jaxdiff.pipeline': 8,
  'jaxdiff.command': 8,
  'configs': 9,
  'launch': 9,
}

# Packages that only hold others.
EMPTY = ('jaxdiff', 'jaxdiff.attacks')

# Third-party packages that only some modules may import.
CONFINED = {
  'orbax': ('jaxdiff.runs.checkpoints', 'jaxdiff.runtime.multihost'),
  'flax': ('jaxdiff.models', 'jaxdiff.training.train_state'),
  'safetensors': ('jaxdiff.interop',),
  'optax': ('jaxdiff.training', 'jaxdiff.plans', 'jaxdiff.attacks.side'),
  'matplotlib': ('jaxdiff.report',),
  'jinja2': ('jaxdiff.report',),
  'starlette': ('jaxdiff.guard.service',),
  'uvicorn': ('launch',),
  'tensorboardX': ('jaxdiff.training.tensorboard',),
  'ml_collections': ('jaxdiff.plans', 'launch', 'configs'),
  'tensorflow': (),
  'torch': (),
}


def unit(module: str) -> str:
  """The package or module that has a floor."""
  if module.startswith('jaxdiff.attacks.'):
    return '.'.join(module.split('.')[:3])
  return max(
    (
      name for name in FLOORS if module == name or module.startswith(f'{name}.')
    ),
    key=len,
    default='',
  )


def floor(name: str) -> int:
  return FLOORS.get(name, FLOORS['jaxdiff.attacks.*'])


@functools.cache
def imports(path: pathlib.Path) -> set[str]:
  found = set()
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      found |= {f'{node.module}.{alias.name}' for alias in node.names}
  return found


def modules() -> list[tuple[str, pathlib.Path]]:
  out = []
  for top in ('jaxdiff', 'launch', 'configs'):
    for path in sorted((ROOT / top).rglob('*.py')):
      parts = path.relative_to(ROOT).with_suffix('').parts
      out.append(('.'.join(p for p in parts if p != '__init__'), path))
  return out


@pytest.mark.parametrize(('module', 'path'), modules(), ids=lambda x: str(x))
def test_imports_go_downward(module, path):
  for name in imports(path):
    if name.split('.')[0] not in ('jaxdiff', 'launch', 'configs'):
      continue
    own, other = unit(module), unit(name)
    if own == other or name in EMPTY:
      continue
    assert other, f'{name} has no floor'
    assert floor(own) > floor(other), f'{module} imports {name}: not below it'


@pytest.mark.parametrize(('module', 'path'), modules(), ids=lambda x: str(x))
def test_third_party_stays_where_it_belongs(module, path):
  for name in imports(path):
    top = name.split('.')[0]
    if top == 'absl' and name.startswith('absl.flags'):
      assert module.startswith('launch'), f'{module} reads flags'
    for package, allowed in CONFINED.items():
      if top == package:
        assert module.startswith(allowed or ('nowhere',)), (
          f'{module} imports {package}'
        )


def test_configs_do_not_import_jax():
  for module, path in modules():
    if module.startswith('configs'):
      of = {name for name in imports(path) if name.startswith('jax')}
      assert of <= {'jaxdiff.schema'}


def test_every_module_has_a_floor():
  for module, _ in modules():
    if module.startswith('jaxdiff.') and module not in EMPTY:
      assert unit(module), f'{module} has no floor: add it to FLOORS'
