"""Sections of the report, a module for each stage that has one.

A module of a stage's name has `make(page) -> parts.Section`; its template is
`templates/sections/NAME.html.jinja`. Nothing lists them: a stage without one is
done without a word. PLACE, a number, orders them on the page; those without one
come last.
"""

import importlib
import pkgutil

from jaxdiff.report import parts


def _find() -> dict[str, parts.SectionFn]:
  modules = {
    info.name: importlib.import_module(f'{__name__}.{info.name}')
    for info in pkgutil.iter_modules(__path__)
  }
  order = lambda name: (getattr(modules[name], 'PLACE', 100), name)
  return {name: modules[name].make for name in sorted(modules, key=order)}


# The section of each stage by its name, in the order of the page.
SECTIONS = _find()
