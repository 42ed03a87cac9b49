"""Where the attack on prompts leaves its evidence and tables."""

from etils import epath

from jaxdiff.runs import layout


class Paths(layout.Part):
  """Files of prompts in a run folder."""

  table = layout.File('prompts/prompts.csv')
  screens = layout.File('prompts/screens.csv')
  summary = layout.File('prompts/screens_summary.csv')
  verified = layout.File('prompts/verified.csv')
  precision = layout.File('prompts/precision.csv')
  annotations = layout.File('prompts/annotations.csv', reported=False)
  totals = layout.File('prompts/summary.csv')

  @property
  def chosen(self) -> epath.Path:
    """Numbers of the prompts that a screen chose."""
    return self.path / 'prompts' / 'chosen.npz'

  def screen(self, model: int, start: int) -> epath.Path:
    """Screens of some prompts."""
    return self._block('screens', model, start)

  def stream(self, model: int, start: int) -> epath.Path:
    """Cliques of some prompts."""
    return self._block('generations', model, start)

  def picture(self, model: int, number: int, seed: int) -> epath.Path:
    """A generation that was kept, by numbers of its prompt and seed."""
    name = f'{number:06d}-{seed:04d}.png'
    folder = self.path / 'prompts' / 'pictures' / f'model-{model:03d}'
    return folder / name

  def _block(self, kind: str, model: int, start: int) -> epath.Path:
    folder = self.path / 'prompts' / kind / f'model-{model:03d}'
    return folder / f'{start:08d}.npz'
