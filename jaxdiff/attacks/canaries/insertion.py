"""Canaries: images of uniform noise that some models train on, some times.

Carlini et al. (2023), section 7.3. Each model has canaries of its own, so that
models are independent repetitions:

* `per_count` for each number of copies in `counts`, and for none at all;
* 2 x `coins` more, each of which a fair coin puts into the training set, once,
  or leaves out: what an audit of one training run needs (Steinke et al. 2023);
* a pool that no model trains on, to rank the others in.
"""

import dataclasses

import numpy as np

from jaxdiff.runtime import prng


@dataclasses.dataclass(frozen=True)
class Canaries:
  """Canaries of all models, and who trains on which.

  Attributes:
    images: uint8 [S, M, H, W, C]; M canaries of each of S models.
    labels: int32 [S, M], drawn at random.
    copies: int [S, M] in the training set of the model whose canary it is.
    coin: bool [M], those that a coin put in or left out.
    pool: bool [M], those to rank the others in.
  """

  images: np.ndarray
  labels: np.ndarray
  copies: np.ndarray
  coin: np.ndarray
  pool: np.ndarray

  def inserted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every copy: images [R, H, W, C], labels [R], the model it is for [R]."""
    model, number = np.nonzero(self.copies)
    model, number = (
      np.repeat(x, self.copies[model, number]) for x in (model, number)
    )
    return self.images[model, number], self.labels[model, number], model


def make(
  seed: int,
  num_models: int,
  image_shape: tuple[int, int, int],
  num_classes: int,
  *,
  counts: tuple[int, ...],
  per_count: int,
  coins: int,
  pool: int,
) -> Canaries:
  """Canaries of the first `num_models`; more of them leave these as they are.

  Args:
    seed: of the run.
    num_models: S.
    image_shape: (H, W, C).
    num_classes: of the labels.
    counts: numbers of copies.
    per_count: canaries of each model with each of them.
    coins: half as many canaries as coins decide on.
    pool: canaries to rank in.
  """
  planted = per_count * (1 + len(counts))
  copies = np.repeat(
    [0, *counts, 0, 0], [per_count] * (1 + len(counts)) + [2 * coins, pool]
  )
  coin = np.zeros(len(copies), bool)
  coin[planted : len(copies) - pool] = True
  in_pool = np.arange(len(copies)) >= len(copies) - pool
  images, labels, every = [], [], []
  for model in range(num_models):
    rng = prng.rng(seed, 'canaries', model)
    images.append(
      rng.integers(0, 256, (len(copies), *image_shape), dtype=np.uint8)
    )
    labels.append(rng.integers(0, num_classes, len(copies), dtype=np.int32))
    every.append(np.where(coin, rng.integers(0, 2, len(copies)), copies))
  return Canaries(
    np.stack(images), np.stack(labels), np.stack(every), coin, in_pool
  )
