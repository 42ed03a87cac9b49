"""Kinds of subject that a config may be of (`schema.kind_of`), a module each.

A module has

    GIVES         names of `subjects.GIVES` that its subjects may give: stages
                  that need another are neither checked nor planned
    devices       config -> models worked on together, and sizes of batches
    check         config -> None; ValueError, naming the key, for nonsense
    read          (config, run or None) -> Read, what the config names
    check_images  (config, dataset) -> None; the same, with images at hand
    make          (config, Read, step) -> Made, what is attacked

Its keys are in `jaxdiff/schema/`, under the same name.
"""

from typing import Any

from jaxdiff import schema
from jaxdiff.plans.kinds import (
  captioned,
  diffusers,
  ensemble,
  folders,
  gan,
  pipeline,
  scores,
)

KINDS: dict[str, Any] = {
  'ensemble': ensemble, 'folders': folders, 'scores': scores,
  'diffusers': diffusers, 'pipeline': pipeline, 'captioned': captioned,
  'gan': gan,
}  # fmt: skip


def of(config: Any) -> Any:
  """The module of a config's kind.

  Raises:
    ValueError: for a kind that there is not.
  """
  return KINDS[schema.kind_of(config)]
