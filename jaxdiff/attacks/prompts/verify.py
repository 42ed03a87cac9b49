"""Are prompts that were called memorised copies of training images?

The image of each clique that is nearest to the others is compared with the
training images of its model (l2 <= 0.15, paper, section 4.2) and, by the same
rule, with images that the model did not train on: the control that no other
image by prompt has.
"""

import dataclasses

import numpy as np
import pandas as pd
from PIL import Image

from jaxdiff.attacks.extraction import annotations, eidetic, precision
from jaxdiff.attacks.prompts import images as images_lib
from jaxdiff.attacks.prompts import paths, stream
from jaxdiff.data import captions
from jaxdiff.data import examples as examples_lib
from jaxdiff.nearest import index
from jaxdiff.runs import files, layout

COLUMNS = (
  'rank', 'model', 'number', 'id', 'prompt', 'trained', 'copies', 'clique_size',
  'num_images', 'mean_distance', 'least_tau', 'p_value', 'medoid', 'nearest',
  'distance', 'own_distance', 'control', 'control_distance', 'extracted',
  'control_hit', 'eidetic', 'memorised',
)  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class VerifyPlan:
  """All that verifying needs; made by `plans`.

  Attributes:
    examples: images, of which the models trained on some, with captions.
    stream: what was generated.
    ids: of its prompts.
    distance: largest, of a copy (RMSE).
    eidetic_distance: training images so near to a copied one are its copies.
    eidetic_shift: pixels that these may be moved by.
  """

  examples: examples_lib.Examples
  stream: stream.StreamPlan
  ids: tuple[str, ...]
  distance: float
  eidetic_distance: float
  eidetic_shift: int


def verify(plan: VerifyPlan, run: layout.Run) -> None:
  """Writes the table of verified prompts, and the precision by it."""
  table = files.read_csv(paths.Paths(run).table)
  # Those called memorised, the surest first, whichever model's.
  table = table[table['found'] > 0].reset_index(drop=True)
  table['rank'] = np.arange(1, len(table) + 1)
  # What a spreadsheet would take for more than text is another text there.
  numbers = table['number'].astype(int)
  table['prompt'] = [plan.stream.prompted.texts[k] for k in numbers]
  table['id'] = [plan.ids[k] for k in numbers]
  rows_of: dict[str, list[int]] = {}
  for row, text in enumerate(plan.examples.captions):
    rows_of.setdefault(captions.plain(text), []).append(row)
  parts = [
    _of_model(plan, run, int(model), part, rows_of)
    for model, part in table.groupby('model')
  ]
  found = pd.concat([pd.DataFrame(columns=COLUMNS), *parts])
  found = found.sort_values('rank', kind='stable')
  said = annotations_of(plan, run)
  if said is not None and len(found):
    found = found.drop(columns='memorised').merge(
      said, on=['model', 'number'], how='left'
    )
  files.write_csv(paths.Paths(run).verified, found[list(COLUMNS)])
  files.write_csv(paths.Paths(run).precision, summary(plan, found))


def annotations_of(plan: VerifyPlan, run: layout.Run) -> pd.DataFrame | None:
  """What a person said of cliques, if they did: model, number, memorised.

  Raises:
    InputError: naming the line that is not what it should be.
  """
  path = paths.Paths(run).annotations
  if not path.exists():
    return None
  drawn = plan.stream.prompted
  return annotations.read_verdicts(
    path, {'model': drawn.ensemble.num_models, 'number': len(drawn.texts)}
  )


def check(plan: VerifyPlan, run: layout.Run) -> None:
  """Raises InputError for verdicts in the folder that are none."""
  annotations_of(plan, run)


def _of_model(
  plan: VerifyPlan,
  run: layout.Run,
  model: int,
  part: pd.DataFrame,
  rows_of: dict[str, list[int]],
) -> pd.DataFrame:
  """Columns of the prompts of one model; examples by their plain captions."""
  examples = plan.examples
  size, channels = examples.shape[0], examples.shape[2]
  queries = np.stack(
    [
      _picture(run, model, row.number, row.medoid, size, channels)
      for row in part.itertuples()
    ]
  )
  out = part.copy()
  for half, keep in (
    (('nearest', 'distance'), examples.keep[model]),
    (('control', 'control_distance'), ~examples.keep[model]),
  ):
    rows = np.flatnonzero(keep)
    if not len(rows):
      out[half[0]], out[half[1]] = -1, np.nan
      continue
    distance, place = index.nearest(queries, examples.images[rows], 1)
    out[half[0]], out[half[1]] = rows[place[:, 0]], distance[:, 0]
  out['own_distance'] = [
    _own_distance(query, examples, model, rows_of.get(captions.plain(text), []))
    for query, text in zip(queries, out['prompt'], strict=True)
  ]
  out['extracted'] = (out['distance'] <= plan.distance).astype(int)
  out['control_hit'] = (out['control_distance'] <= plan.distance).astype(int)
  # Of what is copied, how many training images are copies of each other.
  out['eidetic'] = 0
  copied = out['extracted'] > 0
  if copied.any():
    out.loc[copied, 'eidetic'] = eidetic.counts(
      examples.images[out.loc[copied, 'nearest'].to_numpy(int)],
      examples.images[examples.keep[model]],
      plan.eidetic_distance,
      plan.eidetic_shift,
    )
  return out


def _own_distance(
  image: np.ndarray,
  examples: examples_lib.Examples,
  model: int,
  rows: list[int],
) -> float:
  """To the nearest training image of some examples; NaN if there is none."""
  trained = [row for row in rows if examples.keep[model, row]]
  if not trained:
    return np.nan
  gaps = (image.astype(np.float32) - examples.images[trained]) / 255.0
  return float(np.sqrt(np.square(gaps).mean(axis=(1, 2, 3))).min())


def _picture(
  run: layout.Run, model: int, number: int, seed: int, size: int, channels: int
) -> np.ndarray:
  """uint8 [size, size, C] of a generation that was kept."""
  path = paths.Paths(run).picture(model, number, seed)
  with path.open('rb') as file, Image.open(file) as picture:
    image = np.asarray(picture.convert('L' if channels == 1 else 'RGB'))
  image = image.reshape(1, *image.shape[:2], channels)
  return images_lib.resized(image, size)[0]


def summary(plan: VerifyPlan, found: pd.DataFrame) -> pd.DataFrame:
  """Distinct images, of training and control, over all models; one row."""
  examples = plan.examples
  counts = np.zeros(4, int)
  for model, keep in enumerate(examples.keep):
    part = found[found['model'] == model]
    for place, (column, hit) in enumerate(
      (('nearest', 'extracted'), ('control', 'control_hit'))
    ):
      rows = part.loc[part[hit] > 0, column].to_numpy(int)
      counts[place] += len(np.unique(examples.image[rows]))
    for place, half in ((2, keep), (3, ~keep)):
      counts[place] += len(np.unique(examples.image[half]))
  counted = precision.Counts(*counts.tolist())
  low, high = precision.precision_interval(counted)
  return pd.DataFrame(
    [
      {
        'prompts': len(found), 'extracted': counted.extracted,
        'control_hits': counted.control, 'num_training': counted.num_training,
        'num_control': counted.num_control,
        'precision': precision.precision(counted), 'low': low, 'high': high,
      }
    ]
  )  # fmt: skip
