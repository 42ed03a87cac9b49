"""Which alpha counts as a hit: chosen on other models, or by the control."""

import numpy as np

from jaxdiff.attacks.extraction import hits, precision


def natural_duplicates(
  neighbours: dict[str, np.ndarray], groups: np.ndarray, near: float
) -> int:
  """Distinct control images that samples of one target are near-duplicates of.

  Args:
    neighbours: HALF_distance and HALF_index [S, k] for both halves.
    groups: int [N] near-duplicate groups.
    near: distance of near-duplicates.
  """
  control = neighbours['control_distance'][:, 0]
  close = (control <= near) & (control <= neighbours['training_distance'][:, 0])
  return len(np.unique(groups[neighbours['control_index'][close, 0]]))


def choose_alpha(
  counts: np.ndarray, num_training: int, num_control: int, wanted: float
) -> float:
  """Largest of ALPHAS that surely keeps a precision on some targets.

  Surely: by the lower end of the interval. Taking the largest of many alphas
  whose *measured* precision suffices would pick lucky ones, and fall short on
  the next target about every second time.

  Args:
    counts: H and C at each of ALPHAS, summed over targets: [2, A].
    num_training: training images, summed likewise.
    num_control: control images.
    wanted: precision.

  Returns:
    alpha, or 0 (nothing hits) if there is none.
  """
  for alpha, extracted, control in zip(
    hits.ALPHAS[::-1], *counts[:, ::-1], strict=True
  ):
    counted = precision.Counts(
      int(extracted), int(control), num_training, num_control
    )
    if precision.surely(counted, wanted):
      return float(alpha)
  return 0.0


def controlled_alpha(
  counts: np.ndarray,
  num_training: int,
  num_control: int,
  wanted: float,
  most: float,
  natural: int,
) -> float:
  """Largest of ALPHAS at which a target hits hardly any control image.

  An image that is hit by accident was trained on with the odds of N to M,
  whatever its ratio: before the next control image after C of them (C + 1) N /
  M are expected, which must be few beside H (Barber & Candes 2015; Janson & Su
  2016). C is 0, unless samples are near-duplicates of control images: a source
  that repeats itself does so on both sides, and these are put up with.

  Args:
    counts: H and C of the target at each of ALPHAS: [2, A].
    num_training: N.
    num_control: M.
    wanted: precision.
    most: alpha that is not exceeded.
    natural: control images that samples are near-duplicates of.

  Returns:
    alpha, or 0 (nothing hits) where H is too small.
  """
  extracted, control = counts
  clear = np.flatnonzero((control <= natural) & (most + 1e-9 >= hits.ALPHAS))
  if not len(clear):
    return 0.0
  expected = (control[clear[-1]] + 1) * num_training / num_control
  # The tolerance lets 1 of 20 count as 0.05.
  if extracted[clear[-1]] * (1.0 - wanted) < expected - 1e-9:
    return 0.0
  return float(hits.ALPHAS[clear[-1]])
