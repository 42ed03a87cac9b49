"""Configs: arguments are parsed, unknown ones refused, all of them build."""

import importlib
import pathlib

import pytest

from configs import common
from jaxdiff import build

CONFIGS = sorted(
  path.stem
  for path in (pathlib.Path(__file__).parents[1] / 'configs').glob('*.py')
  if path.stem not in ('__init__', 'common')
)


@pytest.mark.parametrize('name', CONFIGS)
def test_every_config_builds_and_states_its_command(name):
  module = importlib.import_module(f'configs.{name}')
  assert f'--config=configs/{name}.py' in module.__doc__
  assert build.make(module.get_config()).name == name


def test_arguments():
  got = common.parse_arg('fast,res=32', fast=False, res=64, name='x')
  assert got.fast is True and got.res == 32 and got.name == 'x'
  assert common.parse_arg(None, fast=False).fast is False
  with pytest.raises(ValueError, match='fast'):
    common.parse_arg('slow', fast=False)
