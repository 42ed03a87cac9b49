"""Clusters of a model's own samples, which stand for classes."""

from etils import epy
import numpy as np

with epy.lazy_imports():  # slow to import, not always needed
  from sklearn import cluster, decomposition

_COMPONENTS = 50


def clusters_of(
  samples: np.ndarray, num_clusters: int, cohesion: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
  """k-means on principal components of samples.

  Args:
    samples: uint8 [S, H, W, C].
    num_clusters: at most this many.
    cohesion: mean cosine, within a cluster, of samples to the centre.
    seed: of the start.

  Returns:
    int32 [S] the cluster of each sample, and int32 [kept] the numbers of those
    that hold together; all if none does.
  """
  flat = samples.reshape(len(samples), -1) / 255.0
  components = min(_COMPONENTS, *flat.shape)
  found = decomposition.PCA(components, random_state=seed).fit_transform(flat)
  made = cluster.KMeans(
    min(num_clusters, len(samples)), n_init=4, random_state=seed
  ).fit(found)
  centres = made.cluster_centers_[made.labels_]
  cosine = (found * centres).sum(axis=1) / np.maximum(
    np.linalg.norm(found, axis=1) * np.linalg.norm(centres, axis=1), 1e-12
  )
  sizes = np.bincount(made.labels_, minlength=num_clusters)
  held = np.bincount(made.labels_, cosine, num_clusters) / np.maximum(sizes, 1)
  kept = np.flatnonzero((held >= cohesion) & (sizes > 0))
  if not len(kept):
    kept = np.flatnonzero(sizes)
  return made.labels_.astype(np.int32), kept.astype(np.int32)
