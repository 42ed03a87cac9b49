"""Quantile regression: a threshold of its own for every image.

(1)  quantile (Bertran et al. 2023; Tang et al. 2024 for diffusion): regress the
     median and the lower quartile of the signal of *non-members* on the image;
     score = (median - s) / (median - lower quartile). No shadow model: it needs
     some images known not to be members. Predictions are cross-fitted: those
     for an image come from non-members in other folds.
"""

from etils import epy
import numpy as np
import threadpoolctl

from jaxdiff.attacks.membership import image_features

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import (
    ensemble,
    model_selection,
  )

_FOLDS = 5

_QUARTILES = (0.5, 0.25)

_TREES = {
  'max_iter': 40, 'max_leaf_nodes': 8, 'min_samples_leaf': 10,
  'early_stopping': False,
}  # fmt: skip


# Trees this small lose more by sharing threads than they gain.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def quantile(
  signals: np.ndarray,
  keep: np.ndarray,
  left_out: np.ndarray,
  *,
  images: np.ndarray,
  group: np.ndarray,
) -> np.ndarray:
  """Equation (1), each model by itself.

  Args:
    signals: [K, N, Q].
    keep: bool [K, N]; who is no member of a model trains its regression.
    left_out: not used: there are no shadow models.
    images: uint8 [N, H, W, C].
    group: int [N]: images of one group share a fold.

  Returns:
    [K, N, Q].
  """
  del left_out
  x = image_features.describe(images)
  scores = np.empty(signals.shape, np.float64)
  number = min(_FOLDS, len(np.unique(group)))
  folds = list(model_selection.GroupKFold(number).split(x, groups=group))
  for model, members in enumerate(keep):
    for q in range(signals.shape[2]):
      s = signals[model, :, q]
      for train, test in folds:
        known = train[~members[train]]
        median, lower = (
          ensemble.HistGradientBoostingRegressor(
            loss='quantile', quantile=level, random_state=0, **_TREES
          )
          .fit(x[known], s[known])
          .predict(x[test])
          for level in _QUARTILES
        )
        # Quartiles of few trees may meet or cross.
        spread = s[known].std()
        width = np.maximum(median - lower, 0.1 * spread)
        scores[model, test, q] = (median - s[test]) / width
  return scores
