"""Extract what diffusion models memorised, and score membership, in JAX.

The library is in `jaxdiff.api`; its functions are here, too. Importing this
starts no backend, and loads nothing until it is used.
"""

import importlib
import importlib.metadata

__all__ = (
  'Extraction', 'Value', 'extract', 'largest_clique', 'lira', 'make_schedule',
  'nearest_neighbors', 'rmia', 'roc', 'sample', 'tile_graph',
)  # fmt: skip


def __getattr__(name: str):
  if name == '__version__':
    return importlib.metadata.version('jaxdiff')
  if name in __all__:
    return getattr(importlib.import_module('jaxdiff.api'), name)
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
