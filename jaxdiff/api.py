"""The library: attacks and statistics on arrays of one's own.

    import jaxdiff

    scores = jaxdiff.lira(losses, keep)             # [K, N]
    found = jaxdiff.roc(scores, keep)
    found['auc'].value, found['auc'].low, found['auc'].high

Nothing here reads a config, a flag or a folder. Errors name arguments.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import cliques, duplicates, hits, neighbours
from jaxdiff.attacks.extraction import precision as extraction_precision
from jaxdiff.attacks.membership import lira as lira_lib
from jaxdiff.attacks.membership import rmia as rmia_lib
from jaxdiff.diffusion import samplers, schedules
from jaxdiff.metrics import bootstrap, tiled_distance
from jaxdiff.metrics import roc as roc_lib
from jaxdiff.nearest import index, tiled

nearest_neighbors = index.nearest
make_schedule = schedules.make
sample = samplers.sample
tile_graph = tiled_distance.tile_graph
largest_clique = cliques.largest_clique


def lira(
  signals: np.ndarray,
  keep: np.ndarray,
  *,
  left_out: np.ndarray | None = None,
  variance: str = 'pooled',
  online: bool = True,
) -> np.ndarray:
  """LiRA (Carlini et al. 2022), every model a target in its turn.

  Args:
    signals: [K, N] or [K, N, Q], such as the loss of K models on N examples.
    keep: bool [K, N]: model k trained on example n.
    left_out: int [K]: models with the target's number are none of its shadow
      models. None: the target alone, and, where it is the next or the one
      before, the model that trained on exactly the other examples.
    variance: 'pooled', 'per_example' or 'shrunken'.
    online: use models that trained on the example, too.

  Returns:
    Scores of the shape of `signals`, larger = more likely a member; NaN where
    fewer than two shadow models are left on a side.

  Raises:
    ValueError: naming the argument.

  >>> import numpy as np
  >>> rng = np.random.default_rng(0)
  >>> keep = rng.random((8, 100)) < 0.5
  >>> losses = rng.normal(size=(8, 100)) - 2.0 * keep
  >>> round(roc(lira(losses, keep), keep)['auc'].value, 1)
  0.9
  """
  signals, keep, left_out = _checked(signals, keep, left_out)
  scores = lira_lib.lira(
    signals.reshape(*keep.shape, -1),
    keep,
    left_out,
    variance=variance,
    online=online,
  )
  return scores.reshape(signals.shape)


def rmia(
  signals: np.ndarray,
  keep: np.ndarray,
  *,
  left_out: np.ndarray | None = None,
  gamma: float = 1.0,
  online: bool = True,
  offline_a: float = 0.3,
) -> np.ndarray:
  """RMIA (Zarifzadeh et al. 2024), every model a target in its turn.

  Args:
    signals: losses, as `lira`.
    keep: as `lira`.
    left_out: as `lira`.
    gamma: how many times likelier x must be made than another example.
    online: as `lira`.
    offline_a: a of the offline probability.

  Returns:
    Scores in [0, 1] of the shape of `signals`; NaN as `lira`.

  Raises:
    ValueError: naming the argument.
  """
  signals, keep, left_out = _checked(signals, keep, left_out)
  scores = rmia_lib.rmia(
    signals.reshape(*keep.shape, -1),
    keep,
    left_out,
    gamma=gamma,
    online=online,
    offline_a=offline_a,
  )
  return scores.reshape(signals.shape)


class Value(NamedTuple):
  """A statistic with its 95 % intervals.

  Attributes:
    value: of these rows.
    low: of these models on new examples.
    high: likewise.
    low_models: of newly trained models on new examples; NaN for one model.
    high_models: likewise.
  """

  value: float
  low: float
  high: float
  low_models: float
  high_models: float


def roc(
  scores: np.ndarray,
  keep: np.ndarray,
  *,
  left_out: np.ndarray | None = None,
  examples: np.ndarray | None = None,
  fprs: tuple[float, ...] = roc_lib.FPRS,
  num_resamples: int = 1000,
  seed: int = 0,
) -> dict[str, Value]:
  """AUC, and TPR at low FPR, with intervals (docs/statistics.md).

  Args:
    scores: [K, N] of K models on N examples, or [N] of one; NaNs are left out.
    keep: bool, same shape: what is a member.
    left_out: int [K], as `lira`: models that are no independent ones.
    examples: int [N]; of equal number are one example. None: all differ.
    fprs: false-positive rates.
    num_resamples: of the bootstrap.
    seed: of it.

  Returns:
    'auc' and 'tpr@fpr=x' -> Value; NaNs for a rate that there are fewer than
    2 / x distinct non-members for.

  Raises:
    ValueError: for unequal shapes, or without members or non-members.

  >>> import numpy as np
  >>> scores = np.array([3.0, 2.0, 1.0, 0.0])
  >>> roc(scores, scores > 1.5, fprs=())['auc'].value
  1.0
  """
  scores, keep = np.atleast_2d(scores), np.atleast_2d(keep).astype(bool)
  _, _, left_out = _checked(scores, keep, left_out)
  if examples is None:
    examples = np.arange(keep.shape[1])
  usable = np.isfinite(scores)
  found = bootstrap.of_roc(
    scores[usable],
    keep[usable],
    np.broadcast_to(examples, keep.shape)[usable],
    np.broadcast_to(left_out[:, None], keep.shape)[usable],
    num_resamples=num_resamples,
    seed=seed,
    fprs=fprs,
  )
  return {name: Value(*numbers) for name, numbers in found.items()}


class Extraction(NamedTuple):
  """What generated images give away (attacks/extraction/hits.py).

  Attributes:
    matches: a row a training or control image that some generated image hits:
      half, index (into its own set), generated, distance (RMSE), ratio.
    extracted: H, distinct training images hit.
    control: C, distinct control images hit by the same rule.
    precision: estimated share of the H that some image copies; NaN if H is 0.
    low: of the precision, 95 %.
    high: likewise.
  """

  matches: pd.DataFrame
  extracted: int
  control: int
  precision: float
  low: float
  high: float


def extract(
  generated: np.ndarray,
  training: np.ndarray,
  control: np.ndarray,
  *,
  alpha: float = 0.5,
  num_neighbours: int = 50,
  duplicate_distance: float = 0.02,
  flip: bool = False,
  tiles: int = 0,
) -> Extraction:
  """Training images that generated ones give away, held against a control.

  The paper's rule (section 5.1): a generated image hits its nearest image when
  it is nearer than alpha times the mean distance to the n nearest. Training and
  control images compete for it.

  Args:
    generated: uint8 [S, H, W, C].
    training: uint8 [N, H, W, C].
    control: uint8 [M, H, W, C], drawn as the training images were, and never
      trained on; about as many.
    alpha: smaller is surer.
    num_neighbours: n, distinct images.
    duplicate_distance: RMSE; images as near as this are one image.
    flip: a mirror image is as good.
    tiles: along each side, 4 in the paper for large pictures (section 4.2):
      images are as far apart as the farthest of their tiles. 0 compares whole
      images.

  Raises:
    ValueError: naming the argument.
  """
  for name, images in (
    ('generated', generated), ('training', training), ('control', control),
  ):  # fmt: skip
    if images.dtype != np.uint8 or images.ndim != 4 or not len(images):
      raise ValueError(f'{name}: wants uint8 [n, H, W, C]')
    if images.shape[1:] != training.shape[1:]:
      raise ValueError(
        f'{name}: {images.shape[1:]} is not {training.shape[1:]}'
      )
  if tiles:
    try:
      tiled.check_shape(training.shape[1:], tiles)
    except ValueError as error:
      raise ValueError(f'tiles: {error}') from error
  images = np.concatenate([training, control])
  group = duplicates.groups(images, duplicate_distance, flip, tiles)
  keep = np.arange(len(images)) < len(training)
  shared = np.isin(group, group[keep]) & ~keep
  if shared.any():
    raise ValueError(
      f'control: {shared.sum()} images are copies of training images within '
      f'duplicate_distance ({duplicate_distance}); leave them out'
    )
  fewest = min(len(np.unique(group[mask])) for mask in (keep, ~keep))
  if not 2 <= num_neighbours <= fewest:
    raise ValueError(
      f'num_neighbours: {num_neighbours} is not within 2 .. {fewest}, the '
      'distinct images of the smaller set'
    )
  found = {}
  for half, mask in zip(hits.HALVES, (keep, ~keep), strict=True):
    found[f'{half}_distance'], found[f'{half}_index'] = (
      neighbours.nearest_images(
        generated,
        duplicates.index_of(images[mask], tiles),
        np.flatnonzero(mask),
        num_neighbours,
        flip,
        group,
      )
    )
  rows = []
  for half, ratio in hits.compete(found, num_neighbours).items():
    which = np.flatnonzero(ratio < np.float32(alpha))
    nearest_of = found[f'{half}_index'][which, 0]
    table = pd.DataFrame({
      'half': half,
      'index': nearest_of - (len(training) if half == 'control' else 0),
      'generated': which,
      'distance': found[f'{half}_distance'][which, 0],
      'ratio': ratio[which],
      'group': group[nearest_of],
    })  # fmt: skip
    table = table.sort_values(['ratio', 'generated'])
    rows.append(table.drop_duplicates('group').drop(columns='group'))
  collected = hits.collect_hits(found, group, keep, num_neighbours)
  counted = hits.tally(collected, alpha).counts
  return Extraction(
    pd.concat(rows, ignore_index=True),
    counted.extracted,
    counted.control,
    extraction_precision.precision(counted),
    *extraction_precision.precision_interval(counted),
  )


def _checked(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Arrays of the shapes that belong together, and which models do."""
  signals, keep = np.asarray(signals), np.asarray(keep, bool)
  if keep.ndim != 2 or signals.shape[:2] != keep.shape or signals.ndim > 3:
    raise ValueError(
      f'signals {signals.shape} and keep {keep.shape} must be [K, N] or '
      '[K, N, Q], and [K, N]'
    )
  if left_out is None:
    left_out = np.arange(len(keep))
    for model in range(1, len(keep)):
      apart = left_out[model - 1] == model - 1
      if apart and (keep[model] == ~keep[model - 1]).all():
        left_out[model] = model - 1
  left_out = np.asarray(left_out)
  if left_out.shape != keep.shape[:1]:
    raise ValueError(f'left_out: {left_out.shape} must be {keep.shape[:1]}')
  return signals, keep, left_out
