"""GSA's verdict (Pang et al. 2025): a classifier of gradient norms.

(1)  on the logarithms of the squared gradient norms of all layers, trained on
     the shadow models, whose members are known, and applied to the target.
"""

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import (
    linear_model,
    pipeline,
    preprocessing,
  )


def gradient_classifier(
  signals: np.ndarray, keep: np.ndarray, left_out: np.ndarray
) -> np.ndarray:
  """Equation (1): squared norms [K, N, L] -> log-odds [K, N, 1].

  A group of models that are left out together has one classifier, trained on
  all others.
  """
  tiny = np.finfo(np.float32).tiny
  x = np.log(np.maximum(signals, tiny)).astype(np.float64)
  scores = np.empty((*keep.shape, 1), np.float64)
  for group in np.unique(left_out):
    rest = left_out != group
    # Newton's method: many rows, few columns.
    classifier = pipeline.make_pipeline(
      preprocessing.StandardScaler(),
      linear_model.LogisticRegression(
        C=0.1, solver='newton-cholesky', tol=1e-8
      ),
    ).fit(x[rest].reshape(-1, x.shape[2]), keep[rest].ravel())
    for model in np.flatnonzero(~rest):
      scores[model, :, 0] = classifier.decision_function(x[model])
  return scores
