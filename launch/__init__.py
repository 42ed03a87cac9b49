"""How to start it. A signal ends a launcher from its first second on."""

import gc
import sys

from jaxdiff.runtime import preemption

# While `python -m launch.X` is being imported, and not in who imports it.
if sys.argv[:1] == ['-m']:
  preemption.leave_at_once()
  # Imports and JAX's traces are many objects and hardly any garbage: looked
  # through as often as Python does by itself, they are a tenth of a start and
  # 4 % of a run of the digits.
  gc.set_threshold(20_000, 20, 20)
