"""How good the samples are, beside what they give away: quality.csv.

The Frechet distance FD-PCA (`metrics.frechet`) of each model's samples to the
images it was trained on, and to its control half; beside them that of the
control half to the training images. All three take equally many images on both
sides, without which the smaller number alone would make a distance larger.

The features were fitted on the training half; to them samples of a perfect
generator are what the control half is, unseen images of the same source. So it
would be as far from the training images as the control half is; samples that
are nearer are a sign of copying. Their distance to the control half, of two
unseen sets, has no such yardstick.

Where samples were asked for by label, a logistic regression on pixels learns
labels from them and is tried on the control half: the share that it gets right
(`accuracy`), beside that of one which learned from the training images
themselves. Samples that are noise, or of the wrong class, teach nothing
(DPImageBench, Gong et al. 2025, judges private generators so).

With Inception-v3's weights, which a user brings, the same three as FID. It
wants thousands of images on both sides.
"""

from collections.abc import Callable
import dataclasses
import hashlib

from etils import epy
import numpy as np
import pandas as pd
import threadpoolctl

from jaxdiff.data import examples as examples_lib
from jaxdiff.metrics import frechet, intervals
from jaxdiff.runs import blocks, files, layout
from jaxdiff.runtime import prng, progress

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import linear_model, pipeline, preprocessing

# Each distance of 2,048 features takes seconds: their spread is estimated from
# few resamples.
_FID_RESAMPLES = 10

# Samples that a classifier learns from at most: it is about labels, not counts.
_MOST_LEARNED = 4096

ACCURACY = 'accuracy'
# Share of the samples that equal no earlier one: 1 unless a model collapsed.
DISTINCT = 'distinct'
COLUMNS = ('model', 'metric', 'reference', 'value', 'low', 'high',
           'num_images', 'num_samples', 'num_reference')  # fmt: skip


class Paths(layout.Part):
  """How good the samples are."""

  quality = layout.File('quality.csv')


@dataclasses.dataclass(frozen=True)
class QualityPlan:
  """All that the distances need.

  Attributes:
    examples: the images, and which model trained on which.
    num_samples: of each model.
    block_size: samples a file.
    num_resamples: of the bootstrap.
    seed: of it.
    inception: images -> features [n, 2048] of FID; None without weights.
    labelled: whether samples were asked for by label.
  """

  examples: examples_lib.Examples
  num_samples: int
  block_size: int
  num_resamples: int
  seed: int
  inception: Callable[[np.ndarray], np.ndarray] | None = None
  labelled: bool = False


def measure(plan: QualityPlan, run: layout.Run) -> None:
  """Writes quality.csv from the samples."""
  rows = []
  inception = plan.inception
  real = None if inception is None else inception(plan.examples.images)
  with progress.track('quality', len(plan.examples.keep), 'models') as advance:
    for model, keep in enumerate(plan.examples.keep):
      named = ('images', 'indices', *(('labels',) if plan.labelled else ()))
      read = blocks.read_rows(
        run, run.samples, model, plan.num_samples, plan.block_size, named
      )
      samples = read['images']
      distinct = len({hashlib.sha256(image.data).digest() for image in samples})
      rows.append(
        (model, DISTINCT, 'samples', distinct / len(samples), np.nan, np.nan,
         len(samples), len(samples), 0)
      )  # fmt: skip
      if plan.labelled:
        rows += _accuracies(plan, model, samples, read['labels'], keep)
      features = frechet.PcaLogits(
        plan.examples.images[keep], plan.examples.labels[keep]
      )
      rows += _distances(
        plan, model, 'fd_pca', plan.num_resamples,
        features(samples), features(plan.examples.images), keep,
      )  # fmt: skip
      if inception is not None and real is not None:
        made = inception(samples)
        rows += _distances(plan, model, 'fid', _FID_RESAMPLES, made, real, keep)
      advance(1)
  files.write_csv(Paths(run).quality, pd.DataFrame(rows, columns=COLUMNS))


def _accuracies(
  plan: QualityPlan,
  model: int,
  samples: np.ndarray,
  labels: np.ndarray,
  keep: np.ndarray,
) -> list[tuple]:
  """What a classifier learns from samples, and from the training images."""
  images, truth = plan.examples.images, plan.examples.labels
  out: list[tuple] = []
  # Of the classes alone that were asked for.
  asked = np.isin(truth, np.unique(labels))
  keep, other = keep & asked, ~keep & asked
  if len(np.unique(labels)) < 2 or not other.any():
    return out
  for name, of, told in (
    ('control', samples[:_MOST_LEARNED], labels[:_MOST_LEARNED]),
    ('halves', images[keep][:_MOST_LEARNED], truth[keep][:_MOST_LEARNED]),
  ):
    if len(np.unique(told)) < 2:
      return []
    with threadpoolctl.threadpool_limits(1):
      classifier = pipeline.make_pipeline(
        preprocessing.StandardScaler(),
        linear_model.LogisticRegression(C=0.01, max_iter=200, tol=1e-3),
      ).fit(of.reshape(len(of), -1) / 255.0, told)
      tried = images[other]
      guess = classifier.predict(tried.reshape(len(tried), -1) / 255.0)
    right, count = int((guess == truth[other]).sum()), len(tried)
    low, high = intervals.binomial(right, count)
    out.append(
      (model, ACCURACY, name, right / count, low, high, count, len(of), count)
    )
  return out


def _distances(
  plan: QualityPlan,
  model: int,
  metric: str,
  num_resamples: int,
  made: np.ndarray,
  real: np.ndarray,
  keep: np.ndarray,
) -> list[tuple]:
  """Rows of one model, from features of its samples and of all examples."""
  out: list[tuple] = []
  size = min(len(made), int(keep.sum()), int((~keep).sum()))
  if size < 2:
    return out
  for number, (name, images, reference) in enumerate(
    (
      ('training', made, real[keep]),
      ('control', made, real[~keep]),
      ('halves', real[~keep], real[keep]),
    )
  ):
    rng = prng.rng(plan.seed, 'interval', model, number)
    with threadpoolctl.threadpool_limits(None if metric == 'fid' else 1):
      # In matrices as small as FD-PCA's, BLAS's threads wait for each other.
      numbers = frechet.with_interval(
        images, reference, size, num_resamples, rng, 1 if metric == 'fid' else 4
      )
    out.append(
      (model, metric, name, *numbers, size, len(images), len(reference))
    )
  return out
