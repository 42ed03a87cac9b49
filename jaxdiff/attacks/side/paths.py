"""Files of surrogate guidance in a run folder."""

import dataclasses

from etils import epath

from jaxdiff.runs import layout


class Paths(layout.Part):
  """Surrogates, and the tables that compare guided with plain samples."""

  models = layout.File('guidance/models.csv')
  summary = layout.File('guidance/summary.csv')

  @property
  def guided(self) -> layout.Run:
    """Guided samples, and their neighbours."""
    return dataclasses.replace(
      self.run,
      path=self.path / 'guidance',
      trained=self.run.trained or self.path,
    )

  def surrogates(self, model: int, start: int) -> epath.Path:
    """One file a model; it starts at 0."""
    del start
    return self.path / 'guidance' / 'surrogates' / f'model-{model:03d}.npz'
