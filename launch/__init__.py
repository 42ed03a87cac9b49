"""How to start it. A signal ends a launcher from its first second on."""

import sys

from jaxdiff.runtime import preemption, startup

# While `python -m launch.X` is being imported, and not in who imports it.
if sys.argv[:1] == ['-m']:
  preemption.leave_at_once()
  startup.collect_less()
