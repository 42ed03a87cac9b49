"""Files of the canary audit in a run folder."""

import dataclasses

from jaxdiff.runs import layout


class Paths(layout.Part):
  """Models that trained on canaries, and how exposed these are."""

  canaries = layout.File('canaries/canaries.csv', old='canary_table')
  summary = layout.File('canaries/summary.csv', old='canary_summary')

  @property
  def planted(self) -> layout.Run:
    """The models, and their signals."""
    return dataclasses.replace(
      self.run, path=self.path / 'canaries', trained=None
    )
