"""Stages, a module each: what it needs of a subject, and how it is planned.

A module has

    VERB          the launcher that runs it, one of `stage.VERBS`
    WORDS         what it is, for people
    NEEDS         names of `subjects.GIVES`
    left_out      config -> why it leaves this out; '' if it does not
    check         config -> None; ValueError, naming the key, for nonsense
    check_images  (config, dataset) -> None; the same, with images at hand
    make          (config, subject) -> Stage

    ALONE         True if reports of other subjects do not miss it
    GROUP         of config keys that it cannot do without

of which `left_out`, `check`, `check_images`, `ALONE` and `GROUP` may be
missing. A new
stage is a new module here; nothing lists it. PLACE, a number, orders those of a
verb; the others come last.
"""

import importlib
import pkgutil
from typing import Any

from jaxdiff.plans import stage as stage_lib


def _find() -> dict[str, Any]:
  modules = {
    info.name: importlib.import_module(f'{__name__}.{info.name}')
    for info in pkgutil.iter_modules(__path__)
  }

  def order(name: str):
    module = modules[name]
    verb = stage_lib.VERBS.index(module.VERB)
    return verb, getattr(module, 'PLACE', 100), name

  return {name: modules[name] for name in sorted(modules, key=order)}


# Modules of all stages, by name, in the order of a run.
STAGES = _find()
