"""What kinds of subject have in common."""

from collections.abc import Callable
import dataclasses
from typing import Any

from jaxdiff import subjects
from jaxdiff.data import datasets


@dataclasses.dataclass(frozen=True)
class Read:
  """What a config names, read.

  Attributes:
    dataset: every example of the run, with its near-duplicates joined.
    more: whatever else the kind has read.
  """

  dataset: datasets.Dataset
  more: Any = None


@dataclasses.dataclass(frozen=True)
class Made:
  """What is attacked.

  Attributes:
    subject: with all that it gives.
    inputs: SHA-256 of what results depend on beside config and images, by key.
    looked_at: likewise, of what they are compared with or judged by.
    export: (params of one model, folder) -> None, writes a diffusers folder;
      None where there is none to write.
  """

  subject: subjects.Subject
  inputs: dict[str, str] = dataclasses.field(default_factory=dict)
  looked_at: dict[str, str] = dataclasses.field(default_factory=dict)
  export: Callable[[Any, str], None] | None = None
