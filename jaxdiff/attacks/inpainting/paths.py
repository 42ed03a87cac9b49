"""Files of inpainting in a run folder."""

from etils import epath

from jaxdiff.runs import layout


class Paths(layout.Part):
  """What was drawn, what models say of it, and the tables of both."""

  images = layout.File('inpainting/images.csv')
  summary = layout.File('inpainting/summary.csv')
  examples = layout.File('inpainting/examples.npz')

  def drawn(self, model: int, start: int) -> epath.Path:
    return layout.block_path(self.path / 'inpainting' / 'drawn', model, start)

  def losses(self, model: int, start: int) -> epath.Path:
    """Of every inpainting, by one model."""
    return layout.block_path(self.path / 'inpainting' / 'losses', model, start)
