"""How good the samples are, beside what they give away: quality.csv.

The Frechet distance FD-PCA (`metrics.frechet`) of each model's samples to the
images it was trained on, and to its control half; beside them that of the two
halves to each other, which is what a perfect generator would reach. Samples
nearer to the training half than to the control half are a sign of copying; a
weak one, since the features were fitted on the training half.
"""

import dataclasses

import numpy as np
import pandas as pd

from jaxdiff import progress, runs
from jaxdiff.metrics import frechet

COLUMNS = ('model', 'metric', 'reference', 'value', 'low', 'high',
           'num_samples', 'num_reference')  # fmt: skip


@dataclasses.dataclass(frozen=True)
class QualityPlan:
  """All that the distances need.

  Attributes:
    images: uint8 [N, H, W, C], all examples.
    labels: int32 [N].
    keep: bool [K, N], which model trained on which.
    num_samples: of each model.
    block_size: samples a file.
    num_resamples: of the bootstrap.
    seed: of it.
  """

  images: np.ndarray
  labels: np.ndarray
  keep: np.ndarray
  num_samples: int
  block_size: int
  num_resamples: int
  seed: int


def measure(plan: QualityPlan, run: runs.Run) -> None:
  """Writes quality.csv from the samples."""
  rows = []
  with progress.track('quality', len(plan.keep), 'models') as advance:
    for model, keep in enumerate(plan.keep):
      rows += _of_model(plan, run, model, keep)
      advance(1)
  runs.write_csv(run.quality, pd.DataFrame(rows, columns=COLUMNS))


def _of_model(
  plan: QualityPlan, run: runs.Run, model: int, keep: np.ndarray
) -> list[tuple]:
  features = frechet.PcaLogits(plan.images[keep], plan.labels[keep])
  samples = runs.read_rows(
    run.samples, model, plan.num_samples, plan.block_size, ('images', 'indices')
  )['images']
  made = features(samples)
  training, control = (features(plan.images[half]) for half in (keep, ~keep))
  out = []
  for name, one, two in (
    ('training', made, training),
    ('control', made, control),
    ('halves', control, training),
  ):
    if min(len(one), len(two)) < 2:
      continue
    numbers = frechet.with_interval(one, two, plan.num_resamples, plan.seed)
    out.append((model, 'fd_pca', name, *numbers, len(one), len(two)))
  return out
