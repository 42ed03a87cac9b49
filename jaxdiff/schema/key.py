"""A config key."""

import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Key:
  """One config key.

  Attributes:
    default: whose type every value has; a real number may be a whole one.
    meaning: a sentence or less.
    low: smallest number; None where values are no numbers.
    high: largest; what is larger would fill any memory before it fails.
    late: whether folders of runs may be older than the key: one that lacks it
      has its default, and the default leaves a run's identity as it was.
    free: whether it may differ in a run folder, because it changes no result,
      or none but by rounding, or is a path, of which the content decides.
    grows: stage that lets it grow in a run folder; '' for none.
  """

  default: Any
  meaning: str
  low: float | None = None
  high: float | None = None
  free: bool = False
  grows: str = ''
  late: bool = False


# A group of keys: what it is about, and the keys by name.
Group = tuple[str, dict[str, Key]]
