"""The models of a run: how many there are, and how their weights come back."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from jaxdiff import inputs
from jaxdiff.runs import layout
from jaxdiff.runtime import mesh as mesh_lib


def _no_shapes() -> Any:
  raise ValueError('nobody said what weights these models have')


def _no_restore(block: layout.ModelBlock, mesh: Mesh) -> Any:
  del mesh
  raise ValueError(f'{block.path}: nobody said how to restore these models')


class Placement(NamedTuple):
  """Blocks of one size on some devices.

  Attributes:
    models: of the first of them.
    mesh: of each.
    slots: of all of them, which are worked on one after the other.
  """

  models: range
  mesh: Mesh
  slots: int

  @property
  def waiting(self) -> int:
    """Slots whose weights lie on the devices while another is worked on."""
    return mesh_lib.num_slots(self.mesh, len(self.models)) - 1


@dataclasses.dataclass(frozen=True)
class Ensemble:
  """Independent models, in blocks that share a checkpoint.

  Attributes:
    seed: of everything that is drawn, folded by purpose, model and example.
    num_models: K.
    models_per_block: models that share a checkpoint.
    devices_per_model: devices that share a model; 0 chooses.
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    shapes: () -> tree of `jax.ShapeDtypeStruct`, of the params of one model.
  """

  seed: int
  num_models: int
  models_per_block: int
  devices_per_model: int = 0
  restore: Callable[[layout.ModelBlock, Mesh], Any] = _no_restore
  shapes: Callable[[], Any] = _no_shapes

  def placements(self, devices: Sequence[jax.Device]) -> list['Placement']:
    """How the blocks of a new run lie on devices.

    Blocks of one size share their programs; the last may be smaller.

    Raises:
      InputError: if `devices_per_model` does not go with the counts.
    """
    size, last = self.models_per_block, self.num_models % self.models_per_block
    kinds = [(0, size, self.num_models // size)]
    kinds.append((self.num_models - last, last, 1))
    out = []
    for first, number, count in kinds:
      if number and count:
        try:
          mesh = mesh_lib.make(number, list(devices), self.devices_per_model)
        except ValueError as error:
          raise inputs.InputError(str(error)) from error
        slots = count * mesh_lib.num_slots(mesh, number)
        out.append(Placement(range(first, first + number), mesh, slots))
    return out

  def blocks(self, run: layout.Run) -> list[layout.ModelBlock]:
    """The blocks of a run, those on disk first."""
    return run.model_blocks(self.num_models, self.models_per_block)
