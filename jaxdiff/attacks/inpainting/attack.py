"""Inpainting: a model that trained on an image fills in what is hidden of it.

Carlini et al. (2023), section 5.3. Models 2j and 2j + 1 are attacked on images
that exactly one of them trained on, with the same noise. Each draws many
inpaintings of each image (`diffusion/repaint.py`), and they are judged by

(1)  ratio = loss of the target / mean loss of the shadow models

of the inpainting at one timestep, where shadow models are those of other pairs
that did not train on the image. (The paper has one; with several, the mean.)
The smallest ratios are kept, and the result is their mean distance (RMSE) to
the original: small for the model that trained on it (paper, figure 13).

Inpaintings are stored as 8-bit images and judged as such.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import masks
from jaxdiff.runs import layout
from jaxdiff.runtime import prng

# Rows of evidence a file, at most, unless one image has more.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class InpaintingPlan:
  """All that the attack needs; made by `plans`.

  Attributes:
    inpaint_fn: (params, x0, known, labels, keys) -> x0 [B, H, W, C].
    loss_fn: (params, x0, labels, keys) -> loss [B].
    restore: (block, mesh) -> params of the block, [K, ...] along 'ensemble'.
    images: uint8 [N, H, W, C].
    labels: int32 [N], or None for unconditional nets.
    keep: bool [K, N].
    seed: of the choice of images, masks and noise.
    models_per_block: models that share a checkpoint.
    num_images: that each pair of models is attacked on; 0 leaves it out.
    masks: names of MASKS.
    draws: inpaintings of each image, by each of its two models.
    kept: those with the smallest ratios, whose distance counts.
    batch_size: inpaintings of a model at a time, over its devices.
    settings: how they are drawn and judged, for the reader of a table.
    devices_per_model: devices that share a model; 0 chooses.
  """

  inpaint_fn: Callable[..., jax.Array]
  loss_fn: Callable[..., jax.Array]
  restore: Callable[[layout.ModelBlock, Mesh], Any]
  images: np.ndarray
  labels: np.ndarray | None
  keep: np.ndarray
  seed: int
  models_per_block: int
  num_images: int
  masks: tuple[str, ...]
  draws: int
  kept: int
  batch_size: int
  settings: dict[str, Any]
  devices_per_model: int = 0

  @property
  def rows_per_image(self) -> int:
    return len(self.masks) * self.draws

  @property
  def rows(self) -> int:
    """Inpaintings of one model."""
    return self.num_images * self.rows_per_image

  @property
  def block_size(self) -> int:
    """Inpaintings a file: whole images, equally many."""
    fitting = [
      count
      for count in range(1, self.num_images + 1)
      if self.num_images % count == 0 and count * self.rows_per_image <= _BLOCK
    ]
    return max(fitting, default=1) * self.rows_per_image


def attacked(plan: InpaintingPlan) -> np.ndarray:
  """Images that each pair is attacked on: int [K / 2, num_images].

  Pairs take turns in one random order, so that few images or none come twice.

  Raises:
    InputError: if there are not enough that one of the two trained on.
  """
  num_examples = len(plan.images)
  order = prng.rng(plan.seed, 'inpainting').permutation(num_examples)
  chosen = []
  for pair in range(len(plan.keep) // 2):
    first, second = plan.keep[2 * pair : 2 * pair + 2]
    turned = np.roll(order, -pair * plan.num_images)
    own = turned[(first != second)[turned]][: plan.num_images]
    if len(own) < plan.num_images:
      raise inputs.InputError(
        f'inpainting.num_images: {plan.num_images} asked, but models '
        f'{2 * pair} and {2 * pair + 1} differ in {len(own)} images'
      )
    chosen.append(own)
  return np.array(chosen)


def shadows(plan: InpaintingPlan, model: int, index: int) -> np.ndarray:
  """Models of other pairs that did not train on an image."""
  out = ~plan.keep[:, index]
  out[model // 2 * 2 : model // 2 * 2 + 2] = False
  return np.flatnonzero(out)


def check(plan: InpaintingPlan) -> None:
  """Raises InputError if the run's models cannot be attacked this way."""
  if len(plan.keep) < 4 or len(plan.keep) % 2:
    raise inputs.InputError(
      'inpainting.num_images: needs an even num_models of at least 4, two to '
      f'attack and others as shadow models, not {len(plan.keep)}; 0 leaves '
      'inpainting out'
    )
  for pair, chosen in enumerate(attacked(plan)):
    for index in chosen:
      if not len(shadows(plan, 2 * pair, index)):
        raise inputs.InputError(
          f'inpainting.num_images: every model trained on image {index}, none '
          'is left as its shadow model; raise num_models'
        )


def known_pixels(plan: InpaintingPlan, mask: int, index: int) -> np.ndarray:
  """bool [H, W, 1] of one image."""
  rng = prng.rng(plan.seed, 'inpainting', mask, index)
  return masks.MASKS[plan.masks[mask]](plan.images.shape[1:], rng)[..., None]
