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
import numpy as np

from jaxdiff import inputs
from jaxdiff.attacks.inpainting import masks
from jaxdiff.data import examples as examples_lib
from jaxdiff.runs import ensemble as ensemble_lib
from jaxdiff.runtime import prng

# Rows of evidence a file, at most, unless one image has more.
_BLOCK = 4096


@dataclasses.dataclass(frozen=True)
class InpaintingPlan:
  """All that the attack needs; made by `plans`.

  Attributes:
    inpaint_fn: (params, x0, known, cond, keys) -> x0 [B, H, W, C].
    loss_fn: (params, x0, cond, keys) -> loss [B].
    examples: the images, and which model trained on which.
    ensemble: the models; its seed is that of the choice of images, masks and
      noise.
    num_images: that each pair of models is attacked on; 0 leaves it out.
    masks: names of MASKS.
    draws: inpaintings of each image, by each of its two models.
    kept: those with the smallest ratios, whose distance counts.
    batch_size: inpaintings of a model at a time, over its devices.
    settings: how they are drawn and judged, for the reader of a table.
  """

  inpaint_fn: Callable[..., jax.Array]
  loss_fn: Callable[..., jax.Array]
  examples: examples_lib.Examples
  ensemble: ensemble_lib.Ensemble
  num_images: int
  masks: tuple[str, ...]
  draws: int
  kept: int
  batch_size: int
  settings: dict[str, Any]

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
  num_examples = len(plan.examples)
  order = prng.rng(plan.ensemble.seed, 'inpainting').permutation(num_examples)
  chosen = []
  for pair in range(plan.examples.num_models // 2):
    first, second = plan.examples.keep[2 * pair : 2 * pair + 2]
    turned = np.roll(order, -pair * plan.num_images)
    differing = turned[(first != second)[turned]][: plan.num_images]
    if len(differing) < plan.num_images:
      raise inputs.InputError(
        f'inpainting.num_images: {plan.num_images} asked, but models '
        f'{2 * pair} and {2 * pair + 1} differ in {len(differing)} images'
      )
    chosen.append(differing)
  return np.array(chosen)


def shadows(plan: InpaintingPlan, model: int, index: int) -> np.ndarray:
  """Models of other pairs that did not train on an image."""
  out = ~plan.examples.keep[:, index]
  out[model // 2 * 2 : model // 2 * 2 + 2] = False
  return np.flatnonzero(out)


def check(plan: InpaintingPlan) -> None:
  """Raises InputError if the run's models cannot be attacked this way."""
  if plan.examples.num_models < 4 or plan.examples.num_models % 2:
    raise inputs.InputError(
      'inpainting.num_images: needs an even num_models of at least 4, two to '
      f'attack and others as shadow models, not {plan.examples.num_models}; '
      '0 leaves inpainting out'
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
  rng = prng.rng(plan.ensemble.seed, 'inpainting', mask, index)
  return masks.MASKS[plan.masks[mask]](plan.examples.images.shape[1:], rng)[
    ..., None
  ]
