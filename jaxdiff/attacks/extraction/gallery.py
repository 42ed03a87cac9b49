"""The samples that are nearest to training images, for people to look at."""

import numpy as np
import pandas as pd

from jaxdiff.attacks.extraction import hits as hits_lib

_GALLERY = 6

_GALLERY_NEIGHBOURS = 4


def matches(
  neighbours: dict[str, np.ndarray],
  groups: np.ndarray,
  num_neighbours: int,
  alpha: float,
  near: float = 0.0,
) -> pd.DataFrame:
  """One row a distinct image that some sample hits, training and control.

  Columns: half, index (image), sample (its nearest), distance (RMSE), ratio
  (equation 1), hits (samples that hit it or a duplicate); most convincing
  first. By the rules of `hits`: as many rows as it counts.
  """
  tables = []
  ratios = hits_lib.compete(neighbours, num_neighbours, near)
  hits = hits_lib.hit_by_sample(neighbours, groups, num_neighbours, alpha, near)
  for half, group in hits.items():
    found = neighbours[f'{half}_distance']
    table = pd.DataFrame(
      {
        'half': half,
        'index': neighbours[f'{half}_index'][:, 0],
        'sample': np.arange(len(found)),
        'distance': found[:, 0],
        'ratio': ratios[half],
        'group': group,
      }
    )[group >= 0].sort_values(['ratio', 'sample'], kind='stable')
    table['hits'] = table.groupby('group')['group'].transform('size')
    tables.append(table.drop_duplicates('group').drop(columns='group'))
  return pd.concat(tables, ignore_index=True)


def gallery(
  neighbours: dict[str, np.ndarray],
  num_neighbours: int,
  alpha: float,
  near: float = 0.0,
) -> pd.DataFrame:
  """Samples that hit nothing, for the eye (paper, figures 2 and 6).

  near_miss: smallest distances to a training image without a hit: near, but
  near to many. novel: largest ratios, about equally far from all neighbours.

  Columns: kind, sample, rank (0 is the nearest), index (image), distance,
  ratio; the _GALLERY_NEIGHBOURS nearest of _GALLERY samples a kind, of
  different nearest images.
  """
  found, index = neighbours['training_distance'], neighbours['training_index']
  # Of either half: what is nearer to the control is no hit.
  both = hits_lib.compete(neighbours, num_neighbours, near)
  ratio, of_training = np.minimum(*both.values()), both['training']
  misses = np.flatnonzero(of_training >= np.float32(alpha))
  rows = []
  for kind, order in (
    ('near_miss', misses[np.argsort(found[misses, 0], kind='stable')]),
    ('novel', misses[np.argsort(-ratio[misses], kind='stable')]),
  ):
    first = np.sort(np.unique(index[order, 0], return_index=True)[1])
    rows += [
      (kind, sample, rank, index[sample, rank], found[sample, rank],
       ratio[sample])
      for sample in order[first[:_GALLERY]]
      for rank in range(min(_GALLERY_NEIGHBOURS, found.shape[1]))
    ]  # fmt: skip
  return pd.DataFrame(
    rows, columns=['kind', 'sample', 'rank', 'index', 'distance', 'ratio']
  )
