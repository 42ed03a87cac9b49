"""What the documentation points to is there."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob('*.md'), *(ROOT / 'docs').glob('*.md')])


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_and_links_are_there(page):
  text = page.read_text()
  named = re.findall(
    r'`((?:jaxdiff|tests|configs|launch|docs)/[\w/.]*)[:`]', text
  )
  gone = [name for name in named if not (ROOT / name).exists()]
  linked = re.findall(r'\]\((?!http)([^)#]+)\)', text)
  gone += [name for name in linked if not (page.parent / name).exists()]
  modules = re.findall(r'-m ((?:launch|tests|jaxdiff)[\w.]*\w)', text)
  for name in set(modules) - {'tests.benchmarks.NAME'}:
    path = ROOT.joinpath(*name.split('.'))
    if not path.exists() and not path.with_suffix('.py').exists():
      gone.append(name)
  assert not gone
