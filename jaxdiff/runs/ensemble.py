"""The models of a run: how many there are, and how their weights come back."""

from collections.abc import Callable
import dataclasses
from typing import Any

from jax.sharding import Mesh

from jaxdiff.runs import layout


def _no_restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
  del mesh
  raise ValueError(f'{block.path}: nobody said how to restore these models')


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Independent models, in blocks that share a checkpoint.

  Attributes:
    seed: of everything that is drawn, folded by purpose, model and example.
    num_models: K.
    models_per_block: models that share a checkpoint.
    devices_per_model: devices that share a model; 0 chooses.
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
  """

  seed: int
  num_models: int
  models_per_block: int
  devices_per_model: int = 0
  restore: Callable[[layout.ModelBlock, Mesh], Any] = _no_restore

  def blocks(self, run: layout.Run) -> list[layout.ModelBlock]:
    """The blocks of a run, those on disk first."""
    return run.model_blocks(self.num_models, self.models_per_block)
