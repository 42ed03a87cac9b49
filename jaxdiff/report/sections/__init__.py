"""Sections of the report, a module for each stage that has one.

A module of a stage's name has `make(page) -> parts.Section`; its template is
`templates/sections/NAME.html.jinja`. Nothing lists them: a stage without one is
done without a word.
"""

import importlib
import pkgutil

from jaxdiff.report import parts

# The section of each stage, by its name.
SECTIONS: dict[str, parts.SectionFn] = {
  info.name: importlib.import_module(f'{__name__}.{info.name}').make
  for info in pkgutil.iter_modules(__path__)
}
