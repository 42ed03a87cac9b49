"""Files of extraction in a run folder."""

from etils import epath

from jaxdiff.runs import layout


class Paths(layout.Part):
  """Neighbours of every sample, and the tables made of them."""

  matches = layout.File('extraction/matches.csv')
  summary = layout.File('extraction/summary.csv')
  curve = layout.File('extraction/curve.csv')
  gallery = layout.File('extraction/gallery.csv')
  extrapolation = layout.File('extraction/extrapolation.csv')
  eidetic = layout.File('extraction/eidetic.csv')
  recall = layout.File('extraction/recall.csv')
  overlap = layout.File('extraction/overlap.csv')
  classes = layout.File('extraction/classes.csv')
  annotated = layout.File('extraction/annotated.csv')
  # Where samples come from files that have names.
  named = layout.File('extraction/pairs.csv')
  # A person's word on samples, not one of our tables.
  annotations = layout.File('annotations.csv', reported=False)
  pairs = layout.File('extraction/pairs.png', reported=False)

  def neighbours(self, model: int, start: int) -> epath.Path:
    return layout.block_path(self.path / 'neighbours', model, start)
