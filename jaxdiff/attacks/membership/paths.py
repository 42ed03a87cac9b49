"""Files of membership in a run folder."""

from etils import epath

from jaxdiff.runs import layout


class Paths(layout.Part):
  """Signals of every model, and the tables made of them."""

  queries = layout.File('signals/queries.csv', old='queries')
  scores = layout.File('membership/scores.csv')
  summary = layout.File('membership/summary.csv')
  roc = layout.File('membership/roc.csv')
  timesteps = layout.File('membership/timesteps.csv')
  comparison = layout.File('membership/comparison.csv')
  blind = layout.File('membership/blind.csv')
  blind_captions = layout.File('membership/blind_captions.csv')
  inference = layout.File(
    'membership/dataset_inference.csv', old='membership_inference'
  )
  studies = layout.File('membership/studies.csv')
  extremes = layout.File('membership/extremes.csv')

  def signals(self, model: int, start: int) -> epath.Path:
    return layout.block_path(self.path / 'signals', model, start)
