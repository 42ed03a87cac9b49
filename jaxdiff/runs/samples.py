"""The samples of a run in its folder: how many there are, and reading them."""

import dataclasses

import numpy as np

from jaxdiff import inputs
from jaxdiff.runs import blocks, layout


@dataclasses.dataclass(frozen=True, kw_only=True)
class Samples:
  """The samples of a run, however they were made.

  Attributes:
    num_samples: images of each model.
    block_size: images a file; the last of a model may be short.
    classes: labels that images are drawn with, in turn; None is unconditional.
    in_order: whether they come in some order, as files in a folder do, rather
      than as they were drawn.
    of_others: where other models than the first have other numbers, theirs.
    names: of the first model's samples, where they come from files.
  """

  num_samples: int
  block_size: int
  classes: tuple[int, ...] | None = None
  in_order: bool = False
  of_others: tuple[int, ...] = ()
  names: tuple[str, ...] = ()

  def count(self, model: int) -> int:
    """Samples of one model."""
    if model and self.of_others:
      return self.of_others[model - 1]
    return self.num_samples

  def read(self, run: layout.Run, model: int, start: int) -> np.ndarray:
    """A block of samples: uint8 [n, H, W, C].

    Raises:
      InputError: if it is absent, torn or another's.
    """
    path = run.samples(model, start)
    rows = np.arange(start, min(start + self.block_size, self.count(model)))
    block = blocks.read_block(path, run.identity, model, rows, 'images')
    if block is None:
      raise inputs.InputError(
        f'{path} is missing or torn: run the sample stage again'
      )
    return block['images']
