"""What a command does before it imports anything large."""

import gc


def collect_less() -> None:
  """Looks for garbage less often than Python does by itself.

  Imports and JAX's traces are many objects and hardly any garbage: looking
  through them was a tenth of a start, and 4 % of a run of the digits.
  """
  gc.set_threshold(20_000, 20, 20)
