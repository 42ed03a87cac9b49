"""What a run takes from outside: its digests, and a finished run beside it."""

import ml_collections

from jaxdiff import inputs
from jaxdiff.attacks.extraction import followups
from jaxdiff.attacks.extraction import paths as extraction_paths
from jaxdiff.data import examples as examples_lib
from jaxdiff.interop import diffusers
from jaxdiff.runs import layout


def digests(c: ml_collections.ConfigDict) -> dict[str, str]:
  """SHA-256 of what results depend on beside config and images, by key.

  What a run is compared with, or judged by, may change and be looked at anew.
  """
  found = {}
  if c.model.init_from:
    found['model.init_from'] = diffusers.digest(c.model.init_from)
  return found


def looked_at(c: ml_collections.ConfigDict) -> dict[str, str]:
  """SHA-256 of what a run is judged by or compared with, for provenance."""
  found = {}
  if c.quality.inception:
    found['quality.inception'] = inputs.digest(
      inputs.local(c.quality.inception, 'quality.inception')
    )
  if c.extraction.other_run:
    other = layout.Run(layout.folder(c.extraction.other_run))
    followups.check_finished(other)
    found['extraction.other_run'] = inputs.digest(
      extraction_paths.Paths(other).matches
    )
  return found


def other_run(
  folder: str, examples: examples_lib.Examples
) -> layout.Run | None:
  """The run to compare with; None for ''.

  Raises:
    InputError: if it is none, or one on other images.
  """
  if not folder:
    return None
  other = layout.Run(layout.folder(folder))
  followups.check_other(other, examples.fingerprint())
  return other
