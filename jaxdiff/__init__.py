"""Extract what diffusion models memorised, and score membership, in JAX.

Importing this starts no backend.
"""

import importlib.metadata


def __getattr__(name: str) -> str:
  if name == '__version__':
    return importlib.metadata.version('jaxdiff')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
